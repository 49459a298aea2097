"""The ONNX Runtime backend: the CPU everywhere, CUDA where `onnxruntime-gpu` is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.bands import Bands, available_cores
from sdic_runtime.bundle.bundle import CPU_PRECISION, Bundle
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.stages import STAGES, Stage

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MEMORY_SIGNS = ("bad allocation", "bad_alloc", "failed to allocate memory", "out of memory", "bfcarena")
MOST_LOADERS = 4  # stages that are loaded at the same time; each needs memory for its own weights twice
QUIET = 3  # ONNX Runtime's log level for errors only
FLOAT = "tensor(float)"
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
    `cpu_graphs=False` leaves aside the graphs that the bundle has for processors; they only run on the CPU in float32 (`cpu_stages`), and
    where they are bands of rows, each band has its share of the threads. `lazy=True` loads each stage on its first use instead of now.
    Raises SdicError.
    """
    backend = OnnxRuntime(bundle, bundle.precision(precision), threads, device, tf32, cpu_graphs)
    if not lazy:
        bundle.check(bundle.manifest.stage_files(backend.precision, cpu=bool(backend.cpu_stages)))
        with ThreadPoolExecutor(min(MOST_LOADERS, available_cores())) as pool:
            list(pool.map(backend.load_stage, STAGES.values()))
    return backend


