"""The GPU in a few calls: contexts, memory, streams, copies and graphs, through pycuda or the prebuilt `cuda-bindings`.

pycuda is taken where it is installed; it has to be compiled against a CUDA toolkit, so where it is not, `cuda-bindings` does the same from
a wheel. Nothing here needs nvcc. pycuda has no stream capture: graphs always go through `cuda-bindings`.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np

from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError, SdicError

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
MAKE_ROOM = "use a smaller batch or close other programs that use the GPU"


@dataclass(frozen=True)
class GpuAttributes:
    """What compiled code depends on of a GPU; two cards of one name may differ in it."""

    compute_capability: str  # "8.9"
    multiprocessors: int
    memory_bus_bits: int
    l2_cache_bytes: int
    shared_memory_bytes: int  # per multiprocessor
    total_memory_bytes: int
    error_correction: bool
    name: str = field(default="", compare=False)  # for people only


class Bindings:
    """The driver's functions by name, through `cuda-bindings`. Raises BackendError for an error, or OutOfMemoryError."""

    package = "cuda-bindings"

    def __init__(self) -> None:
        """Raises ImportError."""
        self.cu: Any = importlib.import_module("cuda.bindings.driver")

    def __call__(self, function: str, *arguments: Any) -> Any:
        """What the function returns behind its error code."""
        error, *results = getattr(self.cu, function)(*arguments)
        if int(error) != 0:
            raise _failed(function, getattr(error, "name", str(error)), int(error) == OUT_OF_MEMORY)
        return results[0] if len(results) == 1 else tuple(results)

    def attribute(self, label: str, device: Any) -> int:
        """The value of CU_DEVICE_ATTRIBUTE_`label`."""
        return int(self("cuDeviceGetAttribute", getattr(self.cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{label}"), device))


class Pycuda:
    """The same functions through `pycuda`, without those for graphs."""

    package = "pycuda"

    def __init__(self) -> None:
        cu = self.cu = importlib.import_module("pycuda.driver")
        held: dict[int, Any] = {}  # address or handle -> pycuda's object: memory and streams go with it

        def hold(key: int, item: Any) -> int:
            held[key] = item
            return key

        def view(address: int, size: int) -> Any:
            return (ctypes.c_uint8 * size).from_address(address)

        self._functions: dict[str, Callable[..., Any]] = {
            "cuInit": lambda flags: cu.init(),
            "cuDeviceGetCount": cu.Device.count,
            "cuDeviceGet": cu.Device,
            "cuDeviceGetName": lambda size, device: device.name().encode(),
            "cuDeviceTotalMem": lambda device: device.total_memory(),
            "cuDevicePrimaryCtxRetain": lambda device: device.retain_primary_context(),
            "cuCtxPushCurrent": lambda context: context.push(),
            "cuCtxPopCurrent": cu.Context.pop,
            "cuMemAlloc": lambda size: hold(int(memory := cu.mem_alloc(size)), memory),
            "cuMemFree": lambda address: held.pop(address).free(),
            "cuMemAllocHost": lambda size: hold((array := cu.pagelocked_empty(size, np.uint8)).ctypes.data, array),
            "cuMemFreeHost": lambda address: held.pop(address).base.free(),
            "cuMemGetInfo": cu.mem_get_info,
            "cuStreamCreate": lambda flags: hold(int((stream := cu.Stream(flags)).handle), stream),
            "cuStreamSynchronize": lambda stream: held[stream].synchronize(),
            "cuMemcpyHtoDAsync": lambda target, source, size, stream: cu.memcpy_htod_async(target, view(source, size), held[stream]),
            "cuMemcpyDtoHAsync": lambda target, source, size, stream: cu.memcpy_dtoh_async(view(target, size), source, held[stream]),
            "cuMemcpyDtoDAsync": lambda target, source, size, stream: cu.memcpy_dtod_async(target, source, size, held[stream]),
        }

    def __call__(self, function: str, *arguments: Any) -> Any:
        try:
            return self._functions[function](*arguments)
        except self.cu.Error as error:
            raise _failed(function, " ".join(str(error).split()), isinstance(error, self.cu.MemoryError)) from error

    def attribute(self, label: str, device: Any) -> int:
        return int(device.get_attribute(getattr(self.cu.device_attribute, label)))


def _failed(function: str, why: str, memory: bool) -> SdicError:
    if memory:
        return OutOfMemoryError(f"not enough GPU memory for {function}; {MAKE_ROOM}")
    return BackendError(f"the GPU driver failed in {function} with {why}; restart the program, and see nvidia-smi if it happens again")


class CudaGraphs:
    """Work on a stream, captured once and launched again."""

    def __init__(self, driver: Bindings) -> None:
        self._call = driver

    def begin(self, stream: int) -> None:
        self._call("cuStreamBeginCapture", stream, self._call.cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end(self, stream: int) -> Any:
        """The captured work, ready to be launched; None when the capture broke."""
        with suppress(SdicError):
            graph = self._call("cuStreamEndCapture", stream)
            if graph is None or int(graph) == 0:
                return None
            try:
                return self._call("cuGraphInstantiate", graph, 0)
            finally:
                self._call("cuGraphDestroy", graph)
        return None

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy(self, graph: Any) -> None:
        self._call("cuGraphExecDestroy", graph)


class Gpu:
    """One GPU. Addresses and streams are plain integers; all that touches memory or streams belongs inside `active()`. `graphs` is None
    where nothing can be captured. Raises BackendError where the driver fails."""

    def __init__(self, driver: Bindings | Pycuda, index: int) -> None:
        self._call = driver
        bindings = driver if isinstance(driver, Bindings) else _first(Bindings)
        self.graphs = CudaGraphs(bindings) if isinstance(bindings, Bindings) else None
        self._device = driver("cuDeviceGet", index)
        self._context = driver("cuDevicePrimaryCtxRetain", self._device)

    @property
    def name(self) -> str:
        """The package behind it, with its version."""
        return f"{self._call.package} {version(self._call.package)}"

    def attributes(self) -> GpuAttributes:
        read = partial(self._call.attribute, device=self._device)
        return GpuAttributes(
            f"{read('COMPUTE_CAPABILITY_MAJOR')}.{read('COMPUTE_CAPABILITY_MINOR')}",
            read("MULTIPROCESSOR_COUNT"),
            read("GLOBAL_MEMORY_BUS_WIDTH"),
            read("L2_CACHE_SIZE"),
            read("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
            int(self._call("cuDeviceTotalMem", self._device)),
            bool(read("ECC_ENABLED")),
            self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode(),
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """The calls inside run on this GPU, from any thread."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes. Raises OutOfMemoryError."""
        try:
            return int(self._call("cuMemAlloc", size))
        except OutOfMemoryError as error:
            raise out_of_memory(size, *self.memory()) from error

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_host(self, size: int) -> int:
        """The address of `size` new bytes of page-locked host memory. Raises SdicError where the driver has none to give."""
        return int(self._call("cuMemAllocHost", size))

    def free_host(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def new_stream(self) -> int:
        return int(self._call("cuStreamCreate", NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, size, stream)


def out_of_memory(size: int, free: int, total: int) -> OutOfMemoryError:
    """The error for an allocation of `size` bytes that failed."""
    needed, left, whole = (f"{count / 2**20:.0f}" for count in (size, free, total))
    return OutOfMemoryError(f"not enough GPU memory: {needed} MB are needed and {left} of {whole} MB are free; {MAKE_ROOM}")


def _first(*kinds: type[Pycuda] | type[Bindings]) -> Pycuda | Bindings | None:
    """The first of `kinds` whose package is installed."""
    for kind in kinds:
        with suppress(ImportError):
            return kind()
    return None


def missing_driver() -> str | None:
    """Why no GPU can be reached from Python, in a few words; None when one can be asked for."""
    return None if _first(Pycuda, Bindings) else 'it needs the package "cuda-bindings" (or pycuda)'


@lru_cache(maxsize=1)
def gpu_count() -> int:
    """How many NVIDIA GPUs can be used; 0 without a driver, and without a package to ask it with."""
    driver = _first(Pycuda, Bindings)
    if driver is None:
        return 0
    try:
        driver("cuInit", 0)
        return int(driver("cuDeviceGetCount"))
    except Exception:  # without libcuda the packages raise errors of their own, of kinds that changed between versions
        return 0


def open_gpu(index: int = 0) -> Gpu:
    """GPU number `index`. Raises BackendError when there is none, MissingExtraError, or ArgumentError for a number that is none."""
    driver = _first(Pycuda, Bindings)
    if driver is None:
        raise BackendError('a GPU needs the package "cuda-bindings"; install it with: pip install cuda-bindings')
    count = gpu_count()
    if count == 0:
        why = "there is no NVIDIA GPU here, or its driver does not work (see nvidia-smi)"
        raise BackendError(f'{why}; use backend="onnxruntime" for the CPU')
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise ArgumentError(f"the GPU is {index}, and there {'is' if count == 1 else 'are'} {count}; use 0 to {count - 1}")
    return Gpu(driver, index)
