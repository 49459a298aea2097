"""Runs SDIC bundles: a picture is inverted once and edited many times. Needs no PyTorch.

The names below load on first use, so that importing the package (and `sdic-run --help`) stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        SdicError,
    )
    from sdic_runtime.inversion import Edited, Inversion
    from sdic_runtime.pipeline import PictureResult, Pipeline

__version__ = "0.1.0"

# Where the names come from that are not errors.
_MODULES = {
    "Bundle": "bundle.bundle",
    "CombinedEdit": "edits",
    "Direction": "edits",
    "Edit": "edits",
    "Edited": "inversion",
    "GanSpaceEdit": "edits",
    "Inversion": "inversion",
    "Manifest": "bundle.manifest",
    "Pca": "edits",
    "PictureResult": "pipeline",
    "Pipeline": "pipeline",
    "load_direction": "directions",
    "save_direction": "directions",
}

__all__ = [
    "ArgumentError",
    "BackendError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "CombinedEdit",
    "Direction",
    "Edit",
    "Edited",
    "FileError",
    "GanSpaceEdit",
    "Inversion",
    "Manifest",
    "MissingExtraError",
    "OutOfMemoryError",
    "Pca",
    "PictureError",
    "PictureResult",
    "Pipeline",
    "SdicError",
    "load_direction",
    "save_direction",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
