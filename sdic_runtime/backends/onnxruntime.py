"""The ONNX Runtime backend: the CPU everywhere, CUDA where `onnxruntime-gpu` is installed."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.bands import REBUILD, Bands, for_one
from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.forks import leave, register
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, Graph, files_in
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, OutOfMemoryError
from sdic_runtime.files import open_regular
from sdic_runtime.program import Method, Stage

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MEMORY_SIGNS = ("bad allocation", "bad_alloc", "failed to allocate memory", "out of memory", "bfcarena")
MOST_LOADERS = 4  # stages that are loaded at the same time; each needs memory for its own weights twice
QUIET = 3  # ONNX Runtime's log level for errors only
# No extra can ask for it: both packages fill the same folder, and whichever is removed takes the other's files along.
GPU_HINT = "in place of onnxruntime: pip uninstall --yes onnxruntime && pip install --force-reinstall onnxruntime-gpu"
FLOAT = "tensor(float)"
NEEDED_FOR_LINKS = "add_external_initializers_from_files_in_memory"  # of its options, in later versions
SAME_AS_REQUESTED = 1  # ONNX Runtime's number for the arena that does not double


def unavailable(bundle: Bundle | None = None) -> str | None:
    """Why ONNX Runtime cannot be used here; None when it can."""
    try:
        import onnxruntime  # noqa: F401 - whether it loads is the question
    except ImportError:
        return 'it needs the package "onnxruntime"; install it with: pip install onnxruntime'
    return None


def load(
    bundle: Bundle,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    tf32: bool = False,
    cpu_graphs: bool = True,
    lazy: bool = False,
) -> OnnxRuntime:
    """The stages of `bundle` as ONNX Runtime sessions.

    `precision`: the bundle's default when None. `threads`: CPU threads of one stage, all cores when None. `device`: "cpu", "cuda" or
    "cuda:1". `tf32=True` lets CUDA round the inputs of float32 convolutions to TF32, which is faster and misses the float32 tolerances.
    `cpu_graphs=False` runs the standard graphs also where the bundle has CPU-optimized ones, which are for the CPU in float32; where those
    are bands of rows, each band has its share of the threads. `lazy=True` loads each stage on its first use instead of now.
    Raises SdicError.
    """
    backend = OnnxRuntime(bundle, bundle.precision(precision), threads, device, tf32, cpu_graphs)
    if not lazy:
        bundle.check(files_in(bundle.manifest, backend.variants))
        with ThreadPoolExecutor(min(MOST_LOADERS, available_cpus())) as pool:
            list(pool.map(backend.load_stage, bundle.manifest.stages))
    return backend


class OnnxRuntime(Backend):
    """One session per graph or band of one: ONNX Runtime computes every output of a graph, asked for or not. On the CPU a tensor is a numpy
    array; on CUDA it is an OrtValue and stays on the device."""

    name = "onnxruntime"

    def __init__(
        self, bundle: Bundle, precision: str, threads: int | None = None, device: str = "cpu", tf32: bool = False, cpu_graphs: bool = True
    ) -> None:
        import onnxruntime

        super().__init__(bundle.manifest)
        kind, _, index = device.partition(":")
        if kind not in PROVIDERS or not (index.isdigit() or device == kind):
            raise ArgumentError(f'the device is "{device}"; use cpu, cuda or cuda:N')
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ArgumentError(f"threads is {threads!r}; give a whole number of at least 1, or None for all cores")
        if not isinstance(cpu_graphs, bool):
            raise ArgumentError(f"cpu_graphs is {cpu_graphs!r}; use true or false")
        if PROVIDERS[kind] not in onnxruntime.get_available_providers():
            raise BackendError(f'the device "{device}" needs the package "onnxruntime-gpu"; {GPU_HINT}')
        self.bundle, self.precision = bundle, precision
        optimized = kind == "cpu" and precision == STANDARD and cpu_graphs
        self.variants = (ONNXRUNTIME_CPU, precision) if optimized else (precision,)  # those that it runs, best first
        self._kind, self._index, self._threads, self._tf32 = kind, int(index or 0), threads, tf32
        self._sessions: dict[tuple[Path, ...], Any] = {}  # files of a graph, several where it is in bands -> what runs them
        self._answers: dict[tuple[str, ...], tuple[Graph, Any]] = {}  # (stage, outputs asked for) -> what computes them
        self._locks = {stage: threading.Lock() for stage in bundle.manifest.stages}
        self._closed = False
        register(self)
        _register_shared_arena()

    @property
    def description(self) -> str:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[self._kind]}, {self.precision}{self._optimized()}"

    def _optimized(self) -> str:
        """The graphs that run in a variant for this backend, in words."""
        keys = sorted(key for key, variants in self.bundle.manifest.graphs.items() if self.variants[0] in variants)
        return f", CPU-optimized graphs of {', '.join(keys)}" if len(self.variants) > 1 and keys else ""

    def load_stage(self, stage: str) -> None:
        """Load every session that `stage` can be asked for."""
        outputs = self.method.stages[stage].outputs
        for asked in (outputs, *((output,) for output in outputs)):
            self._answer(stage, asked)

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        graph, _ = self.bundle.graph(stage, outputs, self.variants)
        return graph.key, graph.variant

    def standard(self) -> OnnxRuntime | None:
        same = (self.bundle, self.precision, self._threads, "cpu", self._tf32)
        return OnnxRuntime(*same, cpu_graphs=False) if self._optimized() else None

    def close(self) -> None:
        self._closed = True
        self._answers.clear()
        self._sessions.clear()

    def after_fork(self) -> None:
        """In a new process: the threads of the sessions are not there. They are never used or ended, which would wait for these threads;
        the stages are loaded anew when they are asked for."""
        leave(self._answers, self._sessions)
        self._answers, self._sessions = {}, {}
        self._locks = {stage: threading.Lock() for stage in self._locks}

    def _answer(self, stage: str, outputs: Sequence[str]) -> Any:
        """The session that computes `outputs` of `stage` with the least work, made on first use."""
        request = (stage, *outputs)
        if request not in self._answers:
            if self._closed:
                raise BackendError("the pipeline was closed; load the bundle again")
            with self._locks[stage]:
                graph, paths = self.bundle.graph(stage, outputs, self.variants)
                if tuple(paths) not in self._sessions:
                    whole = self.method.stages[stage]
                    table = Stage(whole.inputs, (graph.alone,)) if graph.alone else whole
                    self._sessions[tuple(paths)] = self._load(stage, table, paths)
                self._answers[request] = graph, self._sessions[tuple(paths)]
        return self._answers[request][1]

    def _load(self, name: str, stage: Stage, paths: Sequence[Path]) -> Any:
        """What runs the graphs `paths`, which have the tensors of `stage`."""
        if len(paths) == 1:
            session = self._create(name, stage, paths[0], self._threads)
            _check_shapes(self.method, session, paths[0])
            if not for_one(session):
                return session
            if self._kind == "cpu":
                return Bands(name, stage, self.method, [session], 1)
            self.largest_batch = 1
            return session
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
        provider = PROVIDERS[self._kind]
        settings = {"device_id": str(self._index), "use_tf32": str(int(self._tf32))} if self._kind == "cuda" else {}
        providers = [(provider, settings), *([(PROVIDERS["cpu"], {})] if self._kind != "cpu" else [])]
        with self._readable(f'the stage "{name}" could not be loaded from {path}', f"see: sdic-export verify {self.bundle.path}"):
            read = _bring_outside(options, self.bundle.outside(path))  # must be there until the session is
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
            del read
        # ONNX Runtime goes on with the CPU when CUDA cannot start, and only logs it.
        if provider not in session.get_providers():
            why = f'ONNX Runtime could not start on "{self._kind}:{self._index}"'
            raise BackendError(f'{why}; check the NVIDIA driver and the CUDA and cuDNN libraries, or use device="cpu"')
        _check_tensors(name, stage, session, path)
        return session

    def upload(self, array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array, np.float32)
        if self._kind == "cpu":
            return array
        import onnxruntime

        with self._readable("the tensor could not be brought to the GPU", "use a smaller batch"):
            return onnxruntime.OrtValue.ortvalue_from_numpy(array, self._kind, self._index)

    def download(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor if isinstance(tensor, np.ndarray) else tensor.numpy())

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        session = self._answer(stage, outputs)
        with self._readable(f'the stage "{stage}" failed', f"see: sdic-export verify {self.bundle.path}"):
            if self._kind == "cpu":
                results = dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
            else:
                binding = session.io_binding()
                for name, tensor in inputs.items():
                    binding.bind_ortvalue_input(name, tensor)
                for name in outputs:
                    binding.bind_output(name, self._kind, self._index)
                session.run_with_iobinding(binding)
                results = dict(zip(outputs, binding.get_outputs(), strict=True))
        count = _shape(next(iter(inputs.values())))[0]
        for name, tensor in results.items():
            found, expected = list(_shape(tensor)), list(self.method.shape(name, count))
            if found != expected:
                raise BackendError(f'the stage "{stage}" gave {name} as {found}, expected {expected}; {REBUILD}')
        return results

    @contextmanager
    def _readable(self, what: str, remedy: str) -> Iterator[None]:
        """Turn what ONNX Runtime raises into one sentence; running out of memory is named as such."""
        expected: tuple[type[Exception], ...] = (*_error_types(), MemoryError, ValueError)
        try:
            yield
        except expected as error:
            text = " ".join(str(error).split())
            if isinstance(error, MemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
                raise OutOfMemoryError(f"{what}: not enough memory on {self._kind}; use a smaller batch") from error
            raise BackendError(f"{what}: {text[:300]}; {remedy}") from error


def _bring_outside(options: Any, weights: Mapping[str, Path]) -> list[mmap.mmap]:
    """Hand over weights whose files are links out of the bundle, which ONNX Runtime does not follow; their hashes were compared. What is
    returned must be kept until the session is made. Raises BundleError."""
    maps: list[mmap.mmap] = []
    if not weights:
        return maps
    if not hasattr(options, NEEDED_FOR_LINKS):
        first = next(iter(weights.values()))
        raise BundleError(f"{first} is a link out of the bundle, which this ONNX Runtime does not follow; update it, or use: cp -rL")
    for path in weights.values():
        with open_regular(path) as stream:
            maps.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    getattr(options, NEEDED_FOR_LINKS)(list(weights), maps, [len(data) for data in maps])
    return maps


def _shape(tensor: Any) -> tuple[int, ...]:
    return tensor.shape if isinstance(tensor, np.ndarray) else tuple(tensor.shape())


@cache
def _register_shared_arena() -> None:
    """One CPU arena for all sessions of the process, growing by what is asked for instead of doubling. A program that has registered its
    own allocator keeps it."""
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    with suppress(*_error_types()):
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}))


def _error_types() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime defines; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _check_tensors(name: str, stage: Stage, session: Any, path: Path) -> None:
    """The graph's tensors are those of the stage table, in float32 at the borders."""
    for role, names, infos in (("inputs", stage.inputs, session.get_inputs()), ("outputs", stage.outputs, session.get_outputs())):
        found = {info.name: info.type for info in infos}
        if set(found) != set(names) or set(found.values()) != {FLOAT}:
            listed = ", ".join(f"{name} {kind}" for name, kind in found.items())
            raise BundleError(f'{path} has the {role} {listed} where the stage "{name}" has {", ".join(names)} in float32; {REBUILD}')


def _check_shapes(method: Method, session: Any, path: Path) -> None:
    """What a graph says of its shapes agrees with the sizes of the bundle."""
    for info in (*session.get_inputs(), *session.get_outputs()):
        found, expected = info.shape[1:], method.shape(info.name, 1)[1:]
        known = {axis: size for axis, size in enumerate(found) if isinstance(size, int)}
        if len(found) != len(expected) or any(expected[axis] != size for axis, size in known.items()):
            sizes = f"[N, {', '.join(map(str, expected))}]"
            raise BundleError(f"{path} has {info.name} as {list(info.shape)} where the bundle's sizes say {sizes}; {REBUILD}")
