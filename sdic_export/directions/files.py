"""Edit directions for a bundle: the public .pt files and our own formats, checked against the model's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdic_runtime.directions import SUFFIXES, AnyDirection, direction_of, is_old_torch, load_direction, save_direction
from sdic_runtime.edits import Pca
from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError, OutOfMemoryError, SdicError
from sdic_runtime.files import reason

FOLDER = "directions"
NAME = re.compile(r"[^\W_][\w.+-]*")
LONGEST_NAME = 100
RELEASED_WIDTH = 512  # of the models that public directions are of
RELEASED_FOR = {"ffhq_pca": "faces", "cars_pca": "cars"}  # bases of the same shape, published together


@dataclass(frozen=True)
class Published:
    """What is known of a public file: the useful strengths that StyleFeatureEditor's authors found by eye, and its licence."""

    strength_range: tuple[float, float]
    licence: str = ""


INTERDIGITAL = "of the Feature-Style encoder's release: InterDigital's evaluation licence, for research alone"
PUBLISHED = {  # by the names of the files; their powers of InterFaceGAN's directions are twice our strengths
    "age": Published((-5, 5)),
    "smile": Published((-2.5, 2.5)),
    "Smiling_boundary": Published((-10, 10), INTERDIGITAL),
    "Eyeglasses_boundary": Published((-20, 30), INTERDIGITAL),
    "Heavy_Makeup_boundary": Published((-10, 15), INTERDIGITAL),
}


def check_name(name: str) -> str:
    """A name that a direction may have: it is part of file names and of `--edit NAME:STRENGTH`. Raises ArgumentError."""
    if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise ArgumentError(f'"{name:.60}" is no name for a direction; use letters, digits and . + - _ alone, at most {LONGEST_NAME}')
    return name


def read_directions(places: Sequence[Path], sizes: Mapping[str, int], domain: str, renamed: bool = False) -> dict[str, AnyDirection]:
    """Every direction and PCA basis in `places`, files or folders, by name; checked to fit latent codes of `sizes`. `renamed`: see
    `find_directions`. Raises SdicError."""
    return {name: read_direction(path, sizes) for name, path in find_directions(places, domain, renamed).items()}


def find_directions(places: Sequence[Path], domain: str, renamed: bool = False) -> dict[str, Path]:
    """Name -> file of every direction in `places`, files or folders; the names are those that directions may have, unless they are going to
    be `renamed`. Raises ArgumentError.

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
            found[path.stem if renamed else _checked(path)] = path
    return found


def _checked(path: Path) -> str:
    try:
        return check_name(path.stem)
    except ArgumentError as error:
        raise ArgumentError(f"the file {path} cannot be called so: {error}") from None


def read_direction(path: Path, sizes: Mapping[str, int]) -> AnyDirection:
    """The direction or PCA basis in `path`, checked to fit latent codes of `sizes`. A file of ours says its useful strengths itself; of a
    public one they are known, if the model's codes are like those it was published for. Raises FileError."""
    direction = _from_old_torch(path, sizes) if is_old_torch(path) else load_direction(path, sizes)
    try:
        fits(direction, sizes)
    except SdicError as error:
        raise FileError(f"{path} does not fit this model: {error}") from None
    direction = direction if direction.method else replace(direction, method=f"converted from {path.name}")
    known = PUBLISHED.get(path.stem)
    if known is None or path.suffix == ".safetensors" or isinstance(direction, Pca) or sizes["C"] != RELEASED_WIDTH:
        return direction
    return replace(direction, strength_range=direction.strength_range or known.strength_range, licence=direction.licence or known.licence)


def fits(direction: AnyDirection, sizes: Mapping[str, int]) -> None:
    """Raise ArgumentError where a direction or a basis is not of a model of these `sizes`."""
    if not isinstance(direction, Pca):
        direction.check(sizes)
    elif direction.mean.shape[-1] != sizes["C"]:
        raise ArgumentError(f"the PCA basis is of codes {direction.mean.shape[-1]} wide, and this model's are {sizes['C']} wide")


def write_directions(folder: Path, directions: Mapping[str, AnyDirection]) -> dict[str, str]:
    """Write directions into `folder`; name -> file below `folder`, as a manifest lists them. Raises FileError."""
    if directions:
        (folder / FOLDER).mkdir()
    files = {name: f"{FOLDER}/{name}.safetensors" for name in directions}
    for name, direction in directions.items():
        save_direction(folder / files[name], direction)
    return files


def _from_old_torch(path: Path, sizes: Mapping[str, int]) -> AnyDirection:
    import pickle

    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "export", f"{path}, a file of PyTorch before 1.6,") from None
    from sdic_train.checkpoints.files import unusable

    try:
        if announced := unusable(path):
            raise FileError(f"{path} is not read: {announced}; get the direction again from where it was published")
        content = torch.load(path, map_location="cpu", weights_only=True)
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
    try:
        return direction_of(_arrays(content), path.stem, sizes)
    except SdicError as error:
        raise FileError(f"{path} is not a direction: {error}") from None


def _arrays(content: Any) -> Any:
    """Numpy arrays in place of tensors."""
    if isinstance(content, dict):
        return {name: _arrays(part) for name, part in content.items()}
    if isinstance(content, list | tuple):
        return [_arrays(part) for part in content]
    return content.detach().float().numpy() if hasattr(content, "detach") else content
