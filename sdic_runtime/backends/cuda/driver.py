"""The GPU in a few calls: contexts, memory, streams, copies and graphs, through pycuda or the prebuilt `cuda-bindings`.

pycuda is taken where it is installed; it has to be compiled against a CUDA toolkit, so where it is not, `cuda-bindings` does the same from
a wheel. Nothing here needs nvcc. pycuda has no stream capture: graphs always go through `cuda-bindings`.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from sdic_runtime.backends.tensorrt.engine_files import GpuAttributes
from sdic_runtime.errors import MissingExtraError, SdicError

DRIVERS = ("pycuda.driver", "cuda.bindings.driver")
NO_GRAPHS = 'pycuda has no stream capture and the package "cuda-bindings" is not installed'
# Field of GpuAttributes -> the driver's name for it.
ATTRIBUTES = {
    "multiprocessors": "MULTIPROCESSOR_COUNT",
    "memory_bus_bits": "GLOBAL_MEMORY_BUS_WIDTH",
    "l2_cache_bytes": "L2_CACHE_SIZE",
    "shared_memory_bytes": "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
    "error_correction": "ECC_ENABLED",
}


class Cuda(Protocol):
    """What the runtime needs of a GPU. Addresses, streams and graphs are plain integers or opaque objects of the driver."""

    @property
    def name(self) -> str:
        """The package behind it, with its version."""

    def attributes(self) -> GpuAttributes: ...

    def active(self) -> Any:
        """A context manager: the calls inside run on this GPU, from any thread."""

    def allocate(self, size: int) -> int: ...

    def free(self, address: int) -> None: ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    def new_stream(self) -> int: ...

    def synchronize(self, stream: int) -> None: ...

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None: ...

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None: ...

    def copy(self, target: int, source: int, size: int, stream: int) -> None: ...

    def obstacle_to_graphs(self) -> str | None:
        """Why nothing can be captured, or None."""

    def begin_capture(self, stream: int) -> None: ...

    def end_capture(self, stream: int) -> Any:
        """The captured work, ready to be launched; None when the capture broke."""

    def launch(self, graph: Any, stream: int) -> None: ...

    def destroy_graph(self, graph: Any) -> None: ...


def missing_driver() -> str | None:
    """Why no GPU can be reached from Python, in a few words; None when one can be asked for."""
    for module in DRIVERS:
        try:
            importlib.import_module(module)
            return None
        except ImportError:
            continue
    return 'it needs the package "cuda-bindings" (or pycuda)'


@lru_cache(maxsize=1)
def gpu_count() -> int:
    """How many NVIDIA GPUs can be used; 0 without a driver, and without a package to ask it with."""
    try:
        return int(_driver().count())
    except (SdicError, RuntimeError):
        return 0


def open_gpu(index: int = 0) -> Cuda:
    """GPU number `index`. Raises SdicError when there is none."""
    driver = _driver()
    count = driver.count()
    if count == 0:
        raise SdicError('there is no NVIDIA GPU here, or its driver does not work (see nvidia-smi); use backend="onnxruntime" for the CPU')
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise SdicError(f"the GPU is {index}, and there {'is' if count == 1 else 'are'} {count}; use 0 to {count - 1}")
    return driver(index)


def _driver() -> Any:
    for module, driver in zip(DRIVERS, (PycudaGpu, BindingsGpu), strict=True):
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        return driver
    raise MissingExtraError("cuda-bindings", "tensorrt", "a GPU")


def out_of_memory(size: int, gpu: Cuda) -> SdicError:
    """The error for an allocation of `size` bytes that failed."""
    free, total = gpu.memory()
    return SdicError(
        f"not enough GPU memory: {size / 2**20:.0f} MB are needed and {free / 2**20:.0f} of {total / 2**20:.0f} MB are free; "
        "use a smaller batch or close other programs that use the GPU"
    )


class BindingsGpu:
    """A GPU through `cuda.bindings.driver`."""

    def __init__(self, index: int) -> None:
        self._cu: Any = importlib.import_module("cuda.bindings.driver")
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    @classmethod
    def count(cls) -> int:
        """Usable GPUs; 0 without a driver."""
        cu: Any = importlib.import_module("cuda.bindings.driver")
        try:
            if int(cu.cuInit(0)[0]) != 0:
                return 0
            error, count = cu.cuDeviceGetCount()
        except Exception:  # without libcuda the package raises its own errors, of kinds that changed between its versions
            return 0
        return int(count) if int(error) == 0 else 0

    @property
    def name(self) -> str:
        from importlib.metadata import version

        return f"cuda-bindings {version('cuda-bindings')}"

    def attributes(self) -> GpuAttributes:
        def read(label: str) -> int:
            attribute = getattr(self._cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{label}")
            return int(self._call("cuDeviceGetAttribute", attribute, self._device))

        capability = f"{read('COMPUTE_CAPABILITY_MAJOR')}.{read('COMPUTE_CAPABILITY_MINOR')}"
        label = self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        total = int(self._call("cuDeviceTotalMem", self._device))
        return _attributes(capability, total, label, {name: read(label) for name, label in ATTRIBUTES.items()})

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        error, address = self._cu.cuMemAlloc(size)
        if int(error) == int(self._cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY):
            raise out_of_memory(size, self)
        self._check(error, "cuMemAlloc")
        return int(address)

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def new_stream(self) -> int:
        return int(self._call("cuStreamCreate", self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, size, stream)

    def obstacle_to_graphs(self) -> str | None:
        return None

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture", stream, self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> Any:
        error, graph = self._cu.cuStreamEndCapture(stream)
        if int(error) != 0 or graph is None or int(graph) == 0:
            return None
        error, ready = self._cu.cuGraphInstantiate(graph, 0)
        self._call("cuGraphDestroy", graph)
        return ready if int(error) == 0 else None

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call("cuGraphExecDestroy", graph)

    def _call(self, function: str, *arguments: Any) -> Any:
        """What the driver's function returns behind its error code. Raises SdicError for an error."""
        error, *results = getattr(self._cu, function)(*arguments)
        self._check(error, function)
        return results[0] if len(results) == 1 else tuple(results)

    def _check(self, error: Any, function: str) -> None:
        if int(error) != 0:
            name = getattr(error, "name", str(error))
            raise SdicError(f"the GPU driver failed in {function} with {name}; restart the program, and see nvidia-smi if it happens again")


