"""The TensorRT backend on a fake GPU, and what it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_gpu import DEVICE, PLACE, FakeLibrary

from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.backends.tensorrt.engine_files import find_engines
from sdic_runtime.bundle.bundle import Bundle

ALONE = "generator_head:rgb"


def opened(bundle: Bundle, library: FakeLibrary, graphs: bool = True) -> TensorRt:
    gpu: Any = library.gpu
    return TensorRt(bundle, PLACE, library, gpu, find_engines(bundle, PLACE), DEVICE, graphs)


def inverted(backend: TensorRt | OnnxRuntime, image: np.ndarray) -> dict[str, Any]:
    return backend.run_program("invert", {"image": backend.upload(image)})
