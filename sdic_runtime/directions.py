"""Directions and PCA bases in files, and those of a bundle by name.

Files of the field are read as they are: InterFaceGAN's (.pt, .npy), GANSpace's (.pt, and .npz of its own program), boundaries of the
Feature-Style encoder (.npy, [1, L * C]) and offsets in style space ([M]).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError, FileError, SdicError, printable
from sdic_runtime.files import open_regular, read_tensors, reason, save_tensors, tensor_bytes
from sdic_runtime.parsing.json_text import JsonError, parse_json
from sdic_runtime.parsing.torch_files import check_packing, read_torch
from sdic_runtime.program import STYLES, STYLES_LETTER
from sdic_runtime.styles import StyleDirection

AnyDirection: TypeAlias = Direction | StyleDirection | Pca
SUFFIXES = (".safetensors", ".npy", ".npz", ".pt", ".pth")
LARGEST_FILE = 256 << 20  # bytes of numbers; released directions have less than 1 MB
PCA_PARTS = ("mean", "comp", "std")
KINDS = {Direction: "direction", StyleDirection: "style", Pca: "pca"}


class Directions(Mapping[str, AnyDirection]):
    """The directions of a bundle by name, read (and checked against their hashes) on first use."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, AnyDirection] = {}

    def __repr__(self) -> str:
        return f"<Directions {', '.join(self) or 'none'}>"

    def __getitem__(self, name: str) -> AnyDirection:
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


def save_direction(path: str | os.PathLike[str], direction: AnyDirection) -> None:
    """Write a direction or a PCA basis as a bundle holds it: safetensors with string metadata. Whole or not at all."""
    save_tensors(path, *_content(direction))


def direction_sha256(direction: AnyDirection) -> str:
    """The SHA-256 of the file that `save_direction` would write."""
    return hashlib.sha256(tensor_bytes(*_content(direction))).hexdigest()


def _content(direction: AnyDirection) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    metadata = {"kind": KINDS[type(direction)], "name": direction.name, "method": direction.method}
    if direction.licence:
        metadata["licence"] = direction.licence
    if isinstance(direction, Pca):
        tensors = {part: getattr(direction, part) for part in PCA_PARTS}
    else:
        tensors = {STYLES if isinstance(direction, StyleDirection) else "direction": direction.vector}
        for key in ("strength_range", "rows"):
            if (pair := getattr(direction, key, None)) is not None:
                metadata[key] = json.dumps(list(pair))
    return tensors, metadata


def load_directions(folder: Path) -> dict[str, AnyDirection]:
    """The direction files that lie directly in a folder, by name without ending; none where it is not there. Raises FileError, also for
    two of one name."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in SUFFIXES and (first := paths.setdefault(path.stem, path)) is not path:
            raise FileError(f'two directions are called "{path.stem}": {first} and {path}; rename one of them')
    return {name: load_direction(path) for name, path in paths.items()}


def load_direction(path: str | os.PathLike[str], sizes: Mapping[str, int] | None = None) -> AnyDirection:
    """Read a direction or a PCA basis: .safetensors and .npz by the names `direction`, `styles`, or `mean`, `comp` and `std` (GANSpace's
    own `lat_mean`, ...), .npy, .pt and .pth by what is in them. A zip file of `torch.save` is read without PyTorch.

    `sizes`: of the model that it is for, which tell a flat array [L * C] and one over all styles [M] from others. Raises FileError.
    """
    path = Path(path)
    readers = {".safetensors": _read_tensors, ".npy": _read_numpy, ".npz": _read_numpy, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix.lower() not in readers:
        raise FileError(f"{path} is not a direction file this program reads; use {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if first_bytes(path).startswith((b"<!doctype", b"<html")):
        raise FileError(f"{path} is a web page, not a direction: the download failed; download it again")
    try:
        tensors, metadata = readers[path.suffix.lower()](path)
    except OSError as error:
        raise FileError(f"cannot read the direction {path}: {reason(error)}") from error
    except MemoryError as error:
        raise FileError(f"{path} is not a direction file: it is too large; get it again") from error
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        remedy = "convert it with: sdic-export directions add BUNDLE FILE" if is_old_torch(path) else "get it again"
        raise FileError(f"{path} is not a direction file: {printable(str(error), 200)}; {remedy}") from error
    try:
        return _made(tensors, metadata, path.stem, sizes or {})
    except SdicError as error:
        raise FileError(f"{path}: {error}") from None


def _made(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], stem: str, sizes: Mapping[str, int]) -> AnyDirection:
    """The direction that the tensors of a file make. Raises SdicError."""
    described: dict[str, Any] = {"name": metadata.get("name") or stem}
    described |= {key: metadata.get(key, "") for key in ("method", "licence")}
    if basis := _basis(tensors):
        described |= basis
        return Pca(**described)
    described["strength_range"] = _pair(metadata, "strength_range", tuple[float, float])
    if STYLES in tensors:
        return StyleDirection(tensors[STYLES], **described)
    if "direction" not in tensors:
        raise FileError(f'it holds {", ".join(sorted(tensors)) or "nothing"}, expected "direction", or "mean", "comp" and "std"')
    array = np.asarray(tensors["direction"])
    flat = array.size in array.shape and sizes and array.size != sizes["C"]
    if flat and array.size == sizes.get(STYLES_LETTER):
        return StyleDirection(array, **described)
    if flat and array.size == sizes["L"] * sizes["C"]:
        array = array.reshape(sizes["L"], sizes["C"])
    return Direction(array, rows=_pair(metadata, "rows", tuple[int, int]), **described)


def _basis(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean, components and deviations of a PCA basis; empty where it is none. GANSpace's own file has them of the space it was asked for
    ("act") and of the code that makes that ("lat"), whose deviations are ones where it is the random input and no code of style rows."""
    for names in (PCA_PARTS, _ganspace("lat")):
        if set(names) <= set(tensors):
            whole = names != PCA_PARTS and np.all(tensors[names[2]] == 1) and set(_ganspace("act")) <= set(tensors)
            return dict(zip(PCA_PARTS, (tensors[name] for name in (_ganspace("act") if whole else names)), strict=True))
    return {}


