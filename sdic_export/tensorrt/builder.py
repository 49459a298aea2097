"""One ONNX file becomes one engine: the same calls for TensorRT 10.12 and later, TensorRT 11 and TensorRT-RTX, strongly typed.

Polygraphy decides once per process, at import, which of the two libraries it drives, and prints what it does; the calls below are few
and the same in both, so they are made here.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdic_export.tensorrt.census import NOTHING, Census, inspector_census, plan_census
from sdic_runtime.backends.tensorrt.engine_files import TARGETS, EngineSettings, Target
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.files import replacing

OLDEST = {"tensorrt": (10, 12), "tensorrt-rtx": (1, 2)}
CAPABILITY_PREFIX = "SM"
LOCK_SECONDS = 600.0
LEAST_WORKSPACE = 1 << 20
HIGHEST_OPTIMIZATION = 5
# Setting -> the targets whose builder has it.
SUPPORTED = {
    "compute_capabilities": ("tensorrt-rtx",),
    "hardware": ("tensorrt",),
    "version_compatible": ("tensorrt",),
    "platform": ("tensorrt",),
    "weights": ("tensorrt", "tensorrt-rtx"),
}
HARDWARE_LEVELS = {"same-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}

Step = Callable[[str, float], None]  # the phase of the build, and how much of it all is done (0 to 1)


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and what it holds."""

    plan: memoryview
    seconds: float
    census: Census


def load_library(target: Target) -> Any:
    """The module of `target`. Raises MissingExtraError, or SdicError for a version that is too old."""
    try:
        module = importlib.import_module(target.module)
    except ImportError as error:
        if error.name == target.module:
            raise MissingExtraError(target.module, target.name, f"building {target.title} engines") from error
        raise SdicError(f"{target.title} cannot be loaded ({error}); install its libraries again") from error
    numbers = tuple(int(part) for part in module.__version__.split(".")[:2])
    if numbers < OLDEST[target.name]:
        oldest = ".".join(str(part) for part in OLDEST[target.name])
        raise SdicError(
            f"{target.title} {module.__version__} is installed and {oldest} is the oldest that works; update it with: "
            f'pip install --upgrade "sdic[{target.name}]"'
        )
    return module


def check_settings(target: Target, settings: EngineSettings) -> None:
    """Raise SdicError for a setting that the builder of `target` does not have."""
    default = EngineSettings()
    for name, targets in SUPPORTED.items():
        if getattr(settings, name) != getattr(default, name) and target.name not in targets:
            raise SdicError(f"{target.title} has no setting {name.replace('_', ' ')}; leave it out or use --target {targets[0]}")
    if settings.hardware != default.hardware and settings.hardware not in HARDWARE_LEVELS:
        raise SdicError(f'the hardware compatibility is "{settings.hardware}"; use exact, {" or ".join(HARDWARE_LEVELS)}')
    if settings.workspace_bytes is not None and settings.workspace_bytes < LEAST_WORKSPACE:
        raise SdicError(f"the workspace is {settings.workspace_bytes} bytes; give at least {LEAST_WORKSPACE >> 20} MB")
    if settings.optimization is not None and not 0 <= settings.optimization <= HIGHEST_OPTIMIZATION:
        raise SdicError(f"the optimization is {settings.optimization}; use 0 to {HIGHEST_OPTIMIZATION}")


def build_engine(
    onnx: Path, target: Target, settings: EngineSettings, step: Step | None = None, timing_cache: Path | None = None
) -> BuiltEngine:
    """Build the engine of the ONNX file `onnx`. Raises SdicError with the builder's own words, and KeyboardInterrupt after Ctrl-C."""
    check_settings(target, settings)
    trt, start = load_library(target), time.perf_counter()
    log = _log(trt)
    with ExitStack() as stack:
        builder = trt.Builder(log)
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(onnx)):
            errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise SdicError(f"{target.title} {trt.__version__} cannot parse {onnx}: {errors[:300]}")
        if network.num_outputs == 0:
            raise SdicError(f"{onnx} holds no graph; build it again with: sdic-export build")
        config = _config(trt, builder, network, target, settings)
        monitor = _monitor(trt, step or (lambda phase, done: None))
        config.progress_monitor = monitor
        cache = _timing_cache(trt, config, target, timing_cache)
        log.refuse(f"{target.title} {trt.__version__} does not take a setting")
        stack.enter_context(_stopping(monitor))
        plan = builder.build_serialized_network(network, config)
        if monitor.stopped:
            raise KeyboardInterrupt
        if plan is None:
            log.refuse(f"{target.title} {trt.__version__} cannot build {onnx.name}")
            raise SdicError(f"{target.title} {trt.__version__} cannot build {onnx.name} and does not say why")
        if cache is not None and timing_cache is not None:
            _save_timing_cache(config, cache, timing_cache)
        view = memoryview(plan)
        return BuiltEngine(view, time.perf_counter() - start, take_census(trt, view))


