"""A fake GPU and a fake TensorRT: memory is the host's, engines are ONNX Runtime sessions."""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.dlpack import CPU
from sdic_runtime.backends.cuda.driver import GpuAttributes, out_of_memory
from sdic_runtime.backends.cuda.tensors import ALIGNMENT
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.tensorrt.places import Place
from sdic_runtime.backends.tensorrt.settings import Target
from sdic_runtime.errors import BackendError
from sdic_runtime.pictures import to_bytes
from sdic_runtime.program import Method, Stage

GPU = GpuAttributes("8.9", 128, 384, 72 << 20, 100 << 10, 24 << 30, False, "Fake GPU")
PLACE = Place(Target.tensorrt, "11.4.0.106", GPU)
DEVICE = (CPU, 0)


def graph_stage(method: Method, graph: str) -> Stage:
    """The tensors of the graph of an engine: a stage, one output of it, or the one that makes bytes."""
    if graph == "to_bytes":
        return Stage(("picture",), ("bytes", "total"))
    stage, _, output = graph.partition(":")
    whole = method.stages[stage]
    return Stage(whole.inputs, (output,)) if output else whole


class FakeGpu:
    """A GPU in host memory. While a capture is open, work is put down and done at each launch; an allocation then is an error. `late`:
    nothing is done before it is waited for."""

    name = "fake 1.0"

    def __init__(self, total: int = 1 << 30, late: bool = False) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.refuse_pinned, self.freed_pinned = False, list[int]()
        self.late, self.waiting = late, list[Callable[[], None]]()
        self.total = total
        self.graphs: Any = FakeGraphs(self)
        self.capturing: list[Callable[[], None]] | None = None
        self.launches = self.allocations = self.depth = self.waits = 0
        self.break_captures = False

    def attributes(self) -> GpuAttributes:
        return GPU

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, size: int) -> int:
        assert self.capturing is None, "an allocation inside a capture"
        free, _ = self.memory()
        if size > free:
            raise out_of_memory(size, free, self.total)
        self.allocations += 1
        buffer = np.full(size + ALIGNMENT, 0xAB, np.uint8)
        address = -(-buffer.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.buffers[address] = buffer
        return address

    def free(self, address: int) -> None:
        self.catch_up()
        del self.buffers[address]

    def allocate_host(self, size: int) -> int:
        assert self.depth and self.capturing is None
        if self.refuse_pinned:
            raise BackendError("the GPU driver failed in cuMemAllocHost")
        buffer = np.full(size, 0xCD, np.uint8)
        self.pinned[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def free_host(self, address: int) -> None:
        assert self.depth
        self.catch_up()
        del self.pinned[address]
        self.freed_pinned.append(address)

    def memory(self) -> tuple[int, int]:
        return self.total - sum(item.nbytes for item in self.buffers.values()), self.total

    def new_stream(self) -> int:
        return 7

    def synchronize(self, stream: int) -> None:
        assert self.capturing is None, "a wait inside a capture"
        self.waits += 1
        self.catch_up()

    def catch_up(self) -> None:
        """Do what was enqueued, in its order."""
        while self.waiting:
            self.waiting.pop(0)()

    def work(self, task: Callable[[], Any]) -> None:
        assert self.depth, "work outside of the context"
        if self.capturing is not None:
            self.capturing.append(task)
        elif self.late:
            self.waiting.append(task)
        else:
            task()

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self.work(partial(ctypes.memmove, address, array.ctypes.data, array.nbytes))  # which keeps no array, as a GPU

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self.work(partial(ctypes.memmove, array.ctypes.data, address, array.nbytes))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.work(lambda: ctypes.memmove(target, source, size))


class FakeGraphs:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def begin(self, stream: int) -> None:
        self.gpu.capturing = []

    def end(self, stream: int) -> Any:
        graph, self.gpu.capturing = self.gpu.capturing, None
        return None if self.gpu.break_captures else graph

    def launch(self, graph: Any, stream: int) -> None:
        self.gpu.launches += 1
        for task in list(graph):
            self.gpu.work(task)

    def destroy(self, graph: Any) -> None:
        graph.clear()


class FakeLibrary:
    """The part of TensorRT's Python interface that the backend uses; an engine's plan is the name of its graph."""

    TensorIOMode = types.SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user")

    class ILogger:
        Severity = types.SimpleNamespace(ERROR=1)

        def __init__(self) -> None:
            pass

    def __init__(self, host: OnnxRuntime, gpu: FakeGpu, largest: int = 4) -> None:
        self.host, self.gpu, self.largest = host, gpu, largest
        self.graphs = ["to_bytes", *host.bundle.manifest.graphs]
        self.fail = ""  # the graph whose work is refused
        self.capturable = True
        self.workspaces: set[tuple[int, int]] = set()
        self.contexts = 0
        self.enqueued: list[str] = []
        self.threads: set[int] = set()
        self.Runtime = lambda log: FakeRuntime(self, log)


class FakeRuntime:
    def __init__(self, library: FakeLibrary, log: Any) -> None:
        self.library, self.log = library, log

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan.decode() not in self.library.graphs:
            self.log.log(1, "Platform specific tag\n mismatch")
            return None
        return FakeEngine(self.library, plan.decode(), self.log)


class FakeEngine:
    device_memory_size_v2 = 4096

    def __init__(self, library: FakeLibrary, graph: str, log: Any) -> None:
        self.library, self.graph, self.log = library, graph, log
        self.stage = graph_stage(library.host.method, graph)
        self.names = [*self.stage.inputs, *self.stage.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[::-1][index]  # not in the order of the stage table: tensors are bound by name

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.stage.inputs else "output"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (1, 3), (self.library.largest, 3)]

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user"
        self.library.contexts += 1
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.addresses, self.shapes = engine, dict[str, int](), dict[str, tuple[int, ...]]()

    def set_device_memory(self, address: int, size: int) -> None:
        self.engine.library.workspaces.add((address, size))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address % ALIGNMENT == 0, "TensorRT wants aligned tensors"
        self.addresses[name] = address

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.library.capturable

    def execute_async_v3(self, stream: int) -> bool:
        engine, library = self.engine, self.engine.library
        if library.fail == engine.graph:
            engine.log.log(1, "Cuda Runtime (an illegal address)")
            return False
        addresses, stage, method = dict(self.addresses), engine.stage, library.host.method
        batch = self.shapes[stage.inputs[0]][0]
        library.threads.add(threading.get_ident())

        def view(name: str) -> np.ndarray:
            side = method.sizes["R"]
            special = {"bytes": (batch, side, side, 3), "total": (batch,)}
            shape = special[name] if name in special else method.shape(name, batch)
            kind = ctypes.c_uint8 if name == "bytes" else ctypes.c_float
            return np.ctypeslib.as_array(ctypes.cast(addresses[name], ctypes.POINTER(kind)), (int(np.prod(shape)),)).reshape(shape)

        def task() -> None:
            library.enqueued.append(engine.graph)
            if engine.graph == "to_bytes":
                picture = view("picture")
                results = {"bytes": to_bytes(np.nan_to_num(picture)), "total": np.abs(picture).sum((1, 2, 3))}
            else:
                inputs = {name: view(name).copy() for name in stage.inputs}
                results = library.host.run(engine.graph.partition(":")[0], inputs, stage.outputs)
            for name, array in results.items():
                view(name)[...] = array

        library.gpu.work(task)
        return True
