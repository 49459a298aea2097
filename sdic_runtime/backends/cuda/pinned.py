"""Page-locked host memory, which a GPU reads and writes by itself, as numpy arrays; used again when nobody holds them any more."""

from __future__ import annotations

import os
import weakref
from collections import defaultdict, deque
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.driver import Gpu
from sdic_runtime.errors import SdicError

# Of one pool. The system can neither move nor swap such memory, and callers may keep thousands of pictures; this is 20 float32 pictures of
# 1024 x 1024, or five calls with a batch of four.
MOST_BYTES = 256 << 20
PAGE = 4096  # bytes; sizes are rounded up to it

_forks = 0


def _forking() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking)


class _Memory:
    """What numpy keeps as long as an array in this memory, or a view of it."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": dtype.str}


class PinnedPool:
    """Page-locked memory by size. Not safe for several threads by itself, as `BufferPool`; but its arrays may be let go in any thread."""

    def __init__(self, gpu: Gpu, most: int = MOST_BYTES) -> None:
        """`most`: bytes that are page-locked at a time, in use or not."""
        self.gpu = gpu
        self._most, self._bytes = most, 0
        self._free: dict[int, list[int]] = defaultdict(list)
        self._returned: deque[tuple[int, int, bool]] = deque()  # size, address, whether another process may hold it
        self._closed = False

    def array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray | None:
        """A new array, its values undefined; None where there is no page-locked memory for it. Belongs inside `Gpu.active`."""
        forks, kind = _forks, np.dtype(dtype)
        size = -(-prod(shape) * kind.itemsize // PAGE) * PAGE
        address = self._address(size) if size else None
        if address is None:
            return None
        memory = _Memory(address, shape, kind)
        weakref.finalize(memory, self._take_back, size, address, forks).atexit = False
        return np.asarray(memory)

    def close(self) -> None:
        """Free the memory that nobody holds; the rest is freed as soon as it is let go."""
        self._closed = True
        self._sort()
        self._drop_free()

    def _address(self, size: int) -> int | None:
        self._sort()
        if self._free[size]:
            return self._free[size].pop()
        if self._bytes + size > self._most:
            self._drop_free()
        if self._bytes + size > self._most:
            return None
        try:
            address = self.gpu.allocate_host(size)
        except SdicError:
            self._most = self._bytes + size - PAGE  # asking in vain takes time too
            return None
        self._bytes += size
        return address

    def _take_back(self, size: int, address: int, forks: int) -> None:
        # Whatever thread this is, it may be in the middle of the pool: appending is all that is safe here.
        self._returned.append((size, address, forks != _forks))
        if self._closed:
            with suppress(SdicError), self.gpu.active():
                self._sort()

    def _sort(self) -> None:
        """Put what was given back where it is found again; but free what a process that forked off may still hold: such memory is shared
        with it, and nothing is copied when it is written to."""
        with suppress(IndexError):
            while True:
                size, address, shared = self._returned.popleft()
                if shared or self._closed:
                    self._release(size, address)
                else:
                    self._free[size].append(address)

    def _drop_free(self) -> None:
        for size, addresses in self._free.items():
            while addresses:
                self._release(size, addresses.pop())

    def _release(self, size: int, address: int) -> None:
        with suppress(SdicError):
            self.gpu.free_host(address)
        self._bytes -= size
