"""Edit directions for a bundle: the public .pt files and our own formats, checked against the model's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdic_runtime.directions import LARGEST_DIRECTION, load_direction, save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError, FileError, OutOfMemoryError, SdicError
from sdic_runtime.files import open_regular, reason

FOLDER = "directions"
TORCH_SUFFIXES = (".pt", ".pth")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npy", ".npz")
PCA_PARTS = ("mean", "comp", "std")
RELEASED_FOR = {"ffhq_pca": "faces", "cars_pca": "cars"}  # bases of the same shape, published together


def read_directions(places: Sequence[Path], sizes: Mapping[str, int], domain: str) -> dict[str, Direction | Pca]:
    """Every direction and PCA basis in `places`, files or folders, by name; checked to fit latent codes of `sizes`. Raises SdicError."""
    return {name: read_direction(path, sizes) for name, path in find_directions(places, domain).items()}


def find_directions(places: Sequence[Path], domain: str) -> dict[str, Path]:
    """Name -> file of every direction in `places`, files or folders. Raises ArgumentError.

    A basis that was published for another domain is omitted from a folder, and refused when it is named itself.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise ArgumentError(f"there are no directions at {place}; name a file or a folder")
        files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ArgumentError(f"the folder {place} holds no direction files; their names end in {', '.join(SUFFIXES)}")
        for path in files:
            made_for = RELEASED_FOR.get(path.stem, domain)
            if made_for != domain and path == place:
                raise ArgumentError(f'{path} is the PCA basis of the domain "{made_for}", and this model is of "{domain}"; omit it')
            if made_for != domain:
                continue
            if path.stem in found:
                raise ArgumentError(f'two directions are called "{path.stem}": {found[path.stem]} and {path}; rename one of them')
            found[path.stem] = path
    return found


def read_direction(path: Path, sizes: Mapping[str, int]) -> Direction | Pca:
    """The direction or PCA basis in `path`, checked to fit latent codes of `sizes`. Raises FileError."""
    direction = _from_torch(path) if path.suffix.lower() in TORCH_SUFFIXES else load_direction(path)
    try:
        if isinstance(direction, Direction):
            direction.check(sizes)
        elif direction.mean.shape[-1] != sizes["C"]:
            raise FileError(f"the PCA basis is of codes {direction.mean.shape[-1]} wide, and this model's are {sizes['C']} wide")
    except SdicError as error:
        raise FileError(f"{path} does not fit this model: {error}") from None
    return direction


def write_directions(folder: Path, directions: Mapping[str, Direction | Pca]) -> dict[str, str]:
    """Write directions into `folder`; name -> file below `folder`, as a manifest lists them. Raises FileError."""
    if directions:
        (folder / FOLDER).mkdir()
    files = {name: f"{FOLDER}/{name}.safetensors" for name in directions}
    for name, direction in directions.items():
        save_direction(folder / files[name], direction)
    return files


def _from_torch(path: Path) -> Direction | Pca:
    content = _load(path)
    origin = f"converted from {path.name}"
    try:
        if isinstance(content, dict) and set(PCA_PARTS) <= set(content):
            mean, comp, std = (_numbers(content[part]) for part in PCA_PARTS)
            return Pca(mean, comp, std, path.stem, origin)
        if isinstance(content, dict):
            listed = ", ".join(str(key) for key in list(content)[:4]) or "nothing"
            raise FileError(f"it holds {listed}, expected one tensor, or a PCA basis with mean, comp and std")
        return Direction(_numbers(content), name=path.stem, method=origin)
    except SdicError as error:
        raise FileError(f"{path} is not a direction: {error}") from None


def _numbers(value: Any) -> Any:
    """A numpy array of a tensor; anything else unchanged, for the direction's own checks. Raises FileError."""
    if hasattr(value, "numel") and 4 * value.numel() > LARGEST_DIRECTION:  # of one number that stands for many
        raise FileError(f"its tensor has the shape {list(value.shape)}, and the limit is {LARGEST_DIRECTION} bytes")
    return value.detach().float().numpy() if hasattr(value, "detach") else value


def _load(path: Path) -> Any:
    import pickle

    import torch

    from sdic_train.checkpoints.files import unusable

    try:
        with open_regular(path, LARGEST_DIRECTION) as stream:
            start = stream.read(64).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            raise FileError(f"{path} is a web page, not a direction: the download failed; download it again")
        if announced := unusable(path):
            raise FileError(f"{path} is not read: {announced}; get the direction again from where it was published")
        return torch.load(path, map_location="cpu", weights_only=True)
    except SdicError:
        raise
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} is not a file of tensors alone, and nothing else is read; get the direction again") from error
    except OSError as error:
        raise FileError(f"cannot read the direction {path}: {reason(error)}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"not enough memory to read {path}; free some") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise FileError(f"{path} is truncated or damaged; get the direction again") from error
