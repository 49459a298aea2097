"""Directions and PCA bases in files, and those of a bundle by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError, FileError, SdicError
from sdic_runtime.files import read_tensors, reason, save_tensors


class Directions(Mapping[str, "Direction | Pca"]):
    """The directions of a bundle by name, read (and checked against their hashes) on first use."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, Direction | Pca] = {}

    def __repr__(self) -> str:
        return f"<Directions {', '.join(self) or 'none'}>"

    def __getitem__(self, name: str) -> Direction | Pca:
        """Raises ArgumentError for an unknown name, with the known ones."""
        files = self._bundle.manifest.directions
        if name not in files:
            close = get_close_matches(str(name), files, 1)
            guess = f'; did you mean "{close[0]}"?' if close else ""
            known = ", ".join(sorted(files)) or "none"
            raise ArgumentError(f'there is no direction "{name}"; the bundle "{self._bundle.manifest.name}" has: {known}{guess}')
        if name not in self._loaded:
            self._loaded[name] = load_direction(self._bundle.file(files[name]))
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._bundle.manifest.directions

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - this is `get`

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._bundle.manifest.directions))

    def __len__(self) -> int:
        return len(self._bundle.manifest.directions)


def save_direction(path: str | os.PathLike[str], direction: Direction | Pca) -> None:
    """Write a direction or a PCA basis as a bundle holds it: safetensors with string metadata. Whole or not at all."""
    metadata = {"kind": "pca" if isinstance(direction, Pca) else "direction", "name": direction.name, "method": direction.method}
    if isinstance(direction, Pca):
        tensors = {"mean": direction.mean, "comp": direction.comp, "std": direction.std}
    else:
        tensors = {"direction": direction.vector}
        for key, pair in (("strength_range", direction.strength_range), ("rows", direction.rows)):
            if pair is not None:
                metadata[key] = json.dumps(list(pair))
    save_tensors(path, tensors, metadata)


def load_direction(path: str | os.PathLike[str]) -> Direction | Pca:
    """Read a direction or a PCA basis from .safetensors (`direction`, or `mean`, `comp` and `std`), .npz of the same names, or .npy. Raises
    FileError."""
    path = Path(path)
    readers = {".safetensors": read_tensors, ".npy": _read_numpy, ".npz": _read_numpy}
    if path.suffix not in readers:
        advice = "use .safetensors, .npy or .npz (a PyTorch file is converted by: sdic-export build --directions)"
        raise FileError(f"{path} is not a direction file this program reads; {advice}")
    try:
        tensors, metadata = readers[path.suffix](path)
    except OSError as error:
        raise FileError(f"cannot read the direction {path}: {reason(error)}") from error
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise FileError(f"{path} is not a direction file: {error}; get it again") from error
    name, method = metadata.get("name") or path.stem, metadata.get("method", "")
    try:
        if {"mean", "comp", "std"} <= set(tensors):
            return Pca(tensors["mean"], tensors["comp"], tensors["std"], name, method)
        if "direction" not in tensors:
            raise FileError(f'it holds {", ".join(sorted(tensors)) or "nothing"}, expected "direction", or "mean", "comp" and "std"')
        return Direction(tensors["direction"], name, method, _pair(metadata, "strength_range", float), _pair(metadata, "rows", int))
    except SdicError as error:
        raise FileError(f"{path}: {error}") from None


def _pair(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    if key not in metadata:
        return None
    try:
        first, second = json.loads(metadata[key])
        return kind(first), kind(second)
    except (ValueError, TypeError) as error:
        raise FileError(f'its metadata "{key}" is {metadata[key]!r:.60}, expected two numbers like [-3, 3]') from error


def _read_numpy(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"direction": loaded}, {}
    with loaded:
        return dict(loaded), {}
