"""A finished bundle is changed: by one process at a time, and so that it is the old or the new one at every moment.

New files get names that the bundle does not list yet, then the manifest is replaced in one move, then files that nothing lists any more are
deleted. Whoever computes for long does so before, and changes the manifest as it is then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import Manifest, file_entries, write_manifest
from sdic_runtime.errors import BundleError, FileError
from sdic_runtime.files import reason

LOCK = "directions/.lock"
WAIT = 10.0  # seconds, for a change that takes less than one


class Change:
    """A bundle that this process alone changes; see `changing`. What is about to be written goes into `tried` first."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.tried: set[str] = set()

    def write(self, new: Sequence[str] = (), gone: Sequence[str] = (), **fields: Any) -> Manifest:
        """Replace the manifest by one with these `fields`, which lists the files `new`, and then delete the files `gone`."""
        files = {name: entry for name, entry in self.manifest.files.items() if name not in gone} | file_entries(self.folder, new)
        self.manifest = msgspec.structs.replace(self.manifest, files=files, **fields)
        write_manifest(self.folder, self.manifest)
        delete(self.folder, set(gone))
        return self.manifest


@contextmanager
def changing(folder: Path, seen: Manifest | None = None) -> Iterator[Change]:
    """The bundle in `folder` as it is when nobody else changes it.

    Where the block fails, the files that it tried to write go again, but for those that the manifest on the disk lists. Raises FileError
    where someone else changes it, and BundleError where it is no longer the model whose manifest was `seen`.
    """
    from filelock import FileLock, Timeout

    path = Bundle.open(folder).path  # before anything is written into a folder that is none
    try:
        (path / LOCK).parent.mkdir(exist_ok=True)
        with FileLock(path / LOCK, timeout=WAIT):
            change = Change(path, Bundle.open(folder).manifest)
            if seen is not None and change.manifest.identity != seen.identity:
                raise BundleError(f"{folder} has become another model in the meantime; start again")
            try:
                yield change
            except BaseException:
                # A disk may fail when the new manifest is in place already: what that one lists stays.
                delete(path, change.tried - set(Bundle.open(folder).manifest.files))
                raise
    except Timeout:
        raise FileError(f"another process is changing {folder}; wait for it and try again") from None
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {reason(error)}; choose a bundle that you may change") from error


def delete(folder: Path, names: set[str]) -> None:
    """Delete files below `folder`, and the folders that are empty then, as far as the system allows."""
    for name in names:
        with suppress(OSError):  # an unlisted file does no harm
            (folder / name).unlink()
    for parent in {(folder / name).parent for name in names} - {folder}:
        with suppress(OSError):
            parent.rmdir()
