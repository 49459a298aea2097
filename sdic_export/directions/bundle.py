"""Directions of a finished bundle: added and removed so that it is the old or the new one at every moment.

New files get names that the bundle does not list yet, then the manifest is replaced in one move, then files that nothing lists any more are
deleted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path

import msgspec

from sdic_export.directions.files import FOLDER, fits
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import Manifest, file_entries, write_manifest
from sdic_runtime.directions import AnyDirection, direction_sha256, save_direction
from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason

LOCK = f"{FOLDER}/.lock"
NAME = re.compile(r"[^\W_][\w.+-]*")
LONGEST_NAME = 100


def check_name(name: str) -> str:
    """A name that a direction may have: it is part of file names and of `--edit NAME:STRENGTH`. Raises ArgumentError."""
    if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise ArgumentError(f'"{name:.60}" is no name for a direction; use letters, digits and . + - _ alone, at most {LONGEST_NAME}')
    return name


def add_directions(folder: Path, make: Callable[[Manifest], Mapping[str, AnyDirection]], replacing: bool = False) -> list[str]:
    """Add what `make` gives for the bundle in `folder`; their files below it, in the same order. With `replacing` a direction of the same
    name goes; without, it is an error. Raises SdicError, and then the bundle is as it was."""
    with _changing(folder) as bundle:
        folder, manifest = bundle.path, bundle.manifest
        directions = make(manifest)
        for name, direction in directions.items():
            check_name(name)
            fits(direction, manifest.sizes)
            if name in manifest.directions and not replacing:
                raise ArgumentError(f'the bundle "{manifest.name}" has a direction "{name}" already; take another name, or give --replace')
        made: dict[str, str] = {}
        tried: set[str] = set()
        try:
            for name, direction in directions.items():
                made[name] = _written(folder, name, direction, manifest, tried)
            listed = {**manifest.directions, **made}
            _write(folder, manifest, listed, list(made.values()), made)
        except BaseException:
            # A disk may fail when the new manifest is in place already: what that one lists stays.
            _delete(folder, tried - set(Bundle.open(folder).manifest.files))
            raise
        return list(made.values())


def remove_directions(folder: Path, names: Sequence[str]) -> None:
    """Remove directions from the bundle in `folder`. Raises SdicError, and then the bundle is as it was."""
    with _changing(folder) as bundle:
        folder, manifest = bundle.path, bundle.manifest
        for name in names:
            if name not in manifest.directions:
                close = get_close_matches(name, manifest.directions, 1)
                guess = f'; did you mean "{close[0]}"?' if close else ""
                known = ", ".join(sorted(manifest.directions)) or "none"
                raise ArgumentError(f'there is no direction "{name}"; the bundle "{manifest.name}" has: {known}{guess}')
        _write(folder, manifest, {name: file for name, file in manifest.directions.items() if name not in names}, [], names)


@contextmanager
def _changing(folder: Path) -> Iterator[Bundle]:
    """The bundle, opened when nobody else changes it. Raises FileError where someone does."""
    from filelock import FileLock, Timeout

    bundle = Bundle.open(folder)  # before anything is written into a folder that is none
    try:
        (bundle.path / FOLDER).mkdir(exist_ok=True)
        with FileLock(bundle.path / LOCK, timeout=10):
            yield Bundle.open(folder)
    except Timeout:
        raise FileError(f"another process is changing the directions of {folder}; wait for it and try again") from None
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {reason(error)}; choose a bundle that you may change") from error


def _written(folder: Path, name: str, direction: AnyDirection, manifest: Manifest, tried: set[str]) -> str:
    """Write one direction; its file below `folder`: the listed one where the contents are the same, so that a command that is given again
    changes nothing, and no listed one where they differ. All that may be written is in `tried` before."""
    digest, plain = direction_sha256(direction), f"{FOLDER}/{name}.safetensors"
    for listed in (manifest.directions.get(name), plain):
        if listed in manifest.files and manifest.files[listed].sha256 == digest:
            return listed
    file = f"{FOLDER}/{name}.{digest[:8]}.safetensors" if plain in manifest.files else plain
    tried.add(file)
    save_direction(folder / file, direction)
    return file


def _write(folder: Path, manifest: Manifest, directions: Mapping[str, str], new: Sequence[str], names: Iterable[str]) -> None:
    kept = set(directions.values())
    gone = set(manifest.directions.values()) - kept
    files = {name: entry for name, entry in manifest.files.items() if name not in gone} | file_entries(folder, new)
    write_manifest(folder, msgspec.structs.replace(manifest, directions=dict(directions), files=files))
    _delete(folder, gone | _left(folder, names, files))


def _left(folder: Path, names: Iterable[str], listed: Collection[str]) -> set[str]:
    """Files of the directions `names` that are not listed: an earlier process died between the new manifest and the end of the old file."""
    own = re.compile(rf"({'|'.join(map(re.escape, names))})(\.[0-9a-f]{{8}})?\.safetensors")
    return {file for path in (folder / FOLDER).iterdir() if own.fullmatch(path.name) and (file := f"{FOLDER}/{path.name}") not in listed}


def _delete(folder: Path, names: set[str]) -> None:
    for name in names:
        with suppress(OSError):  # an unlisted file does no harm
            (folder / name).unlink()