class OnnxRuntime:
    """One session per stage or band of it, and one per partial graph: ONNX Runtime computes every output of a graph, asked for or not.

    On the CPU a tensor is a numpy array; on CUDA it is an OrtValue and stays on the device.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None, device: str, tf32: bool, cpu_graphs: bool = True) -> None:
        import onnxruntime

        kind, _, index = device.partition(":")
        if kind not in PROVIDERS or not (index.isdigit() or device == kind):
            raise SdicError(f'the device is "{device}"; use cpu, cuda or cuda:N')
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise SdicError(f"threads is {threads!r}; give a whole number of at least 1, or None for all cores")
        if not isinstance(cpu_graphs, bool):
            raise SdicError(f"cpu_graphs is {cpu_graphs!r}; use true or false")
        if PROVIDERS[kind] not in onnxruntime.get_available_providers():
            raise MissingExtraError("onnxruntime-gpu", "gpu", f'the device "{device}"')
        self.bundle, self.precision = bundle, precision
        arranged = kind == "cpu" and precision == CPU_PRECISION and cpu_graphs
        # The stages, and "stage:output" for outputs asked for alone, that run on graphs arranged for processors.
        self.cpu_stages = sorted(bundle.manifest.cpu) if arranged else []
        self._kind, self._index, self._threads, self._tf32 = kind, int(index or 0), threads, tf32
        self._sessions: dict[tuple[Path, ...], Any] = {}  # graphs of a stage, several where it is in bands -> what runs them
        self._answers: dict[tuple[str, ...], Any] = {}  # (stage, outputs asked for) -> the session that computes them
        self._locks = {stage: threading.Lock() for stage in STAGES}
        _register_shared_arena()

    @property
    def description(self) -> str:
        import onnxruntime

        arranged = f", CPU graphs of {', '.join(self.cpu_stages)}" if self.cpu_stages else ""
        return f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[self._kind]}, {self.precision}{arranged}"

    def load_stage(self, stage: Stage) -> None:
        """Load every session that `stage` can be asked for."""
        for outputs in (stage.outputs, *((output,) for output in stage.outputs)):
            self.session(stage.name, outputs)

    def session(self, stage: str, outputs: Sequence[str]) -> Any:
        """The session that computes `outputs` of `stage` with the least work, made on first use."""
        request = (stage, *outputs)
        if request in self._answers:
            return self._answers[request]
        with self._locks[stage]:
            alone = self._partial(stage, outputs[0]) if len(outputs) == 1 else []
            arranged = self.bundle.cpu_files(stage) if not alone and stage in self.cpu_stages else []
            paths = tuple(alone or arranged or [self.bundle.stage_file(stage, self.precision)])
            if paths not in self._sessions:
                table = STAGES[stage]
                self._sessions[paths] = self._load(replace(table, outputs=tuple(outputs)) if alone else table, paths)
            self._answers[request] = self._sessions[paths]
            return self._answers[request]

    def _partial(self, stage: str, output: str) -> list[Path]:
        """The graphs that compute `output` of `stage` alone, where the bundle has such."""
        if f"{stage}:{output}" in self.cpu_stages:
            return self.bundle.cpu_files(f"{stage}:{output}")
        partial = self.bundle.partial_file(stage, output, self.precision)
        return [partial] if partial else []

    def _load(self, stage: Stage, paths: Sequence[Path]) -> Any:
        """What runs the graphs `paths`, which have the outputs of `stage`."""
        if len(paths) == 1:
            return self._create(stage, paths[0], self._threads)
        threads = self._threads or available_cores()
        bands = [self._create(stage, path, max(1, threads // len(paths))) for path in paths]
        return Bands(stage, self.bundle.sizes, bands, min(threads, len(paths)))

    def _create(self, stage: Stage, path: Path, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        # Six sessions share the cores: a thread pool that spins after its run would slow down the next stage.
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
        with self._readable(f'the stage "{stage.name}" could not be loaded from {path}', f"see: sdic-export verify {self.bundle.path}"):
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        # ONNX Runtime goes on with the CPU when CUDA cannot start, and only logs it.
        if provider not in session.get_providers():
            raise SdicError(
                f'ONNX Runtime could not start on "{self._kind}:{self._index}"; check the NVIDIA driver and the CUDA and cuDNN '
                'libraries, or use device="cpu"'
            )
        _check_tensors(stage, session, path)
        return session

    def upload(self, array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array, np.float32)
        if self._kind == "cpu":
            return array
        import onnxruntime

        with self._readable("the tensor could not be brought to the GPU", "use a smaller batch"):
            return onnxruntime.OrtValue.ortvalue_from_numpy(array, self._kind, self._index)

    def download(self, tensor: Any) -> np.ndarray:
        array: np.ndarray = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        return array

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        session = self.session(stage, outputs)
        with self._readable(f'the stage "{stage}" failed', f"see: sdic-export verify {self.bundle.path}"):
            if self._kind == "cpu":
                return dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
            binding = session.io_binding()
            for name, tensor in inputs.items():
                binding.bind_ortvalue_input(name, tensor)
            for name in outputs:
                binding.bind_output(name, self._kind, self._index)
            session.run_with_iobinding(binding)
            return dict(zip(outputs, binding.get_outputs(), strict=True))

    @contextmanager
    def _readable(self, what: str, remedy: str) -> Iterator[None]:
        """Turn what ONNX Runtime raises into one sentence; running out of memory is named as such."""
        expected: tuple[type[Exception], ...] = (*_error_types(), MemoryError, ValueError)
        try:
            yield
        except expected as error:
            text = " ".join(str(error).split())
            if isinstance(error, MemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
                raise SdicError(f"{what}: not enough memory on {self._kind}; use a smaller batch") from error
            raise SdicError(f"{what}: {text[:300]}; {remedy}") from error


@cache
def _register_shared_arena() -> None:
    """One CPU arena for all sessions of the process, growing by what is asked for instead of doubling.

    A program that has registered its own allocator keeps it.
    """
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    with suppress(*_error_types()):
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}))


def _error_types() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime defines; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _check_tensors(stage: Stage, session: Any, path: Path) -> None:
    """The graph's tensors are those of the stage table, in float32 at the borders."""
    for role, names, infos in (("inputs", stage.inputs, session.get_inputs()), ("outputs", stage.outputs, session.get_outputs())):
        found = {info.name: info.type for info in infos}
        if set(found) != set(names) or set(found.values()) != {FLOAT}:
            listed = ", ".join(f"{name} {kind}" for name, kind in found.items())
            raise SdicError(
                f'{path} has the {role} {listed} where the stage "{stage.name}" has {", ".join(names)} in float32; '
                "build it again with: sdic-export build"
            )
