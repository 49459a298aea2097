"""Numbers from callers and files, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdic_runtime.errors import ArgumentError


def finite_array(value: Any, what: str) -> np.ndarray:
    """`value` as a finite float32 array. Raises ArgumentError, naming it by `what`."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"its type is {array.dtype}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{what} is not an array of numbers ({error})") from error
    if not np.isfinite(array).all():
        raise ArgumentError(f"{what} holds NaN or infinite values; make it again")
    return array
