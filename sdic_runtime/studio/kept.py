"""Pictures and inversions in memory, under handles that nobody can guess, for a limited time."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sdic_runtime.errors import ArgumentError, OutOfMemoryError

Item = TypeVar("Item")


class GoneError(ArgumentError):
    """There is nothing (any more) under a handle."""


@dataclass
class Entry(Generic[Item]):
    item: Item
    size: int  # bytes
    used: float  # seconds on the clock


class Kept(Generic[Item]):
    """At most `count` items of together `most` bytes; one that was not used for `lifetime` seconds is forgotten, and where room is needed
    the one that was not used for the longest time. For one thread."""

    def __init__(self, count: int, most: int, lifetime: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._most, self._lifetime, self._clock = count, most, lifetime, clock
        self._entries: OrderedDict[str, Entry[Item]] = OrderedDict()  # the one that was used last comes last
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: Item, size: int) -> str:
        """The handle of an item of `size` bytes. Raises OutOfMemoryError where it is larger than all that may be kept."""
        if size > self._most:
            raise OutOfMemoryError(f"this needs {size} bytes in memory, and the service keeps {self._most}; send a smaller picture")
        self.forget()
        while self._entries and (len(self._entries) >= self._count or self.size + size > self._most):
            self.drop(next(iter(self._entries)))
        handle = secrets.token_urlsafe(18)
        self._entries[handle] = Entry(item, size, self._clock())
        self.size += size
        return handle

    def get(self, handle: str) -> Item:
        """The item, whose lifetime starts again. Raises GoneError."""
        self.forget()
        if handle not in self._entries:
            raise GoneError("this picture is not here any more; send it again")
        entry = self._entries[handle]
        entry.used = self._clock()
        self._entries.move_to_end(handle)
        return entry.item

    def drop(self, handle: str) -> None:
        """Forget an item, where there is one."""
        entry = self._entries.pop(handle, None)
        self.size -= entry.size if entry else 0

    def forget(self) -> None:
        """Forget what was not used for too long."""
        oldest = self._clock() - self._lifetime
        for handle in [handle for handle, entry in self._entries.items() if entry.used < oldest]:
            self.drop(handle)
