"""What backends on an NVIDIA GPU share: tensors in its memory, one stream, DLPack, and whole programs as CUDA graphs."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.cuda.dlpack import CUDA_MANAGED, Borrowed
from sdic_runtime.backends.cuda.driver import CudaGraphs, Gpu
from sdic_runtime.backends.cuda.pinned import PinnedPool
from sdic_runtime.backends.cuda.tensors import ALIGNMENT, BufferPool, DeviceTensor
from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError, SdicError
from sdic_runtime.program import EDIT_KINDS, IMAGE, INVERT, PICTURE, PREPARE, Method, run

MOST_CAPTURED = 16  # programs and shapes that stay recorded, each with the memory of everything in between; the oldest goes
NO_CAPTURE = 'pycuda has no stream capture and the package "cuda-bindings" is not installed'


@dataclass
class Captured:
    """A program as a CUDA graph: where it reads and writes, and every tensor in between, which must stay where it is."""

    graphs: CudaGraphs
    graph: Any
    inputs: Mapping[str, DeviceTensor]
    results: Mapping[str, DeviceTensor]
    holds: Sequence[DeviceTensor]


class DeviceBackend(Backend):
    """The stages of one method on one GPU. Safe for several threads, which take turns: there is one stream."""

    skips = False  # a whole program is one CUDA graph
    runs_before_capture = 1  # of a program with new shapes, so that everything it needs is there

    def __init__(self, method: Method, visible_rows: tuple[int, int], gpu: Gpu, device: tuple[int, int], graphs: bool) -> None:
        """`visible_rows`: of a picture, which `enqueue_bytes` makes. `device`: as DLPack counts them. `graphs=False`: enqueue every stage
        instead of replaying CUDA graphs."""
        super().__init__(method)
        self.visible_rows, self.gpu = visible_rows, gpu
        self.graph_obstacle = "they were switched off" if not graphs else NO_CAPTURE if gpu.graphs is None else None
        self._lock = threading.RLock()
        self._captured: dict[Any, Captured] = {}
        self._too_large: set[Any] = set()  # programs and shapes for which there is not the memory that a capture needs
        self._closed = False
        with gpu.active():
            self.stream = gpu.new_stream()
            self.pool = BufferPool(gpu, device, self.synchronize)
            self._free_before, _ = gpu.memory()
        self.pinned = PinnedPool(gpu)
        self._in_flight: list[np.ndarray] = []  # host arrays that copies on the stream may still read or write

    @property
    def gpu_memory(self) -> int:
        """What it takes now is the most, because its pools and its libraries keep what they have; what other programs take or give back
        meanwhile counts too."""
        with self._lock, self.gpu.active():
            return max(0, self._free_before - self.gpu.memory()[0])

    @property
    def graphs_in_words(self) -> str:
        """Whether programs run as CUDA graphs, and if not, why."""
        return "CUDA graphs" if self.graph_obstacle is None else f"no CUDA graphs: {self.graph_obstacle}"

    @abstractmethod
    def enqueue_stage(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        """Put one stage on the stream, its outputs into new tensors of the pool."""

    def enqueue_bytes(self, picture: DeviceTensor) -> tuple[DeviceTensor, DeviceTensor] | None:
        """Put onto the stream what makes `bytes` (uint8, the rows `visible_rows`) and `total` [N] of a picture; None where nothing does."""
        return None

    def capture_obstacle(self, batch: int) -> str | None:
        """Why programs cannot be captured, asked before one is; None when they may be."""
        return None

    def said(self) -> str:
        """What the library said of its last failure, "" where it says nothing."""
        return ""

    def upload(self, array: Any) -> DeviceTensor:
        """A host array, or without a copy a float32 tensor of torch or cupy that is on this GPU."""
        if isinstance(array, DeviceTensor):
            return array
        if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
            return self._borrowed(array)
        host = np.ascontiguousarray(array, np.float32)
        with self._working():
            tensor = self.pool.tensor(host.shape)
            staged = self.pinned.array(host.shape, host.dtype)
            if staged is not None:
                np.copyto(staged, host)
            source = host if staged is None else staged
            self._in_flight.append(source)
            self.gpu.to_device(tensor.address, source, self.stream)
            if staged is None:  # the array is the caller's, who may change it
                self._wait()
        return tensor

    def download(self, tensor: DeviceTensor) -> np.ndarray:
        with self._working():
            (host,) = self._downloaded(tensor)
        return host

    def _downloaded(self, *tensors: DeviceTensor) -> list[np.ndarray]:
        """Tensors as host arrays, after one wait for all of them."""
        arrays = []
        for tensor in tensors:
            host = self.pinned.array(tensor.shape, tensor.dtype)
            arrays.append(np.empty(tensor.shape, tensor.dtype) if host is None else host)
            self._in_flight.append(arrays[-1])
            self.gpu.to_host(arrays[-1], tensor.address, self.stream)
        self._wait()
        return arrays

    def _wait(self) -> None:
        """Wait for the stream, and let go of what its copies needed."""
        self.gpu.synchronize(self.stream)
        self._in_flight.clear()

    def slice(self, tensor: DeviceTensor, pictures: slice) -> DeviceTensor | None:
        first, end, step = pictures.indices(tensor.shape[0])
        return tensor.part(first, end) if step == 1 else None

    def synchronize(self) -> None:
        with self._lock, self.gpu.active():
            self._wait()

    def run(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        with self._working():
            results = self.enqueue_stage(stage, inputs, outputs)
            self._settle(inputs.values())
            return results

    def to_bytes(self, picture: DeviceTensor, rows: tuple[int, int]) -> np.ndarray:
        (first, end), (above, below) = self.visible_rows, rows
        if not first <= above < below <= end:
            return super().to_bytes(picture, rows)
        with self._working():
            made = self.enqueue_bytes(picture)
            if made is None:
                return super().to_bytes(picture, rows)
            pixels, total = self._downloaded(*made)
            if not np.isfinite(total).all():
                return super().to_bytes(picture, rows)  # raises, with the sentence, where a value in these rows is not finite
            return pixels[:, above - first : below - first]

    def run_program(self, program: str, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Run a program as one CUDA graph, captured at its first run with these shapes. Where that is not possible the stages are enqueued
        one by one, and `graph_obstacle` says why."""
        taken = {name: tensors[name] for name in self.method.programs[program].takes}
        key = program, *(tensor.shape for tensor in taken.values())
        with self._working():
            results = None if key in self._too_large else self._run_captured(key, program, taken)
            if results is None:
                results = self._run_steps(program, taken)
            self._settle(taken.values())
            return results

    def _run_steps(self, program: str, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Enqueue the stages one by one, but those that run the same one as a single batch, with half the kernels."""
        return run(self.method.programs[program], self, tensors, self._run_joined)

    def _run_joined(
        self, stage: str, inputs: Sequence[Mapping[str, DeviceTensor]], outputs: Sequence[Sequence[str]]
    ) -> list[dict[str, DeviceTensor]]:
        """A stage for several sets of inputs, which have the same shapes, as one batch where the backend takes so many pictures; all
        outputs that any of them asks for then."""
        count = next(iter(inputs[0].values())).shape[0]
        if self.largest_batch is not None and count * len(inputs) > self.largest_batch:
            return [self.run(stage, each, wanted) for each, wanted in zip(inputs, outputs, strict=True)]
        every = tuple(dict.fromkeys(name for wanted in outputs for name in wanted))
        results = self.run(stage, {name: self._joined([each[name] for each in inputs]) for name in inputs[0]}, every)
        return [{name: tensor.part(index * count, (index + 1) * count) for name, tensor in results.items()} for index in range(len(inputs))]

    def _joined(self, tensors: Sequence[DeviceTensor]) -> DeviceTensor:
        """Tensors behind each other along axis 0, in a new one."""
        whole = self.pool.tensor((sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:]), tensors[0].dtype)
        first = 0
        for tensor in tensors:
            self.gpu.copy(whole.part(first, first + tensor.shape[0]).address, tensor.address, tensor.bytes, self.stream)
            first += tensor.shape[0]
        return whole

    def _run_captured(self, key: Any, program: str, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor] | None:
        """Run a program as its CUDA graph, recorded before or now; None where that cannot be, or takes more memory than there is."""
        try:
            captured = self._captured.get(key) or self._capture(program, tensors)
            if captured is None:
                return None
            self._captured[key] = captured
            return self._replay(captured, tensors)
        except OutOfMemoryError:  # stage by stage, buffers are used again as soon as they are free
            self._too_large.add(key)
            captured = None
            self._forget()
            self._wait()
            return None

    def warm_up(self, batch: int) -> None:
        """Run and capture an inversion and an edit of each kind, so that the first picture takes no longer than the second."""
        prepare = [PREPARE] if PREPARE in self.method.programs else []
        method, moves = self.method, self.method.moves.values()
        defaults = [next((move.program for move in moves if kind in move.kinds), INVERT) for kind in EDIT_KINDS]
        tensors = {IMAGE: self.upload(np.zeros(method.shape(IMAGE, batch), np.float32))}
        for program in dict.fromkeys([INVERT, *prepare, *defaults]):
            zeros = {name: self.upload(np.zeros(method.shape(name, batch), np.float32)) for name in method.programs[program].zeros}
            results = self.run_program(program, {**tensors, **zeros})
            tensors = {**results, **tensors}
        with self._working():
            self.enqueue_bytes(tensors[PICTURE])
        self.synchronize()

    def close(self) -> None:
        """Give memory back; what a program or another library still holds of it goes when they let go."""
        with self._lock, self.gpu.active():
            if self._closed:
                return
            self._wait()
            self._closed = True
            self._forget()
            self.release()
            self.pool.close()
            self.pinned.close()

    def release(self) -> None:
        """Let go of what computes the stages."""

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One thread at a time, on this GPU. Raises BackendError after `close`."""
        with self._lock, self.gpu.active():
            if self._closed:
                raise BackendError("the pipeline was closed; load the bundle again")
            yield

    def _forget(self) -> None:
        """Drop every captured program."""
        for captured in self._captured.values():
            captured.graphs.destroy(captured.graph)
        self._captured.clear()

    def _settle(self, tensors: Iterable[DeviceTensor]) -> None:
        """Wait for what was asked where it reads a tensor of another library, which takes its memory back as soon as we let go."""
        if any(tensor.borrowed for tensor in tensors):
            self._wait()

    def readable(self, tensor: DeviceTensor) -> DeviceTensor:
        """The tensor, or a copy where it begins anywhere, as a part of one may, or one of another library."""
        return self._copy(tensor) if tensor.address % ALIGNMENT else tensor

    def _borrowed(self, source: Any) -> DeviceTensor:
        borrowed, (kind, index) = Borrowed(source, self.stream), self.pool.device
        if borrowed.device not in ((kind, index), (CUDA_MANAGED, index)):
            where = f"the tensor is on DLPack device {borrowed.device} and the model is on {self.pool.device}"
            raise ArgumentError(f"{where}; bring it to that GPU, or give a numpy array")
        if borrowed.dtype != np.float32:
            raise ArgumentError(f"the tensor is {borrowed.dtype}; give float32")
        return DeviceTensor(borrowed.address, borrowed.shape, borrowed.dtype, borrowed.device, borrowed)

    def _capture(self, program: str, tensors: Mapping[str, DeviceTensor]) -> Captured | None:
        """Run the program for its shapes and buffers, then record it; None with a reason when it cannot be recorded."""
        graphs = self.gpu.graphs
        if self.graph_obstacle is not None or graphs is None:
            return None
        if len(self._captured) >= MOST_CAPTURED:
            oldest = self._captured.pop(next(iter(self._captured)))
            oldest.graphs.destroy(oldest.graph)
        inputs = {name: self._copy(tensor) for name, tensor in tensors.items()}
        for _ in range(self.runs_before_capture):
            with self.pool.holding():  # as many buffers as the capture will need, which may not allocate
                self._run_steps(program, inputs)
        self._wait()
        self.graph_obstacle = self.capture_obstacle(next(iter(inputs.values())).shape[0])
        if self.graph_obstacle is not None:
            return None
        results: dict[str, DeviceTensor] = {}
        with self.pool.holding() as holds:
            graphs.begin(self.stream)
            try:
                results = self._run_steps(program, inputs)
            except SdicError as error:
                self.graph_obstacle = str(error)
            finally:
                graph = graphs.end(self.stream)
        if graph is None or self.graph_obstacle is not None:
            self.graph_obstacle = self.graph_obstacle or f"the capture broke: {self.said() or 'the driver refused it'}"
            return None
        return Captured(graphs, graph, inputs, results, list(holds))

    def _replay(self, captured: Captured, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Copy the inputs in, launch, and copy the results out, so that they stay when the graph runs again."""
        for name, tensor in tensors.items():
            self.gpu.copy(captured.inputs[name].address, tensor.address, tensor.bytes, self.stream)
        captured.graphs.launch(captured.graph, self.stream)
        return {name: self._copy(tensor) for name, tensor in captured.results.items()}

    def _copy(self, tensor: DeviceTensor) -> DeviceTensor:
        copy = self.pool.tensor(tensor.shape, tensor.dtype)
        self.gpu.copy(copy.address, tensor.address, tensor.bytes, self.stream)
        return copy
