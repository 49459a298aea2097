"""Folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.errors import ArgumentError, BundleError, FileError
from sdic_runtime.files import reason, sync
from sdic_runtime.leftovers import bring_back, held, is_temporary, set_aside

# What commands write into a bundle without listing it: engines and what a GPU compiled of them, graphs of a killed command, locks.
OURS = re.compile(
    rf"{MANIFEST_NAME}|directions/\.lock|engines/([^/]+/)?[^/]*(\.engine|\.engine\.cache|engine\.json|\.lock|to_bytes\.onnx)"
    r"|onnx/[^/]+/[^/]+\.onnx(\.data)?|golden/golden\.safetensors"
)
SHOWN = 3
HERE, RENAME_EXCHANGE = -100, 2  # AT_FDCWD and the flag of renameat2(2)


def check_place(path: Path, force: bool) -> None:
    """Raise ArgumentError when no bundle may be written to `path`; cheap, so that it can be asked before hours of work."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file; name a folder for the bundle")
    if path.is_dir() and any(path.iterdir()):
        if not (path / MANIFEST_NAME).is_file():
            raise ArgumentError(f"{path} is a folder with other files in it, which are not overwritten; name a new folder")
        if not force:
            raise ArgumentError(f"there is already a bundle at {path}; replace it with --force or name another folder")
        others = strangers(path)
        if others:
            named = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
            raise ArgumentError(f"{path} also holds {named}, which the bundle there does not list; move that away or name another folder")


def strangers(path: Path) -> list[str]:
    """The files of a bundle's folder that neither its manifest lists nor a command of ours writes beside it; of a bundle whose manifest
    cannot be read, all that may be a user's."""
    try:
        listed = set(Bundle.open(path).manifest.files)
    except BundleError:
        listed = set()
    found = []
    for folder, folders, files in os.walk(path):
        inside = Path(folder).relative_to(path)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if not is_temporary(name)]
        found += [(inside / name).as_posix() for name in (*files, *links)]
    return sorted(name for name in found if name not in listed and not OURS.fullmatch(name) and not is_temporary(name.rpartition("/")[2]))


def check_inputs(path: Path, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Raise ArgumentError where something that is read, by what it is, lies in the folder `path`, which is to be replaced."""
    place = Path(path).resolve()
    for what, files in inputs.items():
        for file in files:
            if Path(file).resolve().is_relative_to(place):
                raise ArgumentError(f"the {what} {file} would go with what is at {path}; move it out of there or name another folder")


@contextmanager
def placed_folder(path: Path, force: bool = False, check: Callable[[Path, bool], None] = check_place) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` when the block ends well and vanishes when it does not, Ctrl-C included; after a kill
    the next run removes it.

    `check` refuses places that may not be written to, by default for a bundle. What is there is replaced with `force`; it stays untouched
    until the new folder is complete, and the old or the new one is there whenever the process ends. Raises FileError.
    """
    path = Path(os.path.abspath(path))
    bring_back(path)
    check(path, force)
    _made(path.parent)
    try:
        with held(path.parent, os.mkdir) as temporary:
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    sync(Path(folder, name))
                sync(Path(folder))
            check(path, force)  # someone else may have built meanwhile
            _swap(temporary, path)
            sync(path.parent)
    except OSError as error:
        raise FileError(f"cannot write {path}: {reason(error)}; choose another place or make room") from error


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = os.strerror(errno.ENOTDIR).lower() if isinstance(error, FileExistsError) else reason(error)
        raise FileError(f"cannot write to {folder}: {words}; choose another place") from error


def _swap(new: Path, path: Path) -> None:
    """Move `new` to `path`. What was there is at `new` afterwards, or removed; it is put back if that fails."""
    if not path.exists():
        os.rename(new, path)
    elif not exchange(new, path):
        with set_aside(path):
            os.rename(new, path)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, so that there is no moment without either; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    return call is not None and call(HERE, os.fsencode(one), HERE, os.fsencode(other), RENAME_EXCHANGE) == 0
