"""What is done of a video already: kept beside the result while it is made, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from sdic_runtime.errors import FileError
from sdic_runtime.files import reason, remedy, replacing

WORK, LOOK, PARTS, LOCK = "work", "look.jsonl", "parts.jsonl", "lock"


class Seen(msgspec.Struct):
    """A block of frames that was looked at; `frames`: (ticks, duration, whether a shot begins, faces), a face being its track, its score
    and its points; see `faces.Sighting`."""

    first: int
    frames: list[tuple[int, int, bool, list[tuple[int, float, bytes]]]]


class Done(msgspec.Struct):
    """A part that is written: frames [first, end), its file's size, and what was measured."""

    file: str
    first: int
    end: int
    depth: int
    size: int
    source: float
    edited: float
    count: int
    faces: int  # frames with an edit


class Journal:
    """The folder of one result. Only whole lines count, and only while the work is the same."""

    def __init__(self, out: Path, work: str) -> None:
        self.folder = out.with_name(f".{out.name}.sdic-video")
        self._out, self._work = out, work
        self.seen: list[Seen] = []
        self.done: list[Done] = []
        self._kept = False  # whether there is something to continue from

    @contextmanager
    def opened(self) -> Iterator[bool]:
        """Hold the folder; gives whether there was other work in it, which is gone. The folder vanishes when the block ends well, and
        where nothing was done. Raises FileError where it is in use or cannot be written."""
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            raise FileError(f"another run is writing {self._out}; wait for it, or choose another name with --out") from None
        except OSError as error:
            raise self._failure(error) from error
        try:
            yield self._read()
            self._kept = False
        finally:
            lock.release()
            if not self._kept:
                shutil.rmtree(self.folder, ignore_errors=True)

    def drop(self) -> None:
        """Nothing can be continued from what is there: let the folder vanish, however the block ends."""
        self._kept = False

    def _failure(self, error: OSError) -> FileError:
        return FileError(f"cannot write beside {self._out}: {reason(error)}; {remedy(error)}")

    def _read(self) -> bool:
        """Take what is there of the same work; whether there was other work."""
        try:
            found: str | None = (self.folder / WORK).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            found = None
        if found != self._work:
            for path in self.folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
            with replacing(self.folder / WORK) as temporary:
                temporary.write_text(self._work, encoding="utf-8")
            return found is not None
        for seen in self._lines(LOOK, Seen):
            if seen.first != sum(len(one.frames) for one in self.seen):
                break
            self.seen.append(seen)
        for done in self._lines(PARTS, Done):
            path = self.folder / done.file
            if done.first != (self.done[-1].end if self.done else 0) or not path.exists() or path.stat().st_size != done.size:
                break
            self.done.append(done)
        for name, entries in ((LOOK, self.seen), (PARTS, self.done)):
            with replacing(self.folder / name) as temporary:  # without what does not count
                temporary.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        self._kept = bool(self.seen or self.done)
        return False

    def _lines(self, name: str, kind: type[Any]) -> Iterator[Any]:
        """The whole lines of a file, up to the first that is damaged."""
        with suppress(FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            for line in (self.folder / name).read_bytes().split(b"\n")[:-1]:
                yield msgspec.json.decode(line, type=kind)

    def add(self, entry: Seen | Done) -> None:
        """Note what is done; it is on the disk when this returns."""
        entries: list[Any] = self.seen if isinstance(entry, Seen) else self.done
        entries.append(entry)
        self._kept = True
        try:
            with (self.folder / (LOOK if isinstance(entry, Seen) else PARTS)).open("ab") as stream:
                stream.write(msgspec.json.encode(entry) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._failure(error) from error


def work_of(facts: Sequence[Any]) -> str:
    """A text that is equal where all that a result depends on is equal."""
    return json.dumps(facts, sort_keys=True, default=str)
