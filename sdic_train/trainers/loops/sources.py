"""What a run learns from, as plain values that its folder keeps: a run that goes on must learn from the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.directions import SUFFIXES
from sdic_runtime.files import sha256
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.loops.run import STATE

LOOKED_AT = 64  # pictures of a set that are read: it may be larger than the memory


def sources_of(options: Mapping[str, Any], data_seed: int, pictures: PictureSet) -> dict[str, Any]:
    """By the names of the options: the digests of their files, None where none is given, and which pictures. A file that is gone has no
    entry: a run that goes on does not read all that it began with."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Path):
            if (digest := digest_of(value)) is not None:
                found[name] = digest
        elif value is None or isinstance(value, Enum):
            found[name] = None if value is None else value.value
    return {**found, "--data-seed": data_seed, "picture set": digest_of_pictures(pictures)}


def digest_of(path: Path) -> str | None:
    """The sha256 of a file; of several with commas between, or of the weights or directions in a folder, that of theirs. None where one of
    them is not there."""
    if path.is_file():
        return sha256(path)
    if path.is_dir():
        weights = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
        files = [path / STATE] if (path / STATE).is_file() else weights
    else:
        files = [Path(name) for name in str(path).split(",")]
    if not all(file.is_file() for file in files):
        return None
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def digest_of_pictures(pictures: PictureSet) -> str:
    """The sha256 of the number of pictures, their size, and some from all over the set."""
    digest = hashlib.sha256(str(pictures.pictures.shape).encode())
    for index in np.unique(np.linspace(0, len(pictures) - 1, LOOKED_AT).astype(int)):
        digest.update(np.ascontiguousarray(pictures.pictures[index]).tobytes())
    return digest.hexdigest()
