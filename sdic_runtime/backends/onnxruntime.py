"""The ONNX Runtime backend on the CPU; `load` also gives that of `onnxruntime_cuda` where a GPU is asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.backends.bands import REBUILD, Bands, for_one
from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.forks import leave, register
from sdic_runtime.backends.options import check_threads, device_of
from sdic_runtime.backends.sessions import CPU, CUDA, PROVIDERS, QUIET, check_shapes, check_tensors, error_types, readable, session_of
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, Graph, chosen, files_in, parts
from sdic_runtime.bundle.manifest import HALF, STANDARD
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import ArgumentError, BackendError
from sdic_runtime.program import Stage

if TYPE_CHECKING:
    from sdic_runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda

MOST_LOADERS = 4  # stages that are loaded at the same time; each needs memory for its own weights twice
SAME_AS_REQUESTED = 1  # ONNX Runtime's number for the arena that does not double


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why ONNX Runtime cannot be used here; None when it can."""
    try:
        import onnxruntime  # noqa: F401 - whether it loads is the question
    except ImportError:
        return 'it needs the package "onnxruntime"; install it with: pip install onnxruntime'
    return None


def precisions(bundle: Bundle, options: Mapping[str, Any]) -> list[str]:
    """Those of the bundle, beginning with the one that runs when none is named."""
    there, on_gpu = bundle.manifest.precisions, str(options.get("device", CPU)).startswith(CUDA)
    return [HALF if on_gpu and HALF in there else bundle.manifest.default_precision, *there]


def load(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    tf32: bool = False,
    graphs: bool = True,
    warm_up: bool = True,
    cpu_graphs: bool = True,
    lazy: bool = False,
) -> OnnxRuntime | OnnxRuntimeCuda:
    """The stages of `bundle` as ONNX Runtime sessions.

    `precision`: when None the bundle's default, and on CUDA the half precision where the bundle has one. `threads`: CPU threads of one
    stage, all cores when None. `device`: "cpu", "cuda" or "cuda:1". `cpu_graphs=False` runs the standard graphs also where the bundle has
    CPU-optimized ones, which are for the CPU in float32; where those are bands of rows, each band has its share of the threads.
    `lazy=True` loads each stage on its first use instead of now.
    On CUDA: `tf32=True`, refused elsewhere, rounds the inputs of float32 convolutions to TF32, which is faster and misses the float32
    tolerances (what half precision keeps in float32 is always rounded so);
    `graphs=False`, refused elsewhere, starts every stage on its own instead of replaying a program as one CUDA graph; `warm_up=False`
    leaves it to the first picture to find convolution algorithms and to record programs, which takes seconds; a CPU has nothing to warm up.
    Raises SdicError.
    """
    kind, index = device_of(device, PROVIDERS)
    check_threads(threads)
    for name in [option for option, given in (("tf32", tf32), ("graphs", not graphs)) if given and kind == CPU]:
        raise ArgumentError(f'{name} is for NVIDIA GPUs, and the device is "{device}"; use device=cuda, or omit {name}')
    backend: OnnxRuntime | OnnxRuntimeCuda
    if kind == CUDA:
        from sdic_runtime.backends.onnxruntime_cuda import open_cuda

        backend = open_cuda(bundle, precision, index, threads, tf32, graphs)
    else:
        backend = OnnxRuntime(bundle, bundle.precision(precision), threads, cpu_graphs)
    if lazy:
        return backend
    try:
        load_stages(backend)
        if warm_up:
            backend.warm_up(1)
    except BaseException:
        backend.close()
        raise
    return backend


def load_stages(backend: OnnxRuntime | OnnxRuntimeCuda) -> None:
    """Load every stage of the bundle while the hashes of its weights are compared: a graph is compared and looked at before its session is
    made, and what its weights are cannot change what that does but in numbers. When this returns, all is compared. Raises SdicError."""
    bundle, variants = backend.bundle, backend.variants
    manifest, files = bundle.manifest, files_in(backend.bundle.manifest, variants)

    def bytes_of(name: str) -> int:
        return manifest.files[name].bytes

    weights = {name for names in manifest.weights.values() for name in names}
    # The longest first, so that no core waits for the other: large files, then the stages with most sessions.
    hashes: list[Callable[[], object]] = [partial(bundle.file, name) for name in sorted(weights & set(files), key=bytes_of, reverse=True)]
    sessions = Counter(stage for key, files in chosen(manifest, variants).items() for stage in (parts(key)[0],) * len(files))
    stages: list[Callable[[], object]] = [partial(backend.load_stage, stage, hashed=False) for stage, _ in sessions.most_common()]
    failed = threading.Event()

    def attempt(task: Callable[[], object]) -> None:
        if failed.is_set():
            return
        try:
            task()
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(min(MOST_LOADERS, available_cpus())) as pool:
        tasks = [pool.submit(attempt, task) for task in (*hashes, *stages)]
        try:
            for task in tasks:
                task.result()
        except BaseException:  # an interrupt too
            failed.set()
            raise
    bundle.check(files)


