"""Tensors in GPU memory, and a pool that plans each buffer once and hands it out again."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.dlpack import Borrowed, to_capsule
from sdic_runtime.backends.cuda.driver import Gpu
from sdic_runtime.errors import OutOfMemoryError, SdicError

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

    @property
    def borrowed(self) -> bool:
        """Whether the memory is another library's."""
        owner = self.keeps
        while isinstance(owner, DeviceTensor):
            owner = owner.keeps
        return isinstance(owner, Borrowed)

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
        self._closed = False

    def tensor(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceTensor:
        """A new tensor with memory of its own. Raises OutOfMemoryError."""
        kind = np.dtype(dtype)
        size = max(1, -(-prod(shape) * kind.itemsize // ALIGNMENT)) * ALIGNMENT
        free = self._free[size]
        if not free:
            free.append(self._allocated(size))
        address = free.pop()
        tensor = DeviceTensor(address, shape, kind, self.device, settle=self.settle)
        weakref.finalize(tensor, self._take_back, size, address).atexit = False
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
        """Free the memory that nobody holds; the rest is freed as soon as it is let go."""
        self._closed = True
        self._drop_free()

    def _allocated(self, size: int) -> int:
        """New memory; what lies here unused is given back where there is none otherwise."""
        try:
            return self.gpu.allocate(size)
        except OutOfMemoryError:
            if self._recording is not None or not any(self._free.values()):
                raise
            if self.settle is not None:
                self.settle()
            self._drop_free()
            return self.gpu.allocate(size)

    def _drop_free(self) -> None:
        unused, self._free = self._free, defaultdict(list)  # at once: tensors that others let go meanwhile come back to the new one
        for address in [address for free in unused.values() for address in free]:
            self.gpu.free(address)

    def _take_back(self, size: int, address: int) -> None:
        if not self._closed:
            self._free[size].append(address)
            return
        with suppress(SdicError), self.gpu.active():
            self.gpu.free(address)
