"""Tensors in GPU memory, and a pool that plans each buffer once and hands it out again."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.dlpack import to_capsule
from sdic_runtime.backends.cuda.driver import Gpu

ALIGNMENT = 256  # bytes; sizes are rounded up to it


@dataclass(eq=False)
class DeviceTensor:
    """A dense array in device memory. Its memory returns to the pool when nobody holds it any more. `__dlpack__` hands it to torch or cupy
    without a copy; they hold it then."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    keeps: Any = None  # whoever owns the memory, where that is not the pool
    settle: Callable[[], None] | None = None

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def part(self, first: int, end: int) -> DeviceTensor:
        """The elements `first` to `end` of axis 0 where they lie; they keep this tensor."""
        shape = (max(0, end - first), *self.shape[1:])
        step = prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceTensor(self.address + first * step, shape, self.dtype, self.device, self, self.settle)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        """A capsule. The work that fills the tensor is waited for, so its reader need not wait for any stream."""
        if self.settle is not None:
            self.settle()
        return to_capsule(self, self.address, self.shape, self.dtype, self.device)


class BufferPool:
    """Device memory by size. A buffer that is given back is handed out again before anything new is allocated. Not safe for several threads
    by itself: the backend holds its lock."""

    def __init__(self, gpu: Gpu, device: tuple[int, int], settle: Callable[[], None] | None = None) -> None:
        """`settle` waits for all work on the GPU; it is called before another library reads a tensor."""
        self.gpu, self.device, self.settle = gpu, device, settle
        self._free: dict[int, list[int]] = defaultdict(list)
        self._recording: list[DeviceTensor] | None = None
        self._all: list[int] = []

    def tensor(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceTensor:
        """A new tensor with memory of its own. Raises OutOfMemoryError."""
        kind = np.dtype(dtype)
        size = max(1, -(-prod(shape) * kind.itemsize // ALIGNMENT)) * ALIGNMENT
        free = self._free[size]
        if not free:
            self._all.append(self.gpu.allocate(size))
            free.append(self._all[-1])
        address = free.pop()
        tensor = DeviceTensor(address, shape, kind, self.device, settle=self.settle)
        weakref.finalize(tensor, free.append, address).atexit = False
        if self._recording is not None:
            self._recording.append(tensor)
        return tensor

    @contextmanager
    def holding(self) -> Iterator[list[DeviceTensor]]:
        """Keep every tensor that is made in the block: a captured graph goes on writing to their addresses."""
        self._recording = []
        try:
            yield self._recording
        finally:
            self._recording = None

    def close(self) -> None:
        """Free all memory; tensors that are still held must not be used after it."""
        for address in self._all:
            self.gpu.free(address)
        self._all.clear()
        self._free.clear()
