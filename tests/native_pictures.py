"""Pictures for libsdic, and how they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdic_runtime.bundle.manifest import first_schema

KEPT = first_schema()["keeps"]
CLOSE = {"rtol": 0, "atol": 2e-5}
DIRECTIONS, MOVES, PROGRAMS, TENSORS, LETTERS = range(5)


def draw(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, height, width, channels]).integers(0, 256, (height, width, channels), np.uint8)


def assert_same_pictures(native: Any, python: Any) -> None:
    """Largest difference 1 in 8 bits, and close before the rounding."""
    expected = np.stack([np.asarray(image) for image in python.images])
    got = native.pictures()
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(native.tensor("pixels"), python.pixels, **CLOSE)


THIRDS = ((0, 40), (40, 96), (96, 128))
