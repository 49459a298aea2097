"""The TensorRT backend: engines on one stream, tensors on the GPU through the whole chain, the chain as one CUDA graph."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.dlpack import CUDA, CUDA_MANAGED, Borrowed
from sdic_runtime.backends.cuda.driver import Cuda, gpu_count, missing_driver, open_gpu
from sdic_runtime.backends.cuda.tensors import BufferPool, DeviceTensor
from sdic_runtime.backends.tensorrt.engine_files import (
    TARGETS,
    TO_BYTES,
    Place,
    Sidecar,
    Target,
    build_command,
    find_engines,
    graph_file,
    graph_names,
)
from sdic_runtime.backends.tensorrt.loaded_engine import LoadedEngine, load_engine
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.files import replacing
from sdic_runtime.pictures import to_bytes
from sdic_runtime.stages import STAGES

TARGET = TARGETS["tensorrt"]
SAID = 3  # of what the library logs as an error, this many sentences are kept


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why TensorRT cannot be used here (with `bundle`); None when it can."""
    return obstacle(TARGET, bundle)


def load(
    bundle: Bundle, *, precision: str | None = None, device: int = 0, batch: int = 1, graphs: bool = True, warm_up: bool = True
) -> TensorRt:
    """The TensorRT engines of `bundle` for the GPU number `device`.

    `precision`: half precisions first when None. `batch`: the batch that must fit and that is warmed up. `graphs=False`: enqueue every
    stage instead of replaying CUDA graphs. Raises SdicError that says why not, with the command that mends it.
    """
    return load_target(TARGET, bundle, precision, device, batch, graphs, warm_up)


def obstacle(target: Target, bundle: Bundle | None, gpu_index: int = 0) -> str | None:
    """Why `target` cannot be used here, in a few words; None when it can. Loads no engine."""
    if find_spec(target.module) is None:
        return f'it needs the package "{target.module}"; install it with: pip install "sdic[{target.name}]"'
    missing = missing_driver()
    if missing or gpu_count() == 0:  # asked first: importing the library takes half a second
        return missing or "there is no NVIDIA GPU here"
    try:
        library = importlib.import_module(target.module)
    except ImportError as error:
        return f"{target.title} cannot be loaded ({error})"
    if bundle is None:
        return None
    try:
        find_engines(bundle, Place(target, library.__version__, open_gpu(gpu_index).attributes()))
    except SdicError as error:
        return str(error)
    return None


def load_target(target: Target, bundle: Bundle, precision: str | None, device: int, batch: int, graphs: bool, warm_up: bool) -> TensorRt:
    """What `load` does, for either library."""
    try:
        library = importlib.import_module(target.module)
    except ImportError as error:
        raise MissingExtraError(target.module, target.name, f'the backend "{target.name}"') from error
    gpu = open_gpu(device)
    place = Place(target, library.__version__, gpu.attributes())
    folder, sidecar = find_engines(bundle, place, precision, batch)
    backend = TensorRt(bundle, place, library, gpu, folder, sidecar, (CUDA, device), graphs)
    if warm_up:
        backend.warm_up(batch)
    return backend


@dataclass
class Captured:
    """A chain as a CUDA graph: where it reads and writes, and every tensor in between, which must stay where it is."""

    graph: Any
    inputs: Mapping[str, DeviceTensor]
    result: Any  # a tensor, or tensors by name
    holds: Sequence[DeviceTensor]