class PycudaGpu:
    """A GPU through `pycuda.driver`; graphs through `cuda.bindings` on the same stream."""

    _ready = threading.Lock()

    def __init__(self, index: int) -> None:
        self._cu: Any = importlib.import_module("pycuda.driver")
        self._device = self._cu.Device(index)
        self._context = self._device.retain_primary_context()
        self._streams: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}
        self._graphs: BindingsGpu | None = None
        if _importable("cuda.bindings.driver") and BindingsGpu.count():
            self._graphs = BindingsGpu(index)

    @classmethod
    def count(cls) -> int:
        """Usable GPUs; 0 without a driver."""
        cu: Any = importlib.import_module("pycuda.driver")
        try:
            with cls._ready:
                cu.init()
            return int(cu.Device.count())
        except cu.Error:
            return 0

    @property
    def name(self) -> str:
        import pycuda

        return f"pycuda {pycuda.VERSION_TEXT}"

    def attributes(self) -> GpuAttributes:
        def read(label: str) -> int:
            return int(self._device.get_attribute(getattr(self._cu.device_attribute, label)))

        capability = ".".join(str(part) for part in self._device.compute_capability())
        values = {name: read(label) for name, label in ATTRIBUTES.items()}
        return _attributes(capability, int(self._device.total_memory()), self._device.name(), values)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cu.Context.pop()

    def allocate(self, size: int) -> int:
        try:
            allocation = self._cu.mem_alloc(size)
        except self._cu.MemoryError as error:
            raise out_of_memory(size, self) from error
        self._allocations[int(allocation)] = allocation  # pycuda frees the memory with this object
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def memory(self) -> tuple[int, int]:
        free, total = self._cu.mem_get_info()
        return int(free), int(total)

    def new_stream(self) -> int:
        stream = self._cu.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronize(self, stream: int) -> None:
        self._streams[stream].synchronize()

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self._cu.memcpy_htod_async(address, array, self._streams[stream])

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self._cu.memcpy_dtoh_async(array, address, self._streams[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._cu.memcpy_dtod_async(target, source, size, self._streams[stream])

    def obstacle_to_graphs(self) -> str | None:
        return None if self._graphs else NO_GRAPHS

    def begin_capture(self, stream: int) -> None:
        self._graph_driver().begin_capture(stream)

    def end_capture(self, stream: int) -> Any:
        return self._graph_driver().end_capture(stream)

    def launch(self, graph: Any, stream: int) -> None:
        self._graph_driver().launch(graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._graph_driver().destroy_graph(graph)

    def _graph_driver(self) -> BindingsGpu:
        if self._graphs is None:
            raise SdicError(f"no CUDA graph can be captured: {NO_GRAPHS}; install it with: pip install cuda-bindings")
        return self._graphs


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _attributes(capability: str, total: int, name: str, values: dict[str, int]) -> GpuAttributes:
    return GpuAttributes(
        capability,
        values["multiprocessors"],
        values["memory_bus_bits"],
        values["l2_cache_bytes"],
        values["shared_memory_bytes"],
        total,
        bool(values["error_correction"]),
        name,
    )
