"""A disk that fails: the Nth opening for writing, rename, making of a folder or sync of a command, for every N, as SQLite tests itself."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REFUSED, FULL = "refused", "full"  # the call fails; or the file opens, and what is written to it fails
CALLS = ("open", "mkdir", "rename", "replace", "fsync")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Counts what is done below `root` and fails at number `at`."""

    def __init__(self, root: Path, at: int, kind: str) -> None:
        self.root, self.at, self.kind, self.count, self.failed = str(root), at, kind, 0, ""

    def fails(self, what: str, path: Any) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if self.failed or not os.path.abspath(os.fsdecode(path)).startswith(self.root):
            return False
        self.count += 1
        if self.count == self.at:
            self.failed = f"{what} of {os.fsdecode(path)}"
        return bool(self.failed)

    def opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if not isinstance(file, int) and set(mode) & set("wax+") and self.fails(f"open {mode}", file):
                if self.kind == FULL:
                    return real("/dev/full", mode.replace("x", "w").replace("a", "w"), *more, **named)
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(file))
            return real(file, mode, *more, **named)

        return call

    def called(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            counts = name != "open" or bool(more[0] & WRITING)
            if counts and self.kind == REFUSED and self.fails(name, path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path if isinstance(path, int) else os.fsdecode(path))
            return real(path, *more, **named)

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        opened = self.opened(io.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        for name in CALLS:
            patch.setattr(os, name, self.called(name, getattr(os, name)))


def every_fault(root: Path, kind: str, prepare: Callable[[], object], run: Callable[[], int]) -> Iterator[tuple[str, int]]:
    """What failed and the exit code of `run`, called again and again, after `prepare`, until nothing is left to fail below `root`."""
    at = 0
    while True:
        at += 1
        prepare()
        disk = Disk(root, at, kind)
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            code = run()
        if not disk.failed:
            assert code == 0 and at > 1, f"no fault, and the exit code is {code}"
            return
        yield disk.failed, code