class OnnxRuntime(Backend):
    """One session per graph or band of one: ONNX Runtime computes every output of a graph, asked for or not. A tensor is a numpy array."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, cpu_graphs: bool = True) -> None:
        super().__init__(bundle.manifest)
        self.bundle, self.precision = bundle, precision
        optimized = precision == STANDARD and cpu_graphs
        self.variants = (ONNXRUNTIME_CPU, precision) if optimized else (precision,)  # those that it runs, best first
        self._threads = threads
        self._sessions: dict[Graph, Any] = {}  # what runs them; where two stages name one file, each has its own, checked session
        self._answers: dict[tuple[str, ...], tuple[Graph, Any]] = {}  # (stage, outputs asked for) -> what computes them
        self._locks = {stage: threading.Lock() for stage in (*bundle.manifest.stages, *bundle.manifest.parts)}
        self._closed = False
        register(self)
        _register_shared_arena()

    @property
    def description(self) -> str:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[CPU]}, {self.precision}{self._optimized()}"

    def _optimized(self) -> str:
        """The graphs that run in a variant for this backend, in words."""
        keys = sorted(key for key, variants in self.bundle.manifest.graphs.items() if self.variants[0] in variants)
        return f", CPU-optimized graphs of {', '.join(keys)}" if len(self.variants) > 1 and keys else ""

    def load_stage(self, stage: str, hashed: bool = True) -> None:
        """Load every session that `stage` can be asked for; `hashed`: see `Bundle.file`."""
        outputs = self.method.stages[stage].outputs
        for asked in (outputs, *((output,) for output in outputs)):
            self._answer(stage, asked, hashed)

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        graph, _ = self.bundle.graph(stage, outputs, self.variants)
        return graph.key, graph.variant

    def standard(self) -> OnnxRuntime | None:
        return OnnxRuntime(self.bundle, self.precision, self._threads, cpu_graphs=False) if self._optimized() else None

    def runs(self, stage: str) -> bool:
        manifest = self.bundle.manifest
        return stage in manifest.stages or any(variant in self.variants for variant in manifest.part_graphs.get(stage, ()))

    def close(self) -> None:
        self._closed = True
        with ExitStack() as loading:  # what other threads load now would come after this
            for lock in self._locks.values():
                loading.enter_context(lock)
            self._answers.clear()
            self._sessions.clear()

    def after_fork(self) -> None:
        """In a new process: the threads of the sessions are not there. They are never used or ended, which would wait for these threads;
        the stages are loaded anew when they are asked for."""
        leave(self._answers, self._sessions)
        self._answers, self._sessions = {}, {}
        self._locks = {stage: threading.Lock() for stage in self._locks}

    def _answer(self, stage: str, outputs: Sequence[str], hashed: bool = True) -> Any:
        """The session that computes `outputs` of `stage` with the least work, made on first use; `hashed`: see `Bundle.file`."""
        request = (stage, *outputs)
        if (known := self._answers.get(request)) is not None:  # in one step: another thread may close the backend
            return known[1]
        with self._locks[stage]:
            if self._closed:
                raise BackendError("the pipeline was closed; load the bundle again")
            if request not in self._answers:
                graph, paths = self.bundle.graph(stage, outputs, self.variants, hashed)
                if graph not in self._sessions:
                    whole = self.method.stage(stage)
                    table = Stage(whole.inputs, (graph.alone,)) if graph.alone else whole
                    self._sessions[graph] = self._load(stage, table, paths)
                self._answers[request] = graph, self._sessions[graph]
            return self._answers[request][1]

    def _load(self, name: str, stage: Stage, paths: Sequence[Path]) -> Any:
        """What runs the graphs `paths`, which have the tensors of `stage`."""
        if len(paths) == 1:
            session = self._create(name, stage, paths[0], self._threads)
            check_shapes(self.method, session, paths[0])
            return Bands(name, stage, self.method, [session], 1) if for_one(session) else session
        threads = self._threads or available_cpus()
        bands = [self._create(name, stage, path, max(1, threads // len(paths))) for path in paths]
        return Bands(name, stage, self.method, bands, min(threads, len(paths)))

    def _create(self, name: str, stage: Stage, path: Path, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        # All sessions share the cores: a thread pool that spins after its run would slow down the next stage.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Stages run one after the other, so they share one arena; without it the process keeps the sum of their peaks, and with memory
        # patterns each new batch size would add a block of its own.
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        session = session_of(self.bundle, name, path, options, [(PROVIDERS[CPU], {})], CPU)
        check_tensors(name, stage, session, path)
        return session

    def warm_up(self, batch: int) -> None:
        """Nothing on the CPU: what is loaded is ready."""

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, np.float32)

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        session = self._answer(stage, outputs)
        with readable(f'the stage "{stage}" failed', f"see: sdic-export verify {self.bundle.path}", CPU):
            results = dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
        count = len(next(iter(inputs.values())))
        for name, tensor in results.items():
            found, expected = list(tensor.shape), list(self.method.shape(name, count))
            if found != expected:
                raise BackendError(f'the stage "{stage}" gave {name} as {found}, expected {expected}; {REBUILD}')
        return results


@cache
def _register_shared_arena() -> None:
    """One CPU arena for all sessions of the process, growing by what is asked for instead of doubling. A program that has registered its
    own allocator keeps it."""
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    with suppress(*error_types(), RuntimeError):  # RuntimeError: ONNX Runtime 1.20
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}))
