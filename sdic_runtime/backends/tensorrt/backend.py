"""The TensorRT backend: engines on one stream, tensors on the GPU through a whole program, each program as one CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.cuda.device import DeviceBackend
from sdic_runtime.backends.cuda.dlpack import CUDA
from sdic_runtime.backends.cuda.driver import Gpu, gpu_count, missing_driver, open_gpu
from sdic_runtime.backends.cuda.tensors import DeviceTensor
from sdic_runtime.backends.tensorrt.engine_files import TO_BYTES, Sidecar, built_here, find_engines, graph_file, graph_names, stale
from sdic_runtime.backends.tensorrt.library import error_log, load_library
from sdic_runtime.backends.tensorrt.loaded_engine import LoadedEngine, load_engine
from sdic_runtime.backends.tensorrt.places import Place
from sdic_runtime.backends.tensorrt.settings import Target, build_command
from sdic_runtime.bundle.bundle import TRUST_HINT, Bundle
from sdic_runtime.bundle.graphs import graph_for
from sdic_runtime.errors import BackendError, SdicError
from sdic_runtime.files import replacing


def obstacle(target: Target, bundle: Bundle | None = None, options: Mapping[str, Any] | None = None) -> str | None:
    """Why `target` cannot be used here (with `bundle`, loaded with `options`), in a few words; None when it can. Loads no engine."""
    if find_spec(target.module) is None:
        return f'it needs the package "{target.module}"; install it with: pip install "sdic-toolkit[{target}]"'
    missing = missing_driver()
    if missing or gpu_count() == 0:  # asked first: importing the library takes half a second
        return missing or "there is no NVIDIA GPU here"
    try:
        load_library(target)
        if bundle is not None:
            _engines_for(target, bundle, options or {})
    except SdicError as error:
        return str(error)
    return None


def _engines_for(target: Target, bundle: Bundle, options: Mapping[str, Any]) -> tuple[Path, Sidecar]:
    """The engines that `load_target` takes with these options. Raises SdicError."""
    gpu = open_gpu(options["device"]) if isinstance(options.get("device"), int) else open_gpu()
    batch = options.get("batch")
    place = Place(target, load_library(target).__version__, gpu.attributes())
    return find_engines(bundle, place, options.get("precision"), batch if isinstance(batch, int) else 1)


def distrust(target: Target, bundle: Bundle, options: Mapping[str, Any] | None = None) -> str | None:
    """Why the engines of `bundle` that `options` choose are only used when `target` is named: an engine can hold code, and no hash says who
    made it."""
    folder, _ = _engines_for(target, bundle, options or {})
    if bundle.trust or built_here(folder):
        return None
    return f"its engines were not built by this user on this machine; name the backend {target}, or use {TRUST_HINT}"


def runs_in(target: Target, bundle: Bundle, options: Mapping[str, Any]) -> list[str]:
    """The precisions of `bundle`, beginning with that of the engines that run here when none is named."""
    there = [bundle.manifest.default_precision, *bundle.manifest.precisions]
    if obstacle(target) is None:
        with suppress(SdicError):
            place = Place(target, load_library(target).__version__, open_gpu(options.get("device", 0)).attributes())
            _, sidecar = find_engines(bundle, place, batch=options.get("batch", 1))
            there.insert(0, sidecar.settings.precision)
    return there


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
            command = build_command(bundle.path, target, sidecar.settings)
            raise BackendError(f"the engines in {folder} cannot be used: {why}; build them again with: {command}")
    backend = TensorRt(bundle, place, library, gpu, (folder, sidecar), (CUDA, device), graphs)
    if warm_up:
        try:
            backend.warm_up(batch)
        except BaseException:
            backend.close()
            raise
    return backend


unavailable, load = partial(obstacle, Target.tensorrt), partial(load_target, Target.tensorrt)
untrusted, precisions = partial(distrust, Target.tensorrt), partial(runs_in, Target.tensorrt)


class TensorRt(DeviceBackend):
    """The engines of one bundle on one GPU. Safe for several threads, which take turns: there is one stream and one set of contexts."""

    def __init__(
        self, bundle: Bundle, place: Place, library: Any, gpu: Gpu, engines: tuple[Path, Sidecar], device: tuple[int, int], graphs: bool
    ) -> None:
        """`device`: as DLPack counts them."""
        super().__init__(bundle.manifest, bundle.manifest.visible_rows, gpu, device, graphs)
        self.bundle, self.place, (self.folder, self.sidecar) = bundle, place, engines
        self.name, self.precision = place.target.value, self.sidecar.settings.precision
        self.largest_batch = self.sidecar.settings.profile.largest
        with gpu.active():
            self._log = error_log(library)
            self._runtime = library.Runtime(self._log)
            self.engines = {graph: self._load(library, graph) for graph in graph_names(bundle, self.precision)}
            size = max(engine.workspace for engine in self.engines.values())
            self._workspace = self.pool.tensor((size,), np.uint8)

    @property
    def description(self) -> str:
        card = self.place.gpu.name if self.place.gpu else "no GPU"
        return f"{self.place.library}, {card}, {self.precision}, {self.graphs_in_words}, {self.gpu.name}"

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        return graph_for(self.bundle.manifest, stage, outputs, [self.precision]).key, self.precision

    def enqueue_stage(self, stage: str, inputs: Mapping[str, DeviceTensor], outputs: Sequence[str]) -> dict[str, DeviceTensor]:
        engine = self.engines[self.variant(stage, outputs)[0]]
        batch = inputs[engine.inputs[0]].shape[0]
        results = {name: self.pool.tensor(self.method.shape(name, batch)) for name in engine.outputs}
        self._enqueue(engine, batch, inputs, results)
        return {name: results[name] for name in outputs}

    def enqueue_bytes(self, picture: DeviceTensor) -> tuple[DeviceTensor, DeviceTensor]:
        batch, (first, end) = picture.shape[0], self.visible_rows
        made = self.pool.tensor((batch, end - first, self.method.sizes["R"], 3), np.uint8)
        total = self.pool.tensor((batch,))
        self._enqueue(self.engines[TO_BYTES], batch, {"picture": picture}, {"bytes": made, "total": total})
        return made, total

    def capture_obstacle(self, batch: int) -> str | None:
        for engine in self.engines.values():
            if not engine.capturable(self._context(engine, batch), self.stream):
                return f'{self.place.target.label} cannot capture the stage "{engine.graph}"'
        return None

    def said(self) -> str:
        return self._log.said()

    def warm_up(self, batch: int) -> None:
        """As of every GPU; and keep what was compiled."""
        super().warm_up(batch)
        self._keep_compiled()

    def release(self) -> None:
        self.engines.clear()
        del self._workspace

    def _load(self, library: Any, graph: str) -> LoadedEngine:
        path = self.folder / self.sidecar.stages[graph].file
        stripped = self.sidecar.settings.weights == "stripped" and graph != TO_BYTES
        onnx = graph_file(self.bundle, graph, self.precision) if stripped else None
        engine = load_engine(library, self._runtime, self._log, self.place.target, path, onnx, self._rebuild())
        return LoadedEngine(library, self.place.target, graph, engine, self.method, path)

    def _enqueue(self, engine: LoadedEngine, batch: int, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> None:
        context = self._context(engine, batch)
        # TensorRT reads no tensor that begins anywhere, as a part of one may, or one of another library.
        read = {name: self.readable(inputs[name]) for name in engine.inputs}
        if not engine.enqueue(context, {name: tensor.address for name, tensor in {**read, **outputs}.items()}, self.stream):
            why = f'{self.place.target.label} failed in "{engine.graph}": {self._log.said() or "it does not say why"}'
            raise BackendError(f"{why}; use a smaller batch, or build the engines again with: {self._rebuild()}")

    def _context(self, engine: LoadedEngine, batch: int) -> Any:
        return engine.context(batch, (self._workspace.address, self._workspace.bytes))

    def _rebuild(self) -> str:
        return build_command(self.bundle.path, self.place.target, self.sidecar.settings)

    def _keep_compiled(self) -> None:
        """Save what TensorRT-RTX compiled for this GPU beside its engines; where that is not allowed the next start compiles again."""
        for engine in self.engines.values():
            compiled = engine.compiled()
            if compiled and not engine.cache_file.is_file():
                with suppress(SdicError), replacing(engine.cache_file) as temporary:
                    temporary.write_bytes(compiled)