class TensorRt:
    """The engines of one bundle on one GPU. Safe for several threads, which take turns: there is one stream and one set of contexts."""

    def __init__(
        self,
        bundle: Bundle,
        place: Place,
        library: Any,
        gpu: Cuda,
        folder: Path,
        sidecar: Sidecar,
        device: tuple[int, int],
        graphs: bool = True,
    ) -> None:
        self.bundle, self.place, self.gpu, self.folder, self.sidecar = bundle, place, gpu, folder, sidecar
        self.name = place.target.name
        self.precision = sidecar.settings.precision
        self.graph_obstacle = gpu.obstacle_to_graphs() if graphs else "they were switched off"
        self._lock = threading.RLock()
        self._captured: dict[Any, Captured] = {}
        with gpu.active():
            self.stream = gpu.new_stream()
            self.pool = BufferPool(gpu, device, self.ready)
            self._log = _log(library)
            self._runtime = library.Runtime(self._log)
            self._runtime.engine_host_code_allowed = sidecar.settings.version_compatible
            self.engines = {graph: self._load(library, graph) for graph in graph_names(bundle, self.precision)}
            size = max(engine.workspace for engine in self.engines.values())
            self._workspace = self.pool.tensor((size,), np.uint8)

    @property
    def description(self) -> str:
        graphs = "CUDA graphs" if self.graph_obstacle is None else f"no CUDA graphs: {self.graph_obstacle}"
        gpu = self.place.gpu.name if self.place.gpu else "no GPU"
        return f"{self.place.target.title} {self.place.version}, {gpu}, {self.precision}, {graphs}, {self.gpu.name}"

    @property
    def largest_batch(self) -> int:
        """The largest batch that the engines take."""
        return self.sidecar.settings.profile.largest

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

    def ready(self) -> None:
        """Wait until all tensors that were handed out are filled: before another library reads one by DLPack."""
        with self._lock, self.gpu.active():
            self.gpu.synchronize(self.stream)

    def run(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        engine = self._engine(stage, outputs)
        batch = inputs[STAGES[stage].inputs[0]].shape[0]
        with self._lock, self.gpu.active():
            results = {name: self.pool.tensor(self.bundle.sizes.shape(name, batch)) for name in engine.outputs}
            self._enqueue(engine, batch, {**{name: inputs[name] for name in engine.inputs}, **results})
        return {name: results[name] for name in outputs}

    def to_bytes(self, picture: DeviceTensor) -> np.ndarray:
        """uint8 [N, H, W, 3] of `picture` [N, 3, R, R], converted on the GPU: what `pictures.to_bytes` makes of its visible rows."""
        batch, (first, end) = picture.shape[0], self.bundle.manifest.visible_rows
        with self._lock, self.gpu.active():
            made = self.pool.tensor((batch, end - first, self.bundle.sizes.resolution, 3), np.uint8)
            total = self.pool.tensor((batch,))
            self._enqueue(self.engines[TO_BYTES], batch, {"picture": picture, "bytes": made, "total": total})
            if not np.isfinite(self.download(total)).all():
                return to_bytes(self.download(picture), (first, end))  # raises, with the sentence
            return self.download(made)

    def whole(self, function: Callable[..., Any], tensors: Mapping[str, DeviceTensor], settings: Mapping[str, Any]) -> Any:
        """`function(self, **tensors, **settings)`, a chain of stages, replayed as one CUDA graph from its second call on.

        Where that is not possible the stages are enqueued one by one, and `graph_obstacle` says why.
        """
        with self._lock, self.gpu.active():
            if self.graph_obstacle is not None:
                return function(self, **tensors, **settings)
            key = (function, tuple(sorted(settings.items())), tuple((name, tensor.shape) for name, tensor in sorted(tensors.items())))
            if key not in self._captured:
                captured = self._capture(function, tensors, settings)
                if captured is None:
                    return function(self, **tensors, **settings)
                self._captured[key] = captured
            return self._replay(self._captured[key], tensors)

    def warm_up(self, batch: int) -> None:
        """Run and capture an inversion and an edit, so that the first picture takes no longer than the second; keep what was compiled."""
        from sdic_runtime import chain

        sizes = self.bundle.sizes
        image = self.upload(np.zeros(sizes.shape("image", batch), np.float32))
        inverted = self.whole(chain.invert, {"image": image}, {})
        codes = {name: inverted[name] for name in ("latent", "latent_enhanced", "residual")}
        self.whole(chain.edit, codes, {"eq6": "paper"})
        self.ready()
        self._keep_compiled()

    def close(self) -> None:
        """Give the GPU's memory back; nothing of this backend can be used after it."""
        with self._lock, self.gpu.active():
            self.gpu.synchronize(self.stream)
            for captured in self._captured.values():
                self.gpu.destroy_graph(captured.graph)
            self._captured.clear()
            self.engines.clear()
            self.pool.close()

    def _load(self, library: Any, graph: str) -> LoadedEngine:
        path = self.folder / self.sidecar.stages[graph].file
        stripped = self.sidecar.settings.weights == "stripped" and graph != TO_BYTES
        onnx = graph_file(self.bundle, graph, self.precision) if stripped else None
        engine = load_engine(library, self._runtime, self._log, self.place.target, path, onnx, self._mend())
        return LoadedEngine(library, self.place.target, graph, engine, self.bundle.sizes, path)

    def _enqueue(self, engine: LoadedEngine, batch: int, tensors: Mapping[str, DeviceTensor]) -> None:
        context = engine.context(batch, (self._workspace.address, self._workspace.bytes))
        if not engine.enqueue(context, {name: tensor.address for name, tensor in tensors.items()}, self.stream):
            raise SdicError(
                f'{self.place.target.title} failed in "{engine.graph}": {self._log.said() or "it does not say why"}; '
                f"use a smaller batch, or build the engines again with: {self._mend()}"
            )

    def _mend(self) -> str:
        return build_command(self.bundle, self.place.target.name, self.sidecar.settings)

    def _engine(self, stage: str, outputs: Sequence[str]) -> LoadedEngine:
        """The engine of the partial graph where that is all that is asked for, else of the stage."""
        if stage not in STAGES:
            raise SdicError(f'there is no stage "{stage}"; use one of {", ".join(STAGES)}')
        partial = f"{stage}:{outputs[0]}" if len(outputs) == 1 else stage
        return self.engines.get(partial) or self.engines[stage]

    def _borrowed(self, source: Any) -> DeviceTensor:
        borrowed = Borrowed(source, self.stream)
        if borrowed.device[0] not in (self.pool.device[0], CUDA_MANAGED) or borrowed.device[1] != self.pool.device[1]:
            raise SdicError(
                f"the tensor is on DLPack device {borrowed.device} and the engines are on {self.pool.device}; bring it to that "
                "GPU, or give a numpy array"
            )
        if borrowed.dtype != np.float32:
            raise SdicError(f"the tensor is {borrowed.dtype}; give float32")
        return DeviceTensor(borrowed.address, borrowed.shape, borrowed.dtype, borrowed.device, borrowed)

    def _capture(self, function: Callable[..., Any], tensors: Mapping[str, DeviceTensor], settings: Mapping[str, Any]) -> Captured | None:
        """Run the chain once for its shapes and buffers, then record it; None with a reason when it cannot be recorded."""
        inputs = {name: self._copy(tensor) for name, tensor in tensors.items()}
        with self.pool.holding():  # as many buffers as the capture will need, which may not allocate
            function(self, **inputs, **settings)
        self.gpu.synchronize(self.stream)
        batch = next(iter(inputs.values())).shape[0]
        for engine in self.engines.values():
            context = engine.context(batch, (self._workspace.address, self._workspace.bytes))
            if not engine.capturable(context, self.stream):
                self.graph_obstacle = f'{self.place.target.title} cannot capture the stage "{engine.graph}"'
                return None
        graph = result = None
        with self.pool.holding() as holds:
            self.gpu.begin_capture(self.stream)
            try:
                result = function(self, **inputs, **settings)
            except SdicError as error:
                self.graph_obstacle = str(error)
            finally:
                graph = self.gpu.end_capture(self.stream)
        if graph is None:
            self.graph_obstacle = self.graph_obstacle or f"the capture broke: {self._log.said() or 'the driver refused it'}"
            return None
        return Captured(graph, inputs, result, list(holds))

    def _replay(self, captured: Captured, tensors: Mapping[str, DeviceTensor]) -> Any:
        """Copy the inputs in, launch, and copy the results out, so that they stay when the graph runs again."""
        for name, tensor in tensors.items():
            self.gpu.copy(captured.inputs[name].address, tensor.address, tensor.bytes, self.stream)
        self.gpu.launch(captured.graph, self.stream)
        if isinstance(captured.result, DeviceTensor):
            return self._copy(captured.result)
        return {name: self._copy(tensor) for name, tensor in captured.result.items()}

    def _copy(self, tensor: DeviceTensor) -> DeviceTensor:
        copy = self.pool.tensor(tensor.shape, tensor.dtype)
        self.gpu.copy(copy.address, tensor.address, tensor.bytes, self.stream)
        return copy

    def _keep_compiled(self) -> None:
        """Save what TensorRT-RTX compiled for this GPU beside its engines; where that is not allowed the next start compiles again."""
        for engine in self.engines.values():
            compiled = engine.compiled()
            if compiled and not engine.cache_file.is_file():
                try:
                    with replacing(engine.cache_file) as temporary:
                        temporary.write_bytes(compiled)
                except SdicError:
                    return


def _log(library: Any) -> Any:
    """A logger that keeps the last errors for a sentence and prints nothing."""

    class Log(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.ERROR:
                self.errors = [*self.errors, " ".join(message.split())][-SAID:]

        def said(self) -> str:
            """The errors since this was last asked, in short."""
            text, self.errors = "; ".join(self.errors)[:300], []
            return text

    return Log()
