"""Edit directions for a bundle: the public .pt files and our own formats, checked against the model's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdic_runtime.edits import Direction, Pca, load_direction, save_direction
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import Sizes

FOLDER = "directions"
TORCH_SUFFIXES = (".pt", ".pth")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npy", ".npz")
PCA_PARTS = ("mean", "comp", "std")
RELEASED_FOR = {"ffhq_pca": "faces", "cars_pca": "cars"}  # bases of the same shape, published together


def find_directions(places: Sequence[Path], domain: str) -> dict[str, Path]:
    """Name -> file of every direction in `places`, files or folders. Raises SdicError.

    A basis that was published for another domain is left out of a folder, and refused when it is named itself.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise SdicError(f"there are no directions at {place}; name a file or a folder")
        files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise SdicError(f"the folder {place} holds no direction files; their names end in {', '.join(SUFFIXES)}")
        for path in files:
            made_for = RELEASED_FOR.get(path.stem, domain)
            if made_for != domain and path == place:
                raise SdicError(f'{path} is the PCA basis of the domain "{made_for}", and this model is of "{domain}"; leave it out')
            if made_for != domain:
                continue
            if path.stem in found:
                raise SdicError(f'two directions are called "{path.stem}": {found[path.stem]} and {path}; rename one of them')
            found[path.stem] = path
    return found


def read_direction(path: Path, sizes: Sizes) -> Direction | Pca:
    """The direction or PCA basis in `path`, proven to fit latent codes of `sizes`. Raises SdicError."""
    direction = _from_torch(path) if path.suffix.lower() in TORCH_SUFFIXES else load_direction(path)
    try:
        if isinstance(direction, Direction):
            direction.check(sizes)
        elif direction.mean.shape[-1] != sizes.style_width:
            raise SdicError(f"the PCA basis is of codes {direction.mean.shape[-1]} wide, and this model's are {sizes.style_width} wide")
    except SdicError as error:
        raise SdicError(f"{path} does not fit this model: {error}") from None
    return direction


def write_directions(folder: Path, places: Sequence[Path], sizes: Sizes, domain: str) -> dict[str, str]:
    """Convert every direction in `places` into `folder`; name -> file below `folder`, as a manifest lists them. Raises SdicError."""
    written = {}
    for name, path in find_directions(places, domain).items():
        direction = read_direction(path, sizes)
        (folder / FOLDER).mkdir(exist_ok=True)
        written[name] = f"{FOLDER}/{name}.safetensors"
        save_direction(folder / written[name], direction)
    return written


def _from_torch(path: Path) -> Direction | Pca:
    content = _load(path)
    origin = f"converted from {path.name}"
    try:
        if isinstance(content, dict) and set(PCA_PARTS) <= set(content):
            mean, comp, std = (_numbers(content[part]) for part in PCA_PARTS)
            return Pca(mean, comp, std, path.stem, origin)
        if isinstance(content, dict):
            listed = ", ".join(str(key) for key in list(content)[:4]) or "nothing"
            raise SdicError(f"it holds {listed}, expected one tensor, or a PCA basis with mean, comp and std")
        return Direction(_numbers(content), name=path.stem, method=origin)
    except SdicError as error:
        raise SdicError(f"{path} is not a direction: {error}") from None


def _numbers(value: Any) -> Any:
    """A numpy array of a tensor; anything else unchanged, for the direction's own checks."""
    return value.detach().float().numpy() if hasattr(value, "detach") else value


def _load(path: Path) -> Any:
    import pickle

    import torch

    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            raise SdicError(f"{path} is a web page, not a direction: the download failed; download it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except SdicError:
        raise
    except pickle.UnpicklingError as error:
        raise SdicError(f"{path} is not a file of tensors alone, and nothing else is read; get the direction again") from error
    except OSError as error:
        raise SdicError(f"cannot read the direction {path}: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise SdicError(f"{path} is truncated or damaged; get the direction again") from error
