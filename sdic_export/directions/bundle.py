"""Directions of a finished bundle: added and removed so that it is the old or the new one at every moment, see `changing`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from sdic_export.changes import Change, changing
from sdic_export.directions.files import FOLDER, check_name, fits
from sdic_runtime.bundle.manifest import Manifest
from sdic_runtime.directions import AnyDirection, direction_sha256, save_direction
from sdic_runtime.errors import ArgumentError


def add_directions(folder: Path, make: Callable[[Manifest], Mapping[str, AnyDirection]], replacing: bool = False) -> list[str]:
    """Add what `make` gives for the bundle in `folder`; their files below it, in the same order. With `replacing` a direction of the same
    name goes; without, it is an error. Raises SdicError, and then the bundle is as it was."""
    with changing(folder) as change:
        manifest = change.manifest
        directions = make(manifest)
        for name, direction in directions.items():
            check_name(name)
            fits(direction, manifest.sizes)
            if name in manifest.directions and not replacing:
                raise ArgumentError(f'the bundle "{manifest.name}" has a direction "{name}" already; take another name, or give --replace')
        made: dict[str, str] = {}
        for name, direction in directions.items():
            made[name] = _written(change, name, direction)
        _write(change, {**manifest.directions, **made}, list(made.values()), made)
        return list(made.values())


def remove_directions(folder: Path, names: Sequence[str]) -> None:
    """Remove directions from the bundle in `folder`. Raises SdicError, and then the bundle is as it was."""
    with changing(folder) as change:
        manifest = change.manifest
        for name in names:
            if name not in manifest.directions:
                close = get_close_matches(name, manifest.directions, 1)
                guess = f'; did you mean "{close[0]}"?' if close else ""
                known = ", ".join(sorted(manifest.directions)) or "none"
                raise ArgumentError(f'there is no direction "{name}"; the bundle "{manifest.name}" has: {known}{guess}')
        _write(change, {name: file for name, file in manifest.directions.items() if name not in names}, [], names)


def _written(change: Change, name: str, direction: AnyDirection) -> str:
    """Write one direction; its file below the bundle: the listed one where the contents are the same, so that a command that is given again
    changes nothing, and no listed one where they differ."""
    manifest = change.manifest
    digest, plain = direction_sha256(direction), f"{FOLDER}/{name}.safetensors"
    for listed in (manifest.directions.get(name), plain):
        if listed in manifest.files and manifest.files[listed].sha256 == digest:
            return listed
    file = f"{FOLDER}/{name}.{digest[:8]}.safetensors" if plain in manifest.files else plain
    change.tried.add(file)
    save_direction(change.folder / file, direction)
    return file


def _write(change: Change, directions: Mapping[str, str], new: Sequence[str], names: Iterable[str]) -> None:
    gone = set(change.manifest.directions.values()) - set(directions.values())
    listed = (change.manifest.files.keys() - gone) | set(new)
    left = {file for file in _files_of(change.folder, names) if file not in listed}
    change.write(new, sorted(gone | left), directions=dict(directions))


def _files_of(folder: Path, names: Iterable[str]) -> set[str]:
    """The files of the directions `names`; what the manifest does not list of them is of an earlier process, which died between the new
    manifest and the end of the old file."""
    own = re.compile(rf"({'|'.join(map(re.escape, names))})(\.[0-9a-f]{{8}})?\.safetensors")
    return {f"{FOLDER}/{path.name}" for path in (folder / FOLDER).iterdir() if own.fullmatch(path.name)}
