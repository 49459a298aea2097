"""The TensorRT backend: engines on one stream, tensors on the GPU through a whole program, each program as one CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.cuda.dlpack import CUDA, CUDA_MANAGED, Borrowed
from sdic_runtime.backends.cuda.driver import CudaGraphs, Gpu, gpu_count, missing_driver, open_gpu
from sdic_runtime.backends.cuda.tensors import ALIGNMENT, BufferPool, DeviceTensor
from sdic_runtime.backends.tensorrt.engine_files import TO_BYTES, Sidecar, built_here, find_engines, graph_file, graph_names, stale
from sdic_runtime.backends.tensorrt.library import error_log, load_library
from sdic_runtime.backends.tensorrt.loaded_engine import LoadedEngine, load_engine
from sdic_runtime.backends.tensorrt.places import Place
from sdic_runtime.backends.tensorrt.settings import Target, build_command
from sdic_runtime.bundle.bundle import TRUST_HINT, Bundle
from sdic_runtime.bundle.graphs import graph_for
from sdic_runtime.errors import ArgumentError, BackendError, SdicError
from sdic_runtime.files import replacing
from sdic_runtime.program import EDIT_KINDS, IMAGE, INVERT

NO_CAPTURE = 'pycuda has no stream capture and the package "cuda-bindings" is not installed'


def obstacle(target: Target, bundle: Bundle | None = None) -> str | None:
    """Why `target` cannot be used here (with `bundle`), in a few words; None when it can. Loads no engine."""
    if find_spec(target.module) is None:
        return f'it needs the package "{target.module}"; install it with: pip install "sdic-toolkit[{target}]"'
    missing = missing_driver()
    if missing or gpu_count() == 0:  # asked first: importing the library takes half a second
        return missing or "there is no NVIDIA GPU here"
    try:
        version = load_library(target).__version__
        if bundle is not None:
            find_engines(bundle, Place(target, version, open_gpu().attributes()))
    except SdicError as error:
        return str(error)
    return None


def distrust(target: Target, bundle: Bundle) -> str | None:
    """Why the engines of `bundle` are only used when `target` is named: an engine can hold code, and no hash says who made it."""
    folder, _ = find_engines(bundle, Place(target, load_library(target).__version__, open_gpu().attributes()))
    if bundle.trust or built_here(folder):
        return None
    return f"its engines were not built by this user on this machine; name the backend {target}, or use {TRUST_HINT}"


def load_target(
    target: Target,
    bundle: Bundle,
    *,
    precision: str | None = None,
    device: int = 0,
    batch: int = 1,
    graphs: bool = True,
    warm_up: bool = True,
) -> TensorRt:
    """The engines of `bundle` that `target` built for the GPU number `device`.

    `precision`: half precisions first when None. `batch`: the batch that must fit and that is warmed up. `graphs=False`: enqueue every
    stage instead of replaying CUDA graphs. Raises SdicError that says why not, with the command that fixes it.
    """
    library, gpu = load_library(target), open_gpu(device)
    place = Place(target, library.__version__, gpu.attributes())
    folder, sidecar = find_engines(bundle, place, precision, batch)
    for graph in graph_names(bundle, sidecar.settings.precision):
        if why := stale(sidecar, folder, bundle, graph, deep=True):
            raise BackendError(f"the engines in {folder} cannot be used: {why}; build them again with: sdic-export engines {bundle.path}")
    backend = TensorRt(bundle, place, library, gpu, (folder, sidecar), (CUDA, device), graphs)
    if warm_up:
        backend.warm_up(batch)
    return backend


unavailable, load = partial(obstacle, Target.tensorrt), partial(load_target, Target.tensorrt)
untrusted = partial(distrust, Target.tensorrt)


@dataclass
class Captured:
    """A program as a CUDA graph: where it reads and writes, and every tensor in between, which must stay where it is."""

    graphs: CudaGraphs
    graph: Any
    inputs: Mapping[str, DeviceTensor]
    results: Mapping[str, DeviceTensor]
    holds: Sequence[DeviceTensor]


class TensorRt(Backend):
    """The engines of one bundle on one GPU. Safe for several threads, which take turns: there is one stream and one set of contexts."""

    def __init__(
        self, bundle: Bundle, place: Place, library: Any, gpu: Gpu, engines: tuple[Path, Sidecar], device: tuple[int, int], graphs: bool
    ) -> None:
        """`device`: as DLPack counts them."""
        super().__init__(bundle.manifest)
        self.bundle, self.place, self.gpu, (self.folder, self.sidecar) = bundle, place, gpu, engines
        self.name, self.precision = place.target.value, self.sidecar.settings.precision
        self.largest_batch = self.sidecar.settings.profile.largest
        self.graph_obstacle = "they were switched off" if not graphs else NO_CAPTURE if gpu.graphs is None else None
        self._lock = threading.RLock()
        self._captured: dict[Any, Captured] = {}
        with gpu.active():
            self.stream = gpu.new_stream()
            self.pool = BufferPool(gpu, device, self.synchronize)
            self._log = error_log(library)
            self._runtime = library.Runtime(self._log)
            self.engines = {graph: self._load(library, graph) for graph in graph_names(bundle, self.precision)}
            size = max(engine.workspace for engine in self.engines.values())
            self._workspace = self.pool.tensor((size,), np.uint8)

    @property
    def description(self) -> str:
        graphs = "CUDA graphs" if self.graph_obstacle is None else f"no CUDA graphs: {self.graph_obstacle}"
        card = self.place.gpu.name if self.place.gpu else "no GPU"
        return f"{self.place.library}, {card}, {self.precision}, {graphs}, {self.gpu.name}"

    def upload(self, array: Any) -> DeviceTensor:
        """A host array, or without a copy a float32 tensor of torch or cupy that is on this GPU."""
        if isinstance(array, DeviceTensor):
            return array
        if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
            return self._borrowed(array)
        host = np.ascontiguousarray(array, np.float32)
        with self._lock, self.gpu.active():
            tensor = self.pool.tensor(host.shape)
            self.gpu.to_device(tensor.address, host, self.stream)
            self.gpu.synchronize(self.stream)
        return tensor

    def download(self, tensor: DeviceTensor) -> np.ndarray:
        host = np.empty(tensor.shape, tensor.dtype)
        with self._lock, self.gpu.active():
            self.gpu.to_host(host, tensor.address, self.stream)
            self.gpu.synchronize(self.stream)
        return host

    def slice(self, tensor: DeviceTensor, pictures: slice) -> DeviceTensor | None:
        first, end, step = pictures.indices(tensor.shape[0])
        return tensor.part(first, end) if step == 1 else None

    def synchronize(self) -> None:
        with self._lock, self.gpu.active():
            self.gpu.synchronize(self.stream)

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        return graph_for(self.bundle.manifest, stage, outputs, [self.precision]).key, self.precision

    def run(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        engine = self.engines[self.variant(stage, outputs)[0]]
        batch = inputs[engine.inputs[0]].shape[0]
        with self._lock, self.gpu.active():
            results = {name: self.pool.tensor(self.method.shape(name, batch)) for name in engine.outputs}
            self._enqueue(engine, batch, inputs, results)
        return {name: results[name] for name in outputs}

    def to_bytes(self, picture: DeviceTensor, rows: tuple[int, int]) -> np.ndarray:
        if tuple(rows) != self.bundle.manifest.visible_rows:  # for which the engine was built
            return super().to_bytes(picture, rows)
        batch, (first, end) = picture.shape[0], rows
        with self._lock, self.gpu.active():
            made = self.pool.tensor((batch, end - first, self.method.sizes["R"], 3), np.uint8)
            total = self.pool.tensor((batch,))
            self._enqueue(self.engines[TO_BYTES], batch, {"picture": picture}, {"bytes": made, "total": total})
            if not np.isfinite(self.download(total)).all():
                return super().to_bytes(picture, rows)  # raises, with the sentence
            return self.download(made)

    def run_program(self, program: str, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Run a program as one CUDA graph, captured at its first run with these shapes. Where that is not possible the stages are enqueued
        one by one, and `graph_obstacle` says why."""
        taken = {name: tensors[name] for name in self.method.programs[program].takes}
        key = program, *(tensor.shape for tensor in taken.values())
        with self._lock, self.gpu.active():
            captured = self._captured.get(key) or self._capture(program, taken)
            if captured is None:
                return super().run_program(program, taken)
            self._captured[key] = captured
            return self._replay(captured, taken)

    def warm_up(self, batch: int) -> None:
        """Run and capture an inversion and an edit of each kind, so that the first picture takes no longer than the second; keep what was
        compiled."""
        method, moves = self.method, self.method.moves.values()
        defaults = [next((move.program for move in moves if kind in move.kinds), INVERT) for kind in EDIT_KINDS]
        tensors = {IMAGE: self.upload(np.zeros(method.shape(IMAGE, batch), np.float32))}
        for program in dict.fromkeys([INVERT, *defaults]):
            zeros = {name: self.upload(np.zeros(method.shape(name, batch), np.float32)) for name in method.programs[program].zeros}
            results = self.run_program(program, {**tensors, **zeros})
            tensors = {**results, **tensors}
        self.synchronize()
        self._keep_compiled()

    def close(self) -> None:
        with self._lock, self.gpu.active():
            self.gpu.synchronize(self.stream)
            for captured in self._captured.values():
                captured.graphs.destroy(captured.graph)
            self._captured.clear()
            self.engines.clear()
            self.pool.close()

    def _load(self, library: Any, graph: str) -> LoadedEngine:
        path = self.folder / self.sidecar.stages[graph].file
        stripped = self.sidecar.settings.weights == "stripped" and graph != TO_BYTES
        onnx = graph_file(self.bundle, graph, self.precision) if stripped else None
        engine = load_engine(library, self._runtime, self._log, self.place.target, path, onnx, self._rebuild())
        return LoadedEngine(library, self.place.target, graph, engine, self.method, path)

    def _enqueue(self, engine: LoadedEngine, batch: int, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> None:
        context = self._context(engine, batch)
        # TensorRT reads no tensor that begins anywhere, as a part of one may, or one of another library.
        read = {name: self._copy(inputs[name]) if inputs[name].address % ALIGNMENT else inputs[name] for name in engine.inputs}
        if not engine.enqueue(context, {name: tensor.address for name, tensor in {**read, **outputs}.items()}, self.stream):
            why = f'{self.place.target.label} failed in "{engine.graph}": {self._log.said() or "it does not say why"}'
            raise BackendError(f"{why}; use a smaller batch, or build the engines again with: {self._rebuild()}")

    def _context(self, engine: LoadedEngine, batch: int) -> Any:
        return engine.context(batch, (self._workspace.address, self._workspace.bytes))

    def _rebuild(self) -> str:
        return build_command(self.bundle.path, self.place.target, self.sidecar.settings)

    def _borrowed(self, source: Any) -> DeviceTensor:
        borrowed, (kind, index) = Borrowed(source, self.stream), self.pool.device
        if borrowed.device not in ((kind, index), (CUDA_MANAGED, index)):
            where = f"the tensor is on DLPack device {borrowed.device} and the engines are on {self.pool.device}"
            raise ArgumentError(f"{where}; bring it to that GPU, or give a numpy array")
        if borrowed.dtype != np.float32:
            raise ArgumentError(f"the tensor is {borrowed.dtype}; give float32")
        return DeviceTensor(borrowed.address, borrowed.shape, borrowed.dtype, borrowed.device, borrowed)

    def _capture(self, program: str, tensors: Mapping[str, DeviceTensor]) -> Captured | None:
        """Run the program once for its shapes and buffers, then record it; None with a reason when it cannot be recorded."""
        graphs = self.gpu.graphs
        if self.graph_obstacle is not None or graphs is None:
            return None
        inputs = {name: self._copy(tensor) for name, tensor in tensors.items()}
        with self.pool.holding():  # as many buffers as the capture will need, which may not allocate
            super().run_program(program, inputs)
        self.gpu.synchronize(self.stream)
        batch = next(iter(inputs.values())).shape[0]
        for engine in self.engines.values():
            if not engine.capturable(self._context(engine, batch), self.stream):
                self.graph_obstacle = f'{self.place.target.label} cannot capture the stage "{engine.graph}"'
                return None
        results: dict[str, DeviceTensor] = {}
        with self.pool.holding() as holds:
            graphs.begin(self.stream)
            try:
                results = super().run_program(program, inputs)
            except SdicError as error:
                self.graph_obstacle = str(error)
            finally:
                graph = graphs.end(self.stream)
        if graph is None or self.graph_obstacle is not None:
            self.graph_obstacle = self.graph_obstacle or f"the capture broke: {self._log.said() or 'the driver refused it'}"
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

    def _keep_compiled(self) -> None:
        """Save what TensorRT-RTX compiled for this GPU beside its engines; where that is not allowed the next start compiles again."""
        for engine in self.engines.values():
            compiled = engine.compiled()
            if compiled and not engine.cache_file.is_file():
                with suppress(SdicError), replacing(engine.cache_file) as temporary:
                    temporary.write_bytes(compiled)
