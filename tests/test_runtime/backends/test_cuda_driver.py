"""The one module that talks to the GPU's driver, on fake drivers; on a real one where there is one."""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import numpy as np
import pytest

from sdic_runtime.backends.cuda import driver as driver_module
from sdic_runtime.backends.cuda.driver import Bindings, Gpu, Pycuda, gpu_count, missing_driver, open_gpu
from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError


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


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put modules in place of the drivers; None means that it is not installed."""

    def put(bound: types.ModuleType | None, pycuda: types.ModuleType | None = None) -> None:
        for name, module in (("cuda.bindings.driver", bound), ("pycuda.driver", pycuda)):
            monkeypatch.setitem(sys.modules, name, module)
        for name in ("cuda", "cuda.bindings", "pycuda"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        gpu_count.cache_clear()

    yield put
    gpu_count.cache_clear()


def test_without_a_package_it_says_which(install: Any) -> None:
    install(None)
    assert missing_driver() == 'it needs the package "cuda-bindings" (or pycuda)'
    assert gpu_count() == 0
    with pytest.raises(BackendError, match='^a GPU needs the package "cuda-bindings"; install it with: pip install cuda-bindings$'):
        open_gpu()


@pytest.mark.parametrize(
    "changes",
    [
        {"cuInit": lambda flags: (Result.CUDA_ERROR_LAUNCH_FAILED,)},
        {"cuDeviceGetCount": lambda: (Result.CUDA_ERROR_LAUNCH_FAILED, None)},
        {"cuDeviceGetCount": lambda: (Result(0), 0)},
    ],
)
def test_without_a_gpu_or_its_driver(install: Any, changes: dict[str, Any]) -> None:
    install(bindings(**changes))
    assert missing_driver() is None
    assert gpu_count() == 0
    with pytest.raises(BackendError, match=r"^there is no NVIDIA GPU here, or its driver does not work \(see nvidia-smi\); use backend="):
        open_gpu()


def test_a_driver_library_that_is_missing_is_no_gpu(install: Any) -> None:
    def fail(flags: int) -> Any:
        raise RuntimeError("libcuda.so.1 was not found")

    install(bindings(cuInit=fail))
    assert gpu_count() == 0


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (1, 1, "^the GPU is 1, and there is 1; use 0 to 0$"),
        (-1, 2, "^the GPU is -1, and there are 2; use 0 to 1$"),
        ("cuda", 1, "^the GPU is cuda"),
    ],
)
def test_a_gpu_that_is_not_there(install: Any, index: Any, count: int, message: str) -> None:
    install(bindings(count))
    with pytest.raises(ArgumentError, match=message):
        open_gpu(index)


def test_the_attributes_that_engines_depend_on(install: Any) -> None:
    install(bindings())
    found = open_gpu().attributes()
    assert (found.compute_capability, found.multiprocessors, found.memory_bus_bits, found.error_correction) == ("8.9", 128, 384, False)
    assert (found.l2_cache_bytes, found.shared_memory_bytes, found.total_memory_bytes) == (72 << 20, 100 << 10, 24 << 30)
    assert found.name == "Fake GPU"


def test_copies_and_streams_reach_the_driver(install: Any) -> None:
    driver = bindings()
    install(driver)
    gpu, array = open_gpu(), np.zeros(6, np.float32)
    with gpu.active():
        stream = gpu.new_stream()
        gpu.to_device(4096, array, stream)
        gpu.copy(8192, 4096, 24, stream)
        gpu.to_host(array, 8192, stream)
        gpu.synchronize(stream)
    names = [call[0] for call in driver.calls]
    assert names[names.index("cuCtxPushCurrent") :] == [
        "cuCtxPushCurrent",
        "cuStreamCreate",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
        "cuCtxPopCurrent",
    ]
    assert ("cuMemcpyHtoDAsync", 4096, array.ctypes.data, 24, 11) in driver.calls
    assert ("cuMemcpyDtoHAsync", array.ctypes.data, 8192, 24, 11) in driver.calls


def test_the_context_is_left_after_an_error(install: Any) -> None:
    driver = bindings()
    install(driver)
    gpu = open_gpu()
    with pytest.raises(ZeroDivisionError), gpu.active():
        raise ZeroDivisionError
    assert driver.calls[-1][0] == "cuCtxPopCurrent"


def test_out_of_memory_and_other_failures(install: Any) -> None:
    install(
        bindings(
            cuMemAlloc=lambda size: (Result.CUDA_ERROR_OUT_OF_MEMORY, None), cuMemFree=lambda address: (Result.CUDA_ERROR_LAUNCH_FAILED,)
        )
    )
    gpu = open_gpu()
    with pytest.raises(OutOfMemoryError) as caught:
        gpu.allocate(8 << 30)
    assert str(caught.value) == (
        "not enough GPU memory: 8192 MB are needed and 1024 of 24576 MB are free; use a smaller batch or close "
        "other programs that use the GPU"
    )
    with pytest.raises(BackendError, match="^the GPU driver failed in cuMemFree with CUDA_ERROR_LAUNCH_FAILED; restart the program"):
        gpu.free(4096)


def graphs() -> Any:
    found = open_gpu().graphs
    assert found is not None
    return found


def test_a_capture(install: Any) -> None:
    driver = bindings()
    install(driver)
    found = graphs()
    found.begin(11)
    assert found.end(11) == "ready"
    found.launch("ready", 11)
    assert ("cuGraphDestroy", 5) in driver.calls
    assert driver.calls[-1] == ("cuGraphLaunch", "ready", 11)


@pytest.mark.parametrize(
    "changes",
    [
        {"cuStreamEndCapture": lambda stream: (Result.CUDA_ERROR_LAUNCH_FAILED, None)},
        {"cuStreamEndCapture": lambda stream: (Result(0), 0)},
        {"cuGraphInstantiate": lambda graph, flags: (Result.CUDA_ERROR_LAUNCH_FAILED, None)},
        {"cuGraphInstantiate": lambda graph, flags: (Result.CUDA_ERROR_OUT_OF_MEMORY, None)},
    ],
)
def test_a_broken_capture_is_none_and_no_error(install: Any, changes: dict[str, Any]) -> None:
    install(bindings(**changes))
    assert graphs().end(11) is None


class Held:
    """What pycuda.mem_alloc gives: memory that is freed with the object."""

    living = 0

    def __init__(self, size: int) -> None:
        Held.living += 1

    def __int__(self) -> int:
        return id(self)

    def free(self) -> None:
        Held.living -= 1


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


def test_pycuda_is_taken_where_it_is_installed(install: Any) -> None:
    module: Any = pycuda_driver()
    install(bindings(0), module)
    gpu = open_gpu()
    found = gpu.attributes()
    assert (found.compute_capability, found.multiprocessors, found.error_correction, found.name) == ("9.0", 132, True, "Hopper")
    assert found.total_memory_bytes == 141 << 30
    before = Held.living
    address = gpu.allocate(100)
    assert Held.living == before + 1
    gpu.free(address)
    assert Held.living == before
    with gpu.active():
        assert module.pushed == [1]
        gpu.synchronize(gpu.new_stream())
    assert module.pushed == []


def test_copies_reach_pycuda_with_their_bytes_and_stream(install: Any) -> None:
    module: Any = pycuda_driver()
    install(None, module)
    gpu, array = open_gpu(), np.arange(6, dtype=np.float32)
    stream = gpu.new_stream()
    gpu.to_device(4096, array, stream)
    gpu.copy(8192, 4096, 24, stream)
    gpu.to_host(array, 8192, stream)
    (up, source, held), (target, origin, size, _), (back, down, _) = module.copies
    assert (up, bytes(source), held.handle) == (4096, array.tobytes(), stream)
    assert (target, origin, size) == (8192, 4096, 24)
    back[0] = 255
    assert (down, array.view(np.uint8)[0]) == (8192, 255)


def test_graphs_with_pycuda_go_through_the_bindings_where_they_are_installed(install: Any) -> None:
    install(None, pycuda_driver())
    assert open_gpu().graphs is None
    driver = bindings()
    install(driver, pycuda_driver())
    graphs().begin(21)
    assert driver.calls[-1][:2] == ("cuStreamBeginCapture", 21)


def test_pycuda_errors_are_sentences(install: Any) -> None:
    module: Any = pycuda_driver()

    def fail(kind: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise kind("cuMemAlloc failed:\n no luck")

        return call

    install(None, module)
    gpu = open_gpu()
    module.mem_alloc = fail(module.MemoryError)
    with pytest.raises(OutOfMemoryError, match="^not enough GPU memory: 64 MB are needed"):
        gpu.allocate(64 << 20)
    module.mem_alloc = fail(module.Error)
    with pytest.raises(BackendError, match="^the GPU driver failed in cuMemAlloc with cuMemAlloc failed: no luck; restart the program"):
        gpu.allocate(64 << 20)


def test_the_real_bindings_have_every_function_that_is_called() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    source = (driver_module.__file__ or "").strip()
    with open(source, encoding="utf-8") as stream:
        text = stream.read()
    import re

    called = set(re.findall(r'"(cu[A-Z]\w+)"', text))
    assert len(called) > 15
    assert not [name for name in called if not hasattr(driver, name)]
    attributes = re.findall(r"read\(['\"](\w+)['\"]\)", text)
    assert len(attributes) == 7
    assert all(hasattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{label}") for label in attributes)
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING == driver_module.NON_BLOCKING
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY == driver_module.OUT_OF_MEMORY
    assert hasattr(driver.CUstreamCaptureMode, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")


@pytest.mark.gpu
@pytest.mark.parametrize("driver", [Bindings, Pycuda])
def test_a_real_gpu(driver: Any) -> None:
    """Memory goes there and back, and a captured copy is replayed; run with: pytest -m gpu."""
    pytest.importorskip({Bindings: "cuda.bindings.driver", Pycuda: "pycuda.driver"}[driver])
    assert gpu_count()
    gpu = Gpu(driver(), 0)
    array, back = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    with gpu.active():
        stream, first, second = gpu.new_stream(), gpu.allocate(4000), gpu.allocate(4000)
        gpu.to_device(first, array, stream)
        gpu.synchronize(stream)
        if gpu.graphs is not None:
            gpu.graphs.begin(stream)
            gpu.copy(second, first, 4000, stream)
            graph = gpu.graphs.end(stream)
            gpu.graphs.launch(graph, stream)
            gpu.graphs.destroy(graph)
        else:
            gpu.copy(second, first, 4000, stream)
        gpu.to_host(back, second, stream)
        gpu.synchronize(stream)
        gpu.free(first)
        gpu.free(second)
    np.testing.assert_array_equal(back, array)
