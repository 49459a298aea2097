"""The face models that come with this package (`models/`), as functions of pictures; see models/README.md for what they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.errors import FileError

MODELS = Path(__file__).parent / "models"
QUIET = 3  # ONNX Runtime's log level for errors only


@cache
def _session(name: str) -> Any:
    """One thread: the models take milliseconds, and a session without threads survives a fork."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    path = MODELS / f"{name}.onnx"
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own kinds for a missing and for a damaged file
        raise FileError(f"the face model {path} is missing or damaged; install sdic-toolkit again") from error


def run(name: str, pictures: np.ndarray, low: float = 0.0) -> list[np.ndarray]:
    """The outputs of model `name` for uint8 pictures [N, H, W, 3], which it takes as values from `low` to 1."""
    image = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)
    image *= np.float32((1 - low) / 255)
    image += np.float32(low)
    return _session(name).run(None, {"image": image})
