"""The TensorRT-RTX backend: what the TensorRT backend does, with engines that run on all RTX cards they were built for."""

from __future__ import annotations

from sdic_runtime.backends.tensorrt.backend import TensorRt, load_target, obstacle
from sdic_runtime.backends.tensorrt.engine_files import TARGETS
from sdic_runtime.bundle.bundle import Bundle

TARGET = TARGETS["tensorrt-rtx"]


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why TensorRT-RTX cannot be used here (with `bundle`); None when it can."""
    return obstacle(TARGET, bundle)


def load(
    bundle: Bundle, *, precision: str | None = None, device: int = 0, batch: int = 1, graphs: bool = True, warm_up: bool = True
) -> TensorRt:
    """The TensorRT-RTX engines of `bundle` for the GPU number `device`; see `sdic_runtime.backends.tensorrt.backend.load`."""
    return load_target(TARGET, bundle, precision, device, batch, graphs, warm_up)
