"""Runs SDIC bundles: a picture is inverted once and edited many times. Needs no PyTorch.

The names below load on first use, so that importing the package (and `sdic-run --help`) stays instant.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdic_runtime import faces
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.bundle.manifest import Manifest
    from sdic_runtime.directions import load_direction, save_direction
    from sdic_runtime.edits import CombinedEdit, Direction, Edit, GanSpaceEdit, Pca
    from sdic_runtime.errors import (
        ArgumentError,
        BackendError,
        BundleError,
        CheckpointError,
        FileError,
        MissingExtraError,
        OutOfMemoryError,
        PictureError,
        PictureWarning,
        SdicError,
    )
    from sdic_runtime.inversion import Edited, Inversion
    from sdic_runtime.pipeline import PictureResult, Pipeline

__version__ = "0.1.0"

# Else ONNX Runtime, from 1.29 on, reports models and times to its maker, and keeps files in the cache and the temporary folder. It reads
# this once, when it is imported; who wants the reports sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_ROOMS = ("faces",)  # modules that are part of the face
# Where the names come from that are not errors.
_MODULES = {
    "bundle.bundle": ("Bundle",),
    "bundle.manifest": ("Manifest",),
    "directions": ("load_direction", "save_direction"),
    "edits": ("CombinedEdit", "Direction", "Edit", "GanSpaceEdit", "Pca"),
    "inversion": ("Edited", "Inversion"),
    "pipeline": ("PictureResult", "Pipeline"),
}

__all__ = [
    "ArgumentError", "BackendError", "Bundle", "BundleError", "CheckpointError", "CombinedEdit", "Direction", "Edit", "Edited", "FileError",
    "GanSpaceEdit", "Inversion", "Manifest", "MissingExtraError", "OutOfMemoryError", "Pca", "PictureError", "PictureResult",
    "PictureWarning", "Pipeline", "SdicError", "faces", "load_direction", "save_direction",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    module = next((module for module, names in _MODULES.items() if name in names), "errors")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
