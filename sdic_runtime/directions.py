"""Directions and PCA bases in files, and those of a bundle by name."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError, FileError, OutOfMemoryError, SdicError, printable
from sdic_runtime.files import open_regular, read_tensors, reason, save_tensors
from sdic_runtime.json_text import JsonError, parse_json

LARGEST_DIRECTION = 1 << 28  # bytes of the arrays in one file


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
    readers = {".safetensors": lambda path: read_tensors(path, LARGEST_DIRECTION), ".npy": read_numpy, ".npz": read_numpy}
    if path.suffix not in readers:
        advice = "use .safetensors, .npy or .npz (a PyTorch file is converted by: sdic-export build --directions)"
        raise FileError(f"{path} is not a direction file this program reads; {advice}")
    try:
        tensors, metadata = readers[path.suffix](path)
    except OSError as error:
        raise FileError(f"cannot read the direction {path}: {reason(error)}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"not enough memory for the direction {path}; free some") from error
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise FileError(f"{path} is not a direction file: {printable(str(error), 200)}; get it again") from error
    name, method = metadata.get("name") or path.stem, metadata.get("method", "")
    try:
        if {"mean", "comp", "std"} <= set(tensors):
            return Pca(tensors["mean"], tensors["comp"], tensors["std"], name, method)
        if "direction" not in tensors:
            raise FileError(f'it holds {", ".join(sorted(tensors)) or "nothing"}, expected "direction", or "mean", "comp" and "std"')
        strengths = _pair(metadata, "strength_range", tuple[float, float])
        return Direction(tensors["direction"], name, method, strengths, _pair(metadata, "rows", tuple[int, int]))
    except SdicError as error:
        raise FileError(f"{path}: {error}") from None


def _pair(metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    if key not in metadata:
        return None
    try:
        return parse_json(metadata[key], kind)
    except JsonError as error:
        raise FileError(f'its metadata "{key}" is {metadata[key]!r:.60}, expected two numbers like [-3, 3]') from error


def read_numpy(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an .npy or .npz file: a lone one is called "direction". Raises OSError, ValueError, or what zipfile raises; also for
    more than LARGEST_DIRECTION bytes, which are counted before any is unpacked."""
    with open_regular(path, LARGEST_DIRECTION) as stream:
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            return {"direction": _read_array(stream, os.fstat(stream.fileno()).st_size)}, {}
        with zipfile.ZipFile(stream) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if (size := sum(entry.file_size for entry in entries)) > LARGEST_DIRECTION:
                raise ValueError(f"its arrays have {size} bytes, and the limit is {LARGEST_DIRECTION}")
            arrays = {}
            for entry in entries:
                with archive.open(entry) as member:
                    arrays[entry.filename.removesuffix(".npy")] = _read_array(member, entry.file_size)
            return arrays, {}


def _read_array(stream: Any, size: int) -> np.ndarray:
    """An array of numbers from an open .npy file of `size` bytes. Raises ValueError where it announces more than these."""
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"its format has version {version}")
    shape, columns_first, kind = read_header(stream)
    if kind.hasobject or math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"it announces {kind} {list(shape)}, which its {size} bytes do not hold")
    values = np.frombuffer(stream.read(math.prod(shape) * kind.itemsize), kind, math.prod(shape))
    return values.reshape(shape, order="F" if columns_first else "C").copy()
