"""Files whose hash was compared before and that have not changed since: hashing two gigabytes takes longer than all else of a load.

The record of a bundle lies in the user's state folder. A file counts as unchanged while its size, its times of change, its inode and its
device are those it had when its hash was found right; whoever can fake these can also change this program.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from sdic_runtime.errors import SdicError
from sdic_runtime.files import read_regular, replacing
from sdic_runtime.parsing.json_text import JsonError, parse_json

FOLDER = "checked"
LARGEST = 4 << 20  # bytes of a record
SETTLED = 2_000_000_000  # nanoseconds without a change, below which another one could bear the same time

Stamp: TypeAlias = tuple[int, int, int, int, int]


class Entry(msgspec.Struct, frozen=True):
    """A file as it was when its hash was compared."""

    sha256: str
    stamp: Stamp


class Record:
    """What is known of the files of the bundle in `folder`. Nothing is raised: without a record, every hash is computed."""

    def __init__(self, folder: Path) -> None:
        self._entries: dict[str, Entry] = {}
        self._new = False
        self._path: Path | None = None
        with suppress(OSError, RuntimeError, JsonError):
            name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
            self._path = _state() / FOLDER / f"{name}.json"
            self._entries = parse_json(read_regular(self._path, LARGEST), dict[str, Entry])

    def has(self, path: Path, sha256: str) -> bool:
        """Whether this file had this hash before, and has not changed since."""
        entry = self._entries.get(str(path))
        with suppress(OSError):
            return entry is not None and entry == Entry(sha256, _stamp(path.stat()))
        return False

    def add(self, path: Path, sha256: str, before: os.stat_result) -> None:
        """Note that this file has this hash, where it is as it was `before` the hash was computed."""
        with suppress(OSError):
            stamp = _stamp(before)
            if stamp == _stamp(path.stat()) and time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED:
                self._entries[str(path)], self._new = Entry(sha256, stamp), True

    def save(self) -> None:
        """Write what is new, where the user has a place for it."""
        if not self._new or self._path is None:
            return
        with suppress(OSError, SdicError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                temporary.write_bytes(msgspec.json.encode(self._entries))
            self._new = False


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _state() -> Path:
    """The folder of what this program remembers. Raises RuntimeError where the user has no home."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "sdic"
