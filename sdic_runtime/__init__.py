"""Runs SDIC bundles: a picture is inverted once and edited many times. Needs no PyTorch.

The names below load on first use, so that importing the package (and `sdic-run --help`) stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdic_runtime.bundle.bundle import Bundle, Manifest
    from sdic_runtime.edits import CombinedEdit, Direction, GanSpaceEdit, Pca, load_direction, save_direction
    from sdic_runtime.errors import MissingExtraError, SdicError
    from sdic_runtime.inversion import Edited, Inversion
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.stages import Sizes

__version__ = "0.1.0"

_MODULES = {
    "Bundle": "bundle",
    "Manifest": "bundle",
    "CombinedEdit": "edits",
    "Direction": "edits",
    "GanSpaceEdit": "edits",
    "Pca": "edits",
    "load_direction": "edits",
    "save_direction": "edits",
    "MissingExtraError": "errors",
    "SdicError": "errors",
    "Edited": "inversion",
    "Inversion": "inversion",
    "Pipeline": "pipeline",
    "Sizes": "stages",
}

__all__ = [
    "Bundle",
    "CombinedEdit",
    "Direction",
    "Edited",
    "GanSpaceEdit",
    "Inversion",
    "Manifest",
    "MissingExtraError",
    "Pca",
    "Pipeline",
    "SdicError",
    "Sizes",
    "load_direction",
    "save_direction",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