def _ganspace(space: str) -> tuple[str, str, str]:
    """What GANSpace calls mean, components and deviations of a space."""
    return f"{space}_mean", f"{space}_comp", f"{space}_stdev"


def _pair(metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    if key not in metadata:
        return None
    try:
        found = parse_json(metadata[key], kind)
    except JsonError as error:
        raise FileError(f'its metadata "{key}" is {metadata[key]!r:.60}, expected two numbers like [-3, 3]') from error
    if not found[0] < found[1]:
        raise FileError(f'its metadata "{key}" is {metadata[key]!r:.60}, expected a smaller number before a larger one')
    return found


def _read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return read_tensors(path, LARGEST_FILE)


def _read_numpy(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an .npy or .npz file: a lone one is called "direction". Raises OSError, ValueError, or what zipfile raises; also for
    more than LARGEST_FILE bytes, which are counted before any is unpacked."""
    with open_regular(path, LARGEST_FILE) as stream:
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            return {"direction": _read_array(stream, os.fstat(stream.fileno()).st_size)}, {}
        with zipfile.ZipFile(stream) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if (size := sum(entry.file_size for entry in entries)) > LARGEST_FILE:
                raise ValueError(f"its arrays have {size} bytes, and the limit is {LARGEST_FILE}")
            arrays = {}
            for entry in entries:
                check_packing(entry)
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


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return _tensors_of(read_torch(path)), {}


def _tensors_of(content: Any) -> dict[str, np.ndarray]:
    """What a PyTorch file holds, as the tensors of a direction file."""
    if isinstance(content, Mapping) and all(isinstance(part, np.ndarray) for part in content.values()):
        return {str(name): part for name, part in content.items()}
    if isinstance(content, list | tuple) and content and all(isinstance(part, np.ndarray) for part in content):  # a layer each
        return {STYLES: np.concatenate([part.reshape(-1) for part in content])}
    if not isinstance(content, np.ndarray):
        raise FileError(f"it holds {type(content).__name__}, expected a tensor, or a PCA basis with mean, comp and std")
    return {"direction": content}


def direction_of(content: Any, name: str, sizes: Mapping[str, int]) -> AnyDirection:
    """The direction in what a PyTorch file holds, with numpy arrays for its tensors; see `load_direction`. Raises SdicError."""
    return _made(_tensors_of(content), {}, name, sizes)


def is_old_torch(path: Path) -> bool:
    """Whether the file is in the form that PyTorch wrote before 1.6, which PyTorch alone reads."""
    return path.suffix.lower() in (".pt", ".pth") and first_bytes(path).startswith(b"\x80")


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, by which web pages and old PyTorch files are told; empty where it cannot be read."""
    with suppress(OSError, ValueError), open_regular(path) as stream:
        return stream.read(64).lstrip().lower()
    return b""
