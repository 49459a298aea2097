"""A GPU, a CUDA and a TensorRT that are pretended: memory is the host's, engines are ONNX Runtime sessions."""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.dlpack import CPU
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.tensorrt.engine_files import TARGETS, GpuAttributes, Place
from sdic_runtime.pictures import to_bytes
from sdic_runtime.stages import STAGES, Stage

GPU = GpuAttributes("8.9", 128, 384, 72 << 20, 100 << 10, 24 << 30, False, "Pretended GPU")
PLACE = Place(TARGETS["tensorrt"], "11.4.0.106", GPU)
DEVICE = (CPU, 0)
GRAPHS = {**STAGES, "to_bytes": Stage("to_bytes", ("picture",), ("bytes", "total"))}


class PretendedCuda:
    """A GPU in host memory. While a capture is open, work is put down and done at each launch; an allocation then is an error."""

    name = "pretended 1.0"

    def __init__(self, total: int = 1 << 30, obstacle: str | None = None) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self.total, self.obstacle = total, obstacle
        self.capturing: list[Callable[[], None]] | None = None
        self.launches = self.allocations = self.depth = 0
        self.break_captures = False
        self.users: set[int] = set()

    def attributes(self) -> GpuAttributes:
        return GPU

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        self.users.add(threading.get_ident())
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, size: int) -> int:
        assert self.capturing is None, "an allocation inside a capture"
        if sum(item.nbytes for item in self.buffers.values()) + size > self.total:
            from sdic_runtime.backends.cuda.driver import out_of_memory

            raise out_of_memory(size, self)
        self.allocations += 1
        buffer = np.full(size, 0xAB, np.uint8)
        self.buffers[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def free(self, address: int) -> None:
        del self.buffers[address]

    def memory(self) -> tuple[int, int]:
        return self.total - sum(item.nbytes for item in self.buffers.values()), self.total

    def new_stream(self) -> int:
        return 7

    def synchronize(self, stream: int) -> None:
        assert self.capturing is None, "a wait inside a capture"

    def work(self, task: Callable[[], None]) -> None:
        assert self.depth, "work outside of the context"
        if self.capturing is None:
            task()
        else:
            self.capturing.append(task)

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self.work(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes) and None)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self.work(lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes) and None)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.work(lambda: ctypes.memmove(target, source, size) and None)

    def obstacle_to_graphs(self) -> str | None:
        return self.obstacle

    def begin_capture(self, stream: int) -> None:
        self.capturing = []

    def end_capture(self, stream: int) -> Any:
        graph, self.capturing = self.capturing, None
        return None if self.break_captures else graph

    def launch(self, graph: Any, stream: int) -> None:
        self.launches += 1
        for task in graph:
            task()

    def destroy_graph(self, graph: Any) -> None:
        graph.clear()


class PretendedLibrary:
    """The part of TensorRT's Python interface that the backend uses; an engine's plan is the name of its graph."""

    TensorIOMode = types.SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user")

    class ILogger:
        Severity = types.SimpleNamespace(ERROR=1)

        def __init__(self) -> None:
            pass

    def __init__(self, stages: OnnxRuntime, cuda: PretendedCuda, largest: int = 4) -> None:
        self.stages, self.cuda, self.largest = stages, cuda, largest
        self.fail = ""  # the stage whose work is refused
        self.capturable = True
        self.workspaces: set[tuple[int, int]] = set()
        self.contexts = 0
        self.enqueued: list[str] = []
        self.Runtime = lambda log: PretendedRuntime(self, log)


class PretendedRuntime:
    def __init__(self, library: PretendedLibrary, log: Any) -> None:
        self.library, self.log = library, log

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan == b"foreign":
            self.log.log(1, "Platform specific tag\n mismatch")
            return None
        return PretendedEngine(self.library, plan.decode(), self.log)


class PretendedEngine:
    device_memory_size_v2 = 4096

    def __init__(self, library: PretendedLibrary, graph: str, log: Any) -> None:
        self.library, self.graph, self.log = library, graph, log
        self.names = [*GRAPHS[graph].inputs, *GRAPHS[graph].outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[::-1][index]  # not in the order of the stage table: tensors are bound by name

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in GRAPHS[self.graph].inputs else "output"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (1, 3), (self.library.largest, 3)]

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user"
        self.library.contexts += 1
        return PretendedContext(self)


class PretendedContext:
    def __init__(self, engine: PretendedEngine) -> None:
        self.engine, self.addresses, self.shapes = engine, dict[str, int](), dict[str, tuple[int, ...]]()

    def set_device_memory(self, address: int, size: int) -> None:
        self.engine.library.workspaces.add((address, size))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.library.capturable

    def execute_async_v3(self, stream: int) -> bool:
        engine, library = self.engine, self.engine.library
        if library.fail == engine.graph:
            engine.log.log(1, "Cuda Runtime (an illegal address)")
            return False
        addresses, stage = dict(self.addresses), GRAPHS[engine.graph]
        batch = self.shapes[stage.inputs[0]][0]

        def view(name: str) -> np.ndarray:
            sizes = library.stages.bundle.sizes
            special = {"bytes": (batch, sizes.resolution, sizes.resolution, 3), "total": (batch,)}
            shape = special[name] if name in special else sizes.shape(name, batch)
            kind = ctypes.c_uint8 if name == "bytes" else ctypes.c_float
            return np.ctypeslib.as_array(ctypes.cast(addresses[name], ctypes.POINTER(kind)), (int(np.prod(shape)),)).reshape(shape)

        def task() -> None:
            library.enqueued.append(engine.graph)
            if engine.graph == "to_bytes":
                picture = view("picture")
                results = {"bytes": to_bytes(np.nan_to_num(picture)), "total": np.abs(picture).sum((1, 2, 3))}
            else:
                results = library.stages.run(engine.graph, {name: view(name).copy() for name in stage.inputs}, stage.outputs)
            for name, array in results.items():
                view(name)[...] = array

        library.cuda.work(task)
        return True
