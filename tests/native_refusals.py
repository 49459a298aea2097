"""Statuses of libsdic, and bundles to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.errors import ArgumentError, BackendError, BundleError, FileError, PictureError

ARGUMENT, BUNDLE, PICTURE, FILE, PROVIDER, RUN = range(1, 7)
KINDS = {ARGUMENT: ArgumentError, BUNDLE: BundleError, PICTURE: PictureError, FILE: FileError, RUN: BackendError}


def black(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    replaced = change(data)
    path.write_text(json.dumps(data if replaced is None else replaced))


def set_key(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last, value = keys

    def change(data: Any) -> None:
        for key in path:
            data = data[key]
        data[last] = value

    return change


def delete(*keys: Any) -> Callable[[dict[str, Any]], None]:
    *path, last = keys

    def change(data: Any) -> None:
        for key in path:
            data = data[key]
        del data[last]

    return change
