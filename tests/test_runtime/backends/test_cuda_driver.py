"""The one module that talks to the GPU's driver, on fake drivers; on a real one where there is one."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from typing import Any

import numpy as np
import pytest
from fake_drivers import Held, Pinned, Result, bindings, pycuda_driver

from sdic_runtime.backends.cuda import driver as driver_module
from sdic_runtime.backends.cuda.driver import Bindings, Gpu, Pycuda, gpu_count, missing_driver, open_gpu
from sdic_runtime.backends.cuda.pinned import PinnedPool
from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError


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


def test_page_locked_memory_of_both_packages(install: Any) -> None:
    driver = bindings(cuMemFreeHost=lambda p: (Result(0),))
    install(driver)
    gpu = open_gpu()
    assert gpu.allocate_host(100) == 8192
    gpu.free_host(8192)
    assert driver.calls[-2:] == [("cuMemAllocHost", 100), ("cuMemFreeHost", 8192)]
    install(bindings(cuMemAllocHost=lambda bytesize: (Result.CUDA_ERROR_OUT_OF_MEMORY, None)))
    with pytest.raises(OutOfMemoryError):
        open_gpu().allocate_host(100)
    install(None, pycuda_driver())
    gpu, before = open_gpu(), Pinned.living
    address = gpu.allocate_host(100)
    gc.collect()
    assert Pinned.living == before + 1
    memory = (ctypes.c_uint8 * 100).from_address(address)
    memory[99] = 7
    assert sum(memory) == 7
    gpu.free_host(address)
    assert Pinned.living == before


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
    for name in ("cuMemAllocHost", "cuMemFreeHost"):  # Cython keeps no signature but in the text
        (given,) = re.findall(rf"^{name}\((.*)\)", getattr(driver, name).__doc__)
        assert given.count(",") == 0
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
    array, pool = np.arange(1000, dtype=np.float32), PinnedPool(gpu)
    with gpu.active():
        back = pool.array((1000,))
        assert back is not None
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
        pool.close()
    np.testing.assert_array_equal(back, array)
    del back
