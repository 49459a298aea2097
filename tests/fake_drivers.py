"""The two packages that reach the GPU's driver, as far as they are used, without a driver."""

from __future__ import annotations

import enum
import types
from typing import Any

import numpy as np


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_LAUNCH_FAILED = 719


class Any_:
    """Attribute names as their own values."""

    def __getattr__(self, name: str) -> str:
        return name


def bindings(devices: int = 1, **changes: Any) -> types.ModuleType:
    """What `cuda.bindings.driver` offers, with numbers made up; `calls` lists the calls."""
    calls: list[tuple[Any, ...]] = []
    attributes = {
        "COMPUTE_CAPABILITY_MAJOR": 8,
        "COMPUTE_CAPABILITY_MINOR": 9,
        "MULTIPROCESSOR_COUNT": 128,
        "GLOBAL_MEMORY_BUS_WIDTH": 384,
        "L2_CACHE_SIZE": 72 << 20,
        "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 100 << 10,
        "ECC_ENABLED": 0,
    }
    answers: dict[str, Any] = {
        "cuInit": lambda flags: (Result(0),),
        "cuDeviceGetCount": lambda: (Result(0), devices),
        "cuDeviceGet": lambda index: (Result(0), index),
        "cuDevicePrimaryCtxRetain": lambda device: (Result(0), "context"),
        "cuDeviceTotalMem": lambda device: (Result(0), 24 << 30),
        "cuDeviceGetName": lambda size, device: (Result(0), b"Fake GPU\0\0"),
        "cuDeviceGetAttribute": lambda name, device: (Result(0), attributes[name.removeprefix("CU_DEVICE_ATTRIBUTE_")]),
        "cuMemAlloc": lambda size: (Result(0), 4096),
        "cuMemAllocHost": lambda bytesize: (Result(0), 8192),
        "cuMemGetInfo": lambda: (Result(0), 1 << 30, 24 << 30),
        "cuStreamCreate": lambda flags: (Result(0), 11),
        "cuStreamEndCapture": lambda stream: (Result(0), 5),
        "cuGraphInstantiate": lambda graph, flags: (Result(0), "ready"),
        "cuCtxPopCurrent": lambda: (Result(0), "context"),
        **changes,
    }
    module = types.ModuleType("cuda.bindings.driver")

    def answer(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append((name, *arguments))
            return answers.get(name, lambda *given: (Result(0),))(*arguments)

        return call

    module.__getattr__ = lambda name: answer(name)  # type: ignore[method-assign]
    vars(module).update(CUresult=Result, CUdevice_attribute=Any_(), CUstream_flags=Any_(), CUstreamCaptureMode=Any_(), calls=calls)
    return module


class Held:
    """What pycuda.mem_alloc gives: memory that is freed with the object."""

    living = 0

    def __init__(self, size: int) -> None:
        Held.living += 1

    def __int__(self) -> int:
        return id(self)

    def free(self) -> None:
        Held.living -= 1


class Pinned:
    """What lies behind an array of pycuda.pagelocked_empty."""

    living = 0

    def __init__(self, size: int) -> None:
        Pinned.living += 1
        self.buffer = np.zeros(size, np.uint8)
        self.__array_interface__ = self.buffer.__array_interface__

    def free(self) -> None:
        Pinned.living -= 1


def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    assert dtype == np.uint8
    return np.asarray(Pinned(shape))


def pycuda_driver() -> types.ModuleType:
    """What `pycuda.driver` offers, as far as it is used."""

    class Stream:
        handle = 21

        def __init__(self, flags: int) -> None:
            self.waits = 0

        def synchronize(self) -> None:
            self.waits += 1

    class Device:
        count = staticmethod(lambda: 1)

        def __init__(self, index: int) -> None:
            self.context = types.SimpleNamespace(push=lambda: module.pushed.append(1))

        def retain_primary_context(self) -> Any:
            return self.context

        def get_attribute(self, name: str) -> int:
            known = {"COMPUTE_CAPABILITY_MAJOR": 9, "COMPUTE_CAPABILITY_MINOR": 0, "MULTIPROCESSOR_COUNT": 132, "ECC_ENABLED": 1}
            return known.get(name, 64)

        total_memory = staticmethod(lambda: 141 << 30)
        name = staticmethod(lambda: "Hopper")

    class Error(Exception):
        pass

    class OutOfMemory(Error):
        pass

    def copy(target: Any, source: Any, *rest: Any) -> None:
        module.copies.append((target, source, *rest))

    module: Any = types.ModuleType("pycuda.driver")
    vars(module).update(
        Device=Device,
        Stream=Stream,
        mem_alloc=Held,
        pagelocked_empty=pagelocked_empty,
        init=lambda: None,
        Error=Error,
        MemoryError=OutOfMemory,
        copies=[],
        memcpy_htod_async=copy,
        memcpy_dtoh_async=copy,
        memcpy_dtod_async=copy,
        pushed=[],
        device_attribute=Any_(),
        mem_get_info=lambda: (5, 10),
        Context=types.SimpleNamespace(pop=lambda: module.pushed.pop()),
    )
    return module
