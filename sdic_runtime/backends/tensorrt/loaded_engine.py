"""One engine in memory, with an execution context per batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdic_runtime.backends.tensorrt.settings import FOR_ONE, Profile, Target
from sdic_runtime.errors import ArgumentError, BackendError
from sdic_runtime.program import Method

CACHE_SUFFIX = ".cache"  # what TensorRT-RTX compiled for this GPU at first use


class LoadedEngine:
    """An engine with user-managed memory: it computes in the workspace that all engines share, which must be idle meanwhile."""

    def __init__(self, trt: Any, target: Target, graph: str, engine: Any, method: Method, path: Path) -> None:
        self.trt, self.target, self.graph, self.engine, self.method = trt, target, graph, engine, method
        self.cache_file = path.with_name(path.name + CACHE_SUFFIX)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self._contexts: dict[int, Any] = {}
        self._cache: Any = None

    @property
    def workspace(self) -> int:
        """Bytes it computes in, for its largest batch."""
        return int(self.engine.device_memory_size_v2)

    def context(self, batch: int, workspace: tuple[int, int]) -> Any:
        """The context for `batch` pictures, its shapes set once; `workspace` is an address and a size. Raises ArgumentError for a batch
        that the engine does not take, or BackendError."""
        if batch in self._contexts:
            return self._contexts[batch]
        profile = Profile(*(int(shape[0]) for shape in self.engine.get_tensor_profile_shape(self.inputs[0], 0)))
        if not profile.smallest <= batch <= profile.largest:
            taken = "1; use a batch of 1" if profile.largest == 1 else f"{profile.smallest} to {profile.largest}; use a batch in that range"
            build = f"{FOR_ONE}, build" if profile.largest == 1 else "build"
            why = f"the batch has {batch} pictures and the engines take {taken}"
            raise ArgumentError(f"{why}, or {build} them with --batch {profile.widened(batch)}")
        context = self._create()
        if context is None:
            raise BackendError(f'{self.target.label} cannot make an execution context for "{self.graph}"; close other programs on the GPU')
        context.set_device_memory(*workspace)
        for name in self.inputs:
            shape = self.method.shape(name, batch)
            if not context.set_input_shape(name, shape):
                raise BackendError(f'the engine of "{self.graph}" refuses {name} {list(shape)}; build the engines again')
        self._contexts[batch] = context
        return context

    def enqueue(self, context: Any, addresses: Mapping[str, int], stream: int) -> bool:
        """Put the work on `stream`; False when the library refuses it."""
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        return bool(context.execute_async_v3(stream))

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether the library says that the context's work can be captured; it only says so in TensorRT-RTX."""
        ask = getattr(context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream))

    def compiled(self) -> bytes:
        """What TensorRT-RTX compiled so far, to be kept for the next start; empty for TensorRT."""
        return bytes(self._cache.serialize()) if self._cache is not None else b""

    def _create(self) -> Any:
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.target.needs_gpu:
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self.cache_file.is_file():
                self._cache.deserialize(self.cache_file.read_bytes())  # refuses what another GPU or version wrote, and starts anew
        config.set_runtime_cache(self._cache)
        return self.engine.create_execution_context(config)


def load_engine(trt: Any, runtime: Any, log: Any, target: Target, path: Path, onnx: Path | None, rebuild: str) -> Any:
    """The deserialized engine at `path`; `onnx` gives stripped weights back. `rebuild` is the command that builds it again."""
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(f"{target.label} cannot load {path}: {log.said() or 'it does not say why'}; build it again with: {rebuild}")
    if onnx is not None:
        refitter = trt.Refitter(engine, log)
        if not trt.OnnxParserRefitter(refitter, log).refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
            why = f"{target.label} cannot put the weights of {onnx} back into {path}: {log.said()}"
            raise BackendError(f"{why}; build it again with: {rebuild}")
    return engine