def take_census(trt: Any, plan: memoryview) -> Census:
    """By the inspector where the engine can be loaded, else from the plan's text."""
    census = plan_census(plan)
    if not _has_gpu():
        return census
    engine = trt.Runtime(_log(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        return census
    found = inspector_census(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    return census if found.source == NOTHING else found


def _has_gpu() -> bool:
    from sdic_runtime.backends.cuda.driver import gpu_count

    return gpu_count() > 0


def _strongly_typed(trt: Any) -> int:
    """The creation flag: needed by TensorRT 10, ignored by 11, and no longer there one day."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _config(trt: Any, builder: Any, network: Any, target: Target, settings: EngineSettings) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then names types
    config.clear_flag(trt.BuilderFlag.TF32)  # what a policy keeps in float32 is meant to be float32
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        batches = (settings.profile.smallest, settings.profile.best, settings.profile.largest)
        profile.set_shape(tensor.name, *((batch, *rest) for batch in batches))
    config.add_optimization_profile(profile)
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization is not None:
        config.builder_optimization_level = settings.optimization
    if settings.hardware in HARDWARE_LEVELS:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, HARDWARE_LEVELS[settings.hardware])
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.weights == "stripped":
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # the same weights come back: plain REFIT may drop a bias in 11.3
    if settings.platform == "windows":
        config.runtime_platform = trt.RuntimePlatform.WINDOWS_AMD64
    if target.name == "tensorrt-rtx":
        # Without its own allocations at run time the work of an engine can be captured in a graph with that of the others.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        _set_capabilities(trt, config, settings)
    return config


def _set_capabilities(trt: Any, config: Any, settings: EngineSettings) -> None:
    if not settings.compute_capabilities:
        return
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith(CAPABILITY_PREFIX)}
    config.num_compute_capabilities = len(settings.compute_capabilities)
    for index, capability in enumerate(settings.compute_capabilities):
        name = CAPABILITY_PREFIX + capability.replace(".", "")
        if name not in known:
            listed = ", ".join(f"{item[2:-1]}.{item[-1]}" for item in sorted(known, key=lambda item: int(item[2:])))
            raise SdicError(
                f"TensorRT-RTX {trt.__version__} does not build for compute capability {capability}; it builds for {listed}, "
                "and other GPUs take --target tensorrt"
            )
        config.set_compute_capability(known[name], index)


def _timing_cache(trt: Any, config: Any, target: Target, path: Path | None) -> Any:
    """The timings of earlier builds. TensorRT-RTX measures nothing while it builds, so it has none."""
    if path is None or not target.needs_gpu:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        data = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(data)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another GPU or version: start anew
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save_timing_cache(config: Any, cache: Any, path: Path) -> None:
    """Join what this build measured with what others wrote meanwhile."""
    with _locked(path):
        if path.is_file():
            cache.combine(config.create_timing_cache(path.read_bytes()), ignore_mismatch=False)
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise SdicError(f"another process holds {path}.lock; wait for its build to end, or remove the file if there is none") from error


def _log(trt: Any) -> Any:
    """A logger that keeps what the library says and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

        def refuse(self, what: str) -> None:
            """Raise SdicError with the first error there was: a setter that fails only logs it."""
            if self.errors:
                raise SdicError(f"{what}: {self.errors[0][:300]}")

    return Log()


def _monitor(trt: Any, step: Step) -> Any:
    """Progress out of nested phases: a phase takes the share of one step of its parent."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self.phases: dict[str, tuple[float, float]] = {}  # name -> where it begins, and the length of one step
            self.done = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            begin, length = self.done, 1.0
            if parent_phase in self.phases:
                length = self.phases[parent_phase][1]
            self.phases[phase_name] = (begin, length / max(num_steps, 1))

        def step_complete(self, phase_name: str, step_number: int) -> bool:
            begin, length = self.phases.get(phase_name, (self.done, 0.0))
            self.done = min(1.0, max(self.done, begin + (step_number + 1) * length))
            step(phase_name, self.done)
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

    return Monitor()


@contextmanager
def _stopping(monitor: Any) -> Iterator[None]:
    """Ctrl-C asks the builder to stop at its next step instead of breaking through its C++ frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        monitor.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def target_named(name: str) -> Target:
    """Raises SdicError for a target that is none."""
    if name not in TARGETS:
        raise SdicError(f'there is no target "{name}"; use {" or ".join(TARGETS)}')
    return TARGETS[name]
