"""Temporary files and folders that the next run recognizes as those of a process that died, and removes.

A temporary entry carries the machine and the boot of the process that made it in its name, and that process holds a lock (`flock`) on it:
the system releases the lock however the process ends. An entry is removed only when it is of this machine and nobody holds its lock, so
neither a living process of this machine, in a container or not, nor one of another machine that shares the folder loses its work. Where
locks do not work nothing is removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing removed
    fcntl = None  # type: ignore[assignment]

NAME = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})-[0-9a-f]{8}\.tmp")
ASIDE_NAME = re.compile(r"\.(?P<target>.+)\.(?P<host>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})\.old", re.DOTALL)
SOURCES = {"host": "/etc/machine-id", "boot": "/proc/sys/kernel/random/boot_id"}
_swept: set[Path] = set()  # folders that this process has looked through


@cache
def marks() -> dict[str, str]:
    """What names this machine and its boot, eight hexadecimal digits each. A container has the boot of its machine."""
    found = {}
    for mark, source in SOURCES.items():
        try:
            text = Path(source).read_text(encoding="ascii")
        except (OSError, ValueError):
            text = ""
        words = f"{text} {socket.gethostname()}" if mark == "host" or not text else text
        found[mark] = hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:8]
    return found


def new_name() -> str:
    """A name for a temporary file or folder, shorter than most names that its target may have."""
    return f".{marks()['host']}-{marks()['boot']}-{uuid.uuid4().hex[:8]}.tmp"


@contextmanager
def held(folder: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new entry of `folder`, made by `make` and locked for the length of the block; what is left of it afterwards is removed. Leftovers
    in `folder` are removed first, once per process. Raises OSError, also that of `make`."""
    if (place := Path(os.path.abspath(folder))) not in _swept:
        _swept.add(place)
        remove_dead(place)
    while True:
        path = folder / new_name()
        make(path)
        lock = _lock(path)
        if os.path.lexists(path) and (lock is None or _same(lock, path)):
            break
        if lock is not None:  # another process took it for a leftover before it was locked
            os.close(lock)
    try:
        yield path
    finally:
        remove(path)
        if lock is not None:
            os.close(lock)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, as far as the system allows."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_dead(folder: Path, others: bool = False) -> None:
    """Remove what dead processes left in `folder`. With `others` also what processes of other machines left: for callers that hold a lock
    of their own over all machines."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return
    for name in [name for name in names if (match := NAME.fullmatch(name)) and (others or _of_here(match))]:
        if (lock := _lock(folder / name, wait=False)) is not None:
            remove(folder / name)
            os.close(lock)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is the unfinished work of some process."""
    return NAME.fullmatch(name) is not None


@contextmanager
def set_aside(path: Path) -> Iterator[Path]:
    """Move the folder `path` aside for the length of the block. It comes back when the block fails, and by `bring_back` when the process
    dies in it; it is removed when the block ends well. Raises OSError."""
    aside = path.with_name(f".{path.name}.{marks()['host']}-{marks()['boot']}.old")
    lock = _lock(path)
    try:
        os.rename(path, aside)
        try:
            yield aside
        except BaseException:
            os.rename(aside, path)
            raise
        remove(aside)
    finally:
        if lock is not None:
            os.close(lock)


def bring_back(path: Path) -> None:
    """Put back the folder that a process of this machine had set aside when it died, or remove it where a new one is in place already."""
    path = Path(os.path.abspath(path))
    for aside in _set_aside_from(path):
        if (lock := _lock(aside, wait=False)) is None:
            continue
        with suppress(OSError):
            if os.path.lexists(path):
                remove(aside)
            else:
                os.rename(aside, path)
        os.close(lock)


def _set_aside_from(path: Path) -> list[Path]:
    try:
        matches = [match for entry in os.scandir(path.parent) if (match := ASIDE_NAME.fullmatch(entry.name))]
    except OSError:
        return []
    return [path.with_name(match[0]) for match in matches if match["target"] == path.name and _of_here(match)]


def _of_here(match: re.Match[str]) -> bool:
    return match["boot"] == marks()["boot"] or match["host"] == marks()["host"]


def _lock(path: Path, wait: bool = True) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where another process has it or locks do not work."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
