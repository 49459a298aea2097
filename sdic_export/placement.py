"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason


def check_place(path: Path, force: bool) -> None:
    """Raise ArgumentError when no bundle may be written to `path`; cheap, so that it can be asked before hours of work."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file; name a folder for the bundle")
    if path.is_dir() and any(path.iterdir()):
        if not (path / MANIFEST_NAME).is_file():
            raise ArgumentError(f"{path} is a folder with other files in it, which are not overwritten; name a new folder")
        if not force:
            raise ArgumentError(f"there is already a bundle at {path}; replace it with --force or name another folder")


@contextmanager
def placed_folder(path: Path, force: bool = False, check: Callable[[Path, bool], None] = check_place) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` when the block ends well and vanishes when it does not, Ctrl-C included.

    `check` refuses places that may not be written to, by default for a bundle. What is there is replaced with `force`; it stays untouched
    until the new folder is complete. Raises FileError.
    """
    path = Path(os.path.abspath(path))
    check(path, force)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise FileError(f"cannot write to {path.parent}: {reason(error)}; choose another place") from error
    try:
        yield temporary
        check(path, force)  # someone else may have built meanwhile
        _swap(temporary, path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {reason(error)}; choose another place or make room") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Move `new` to `path`; what was there is put back if that fails, and removed if it does not."""
    if not path.exists():
        os.rename(new, path)
        return
    old = path.with_name(f"{new.name}.old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
