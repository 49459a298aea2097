"""One ONNX file becomes one engine: the same calls for TensorRT 10.12 and later, TensorRT 11 and TensorRT-RTX, strongly typed.

Polygraphy decides once per process, at import, which of the two libraries it drives, and prints what it does; the calls below are few
and the same in both, so they are made here.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from sdic_export.tensorrt.census import NOTHING, Census, inspector_census, plan_census
from sdic_runtime.backends.cuda.driver import gpu_count
from sdic_runtime.backends.tensorrt.library import error_log, load_library
from sdic_runtime.backends.tensorrt.settings import DEFAULTS, MEBI, EngineSettings, Hardware, Target
from sdic_runtime.errors import ArgumentError, BackendError

CAPABILITY_PREFIX = "SM"
CAPABILITY = re.compile(r"[0-9]+\.[0-9]")
# Setting -> the only target whose builder has it.
SUPPORTED = {"compute_capabilities": Target.tensorrt_rtx, "hardware": Target.tensorrt}
HARDWARE_LEVELS = {Hardware.same_capability: "SAME_COMPUTE_CAPABILITY", Hardware.ampere_plus: "AMPERE_PLUS"}

Step = Callable[[str, float], None]  # the phase of the build, and how much of it all is done (0 to 1)


class BuiltEngine(msgspec.Struct, frozen=True):
    """A serialized engine and what it holds."""

    plan: Any  # a memoryview
    seconds: float
    census: Census


def check_settings(target: Target, settings: EngineSettings) -> None:
    """Raise ArgumentError for a setting that the builder of `target` does not have."""
    for name, only in SUPPORTED.items():
        if getattr(settings, name) != getattr(DEFAULTS, name) and target != only:
            raise ArgumentError(f"{target.label} has no setting {name.replace('_', ' ')}; omit it or use --target {only}")
    capabilities = settings.compute_capabilities
    wrong = [name for index, name in enumerate(capabilities) if not CAPABILITY.fullmatch(name) or name in capabilities[:index]]
    if wrong:
        twice = "is given twice; give each once" if CAPABILITY.fullmatch(wrong[0]) else "is no version; give N.N, such as 8.9"
        raise ArgumentError(f'the compute capability "{wrong[0]:.60}" {twice}')
    if settings.workspace_bytes is not None and settings.workspace_bytes < MEBI:
        raise ArgumentError(f"the workspace is {settings.workspace_bytes} bytes; give at least 1 MB")


def build_engine(onnx: Path, target: Target, settings: EngineSettings, step: Step | None = None) -> BuiltEngine:
    """Build the engine of the ONNX file `onnx`. Raises BackendError with the builder's own words, and KeyboardInterrupt after Ctrl-C."""
    check_settings(target, settings)
    trt, start = load_library(target), time.perf_counter()
    log, library = error_log(trt), f"{target.label} {trt.__version__}"
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BackendError(f"{library} cannot parse {onnx}: {errors[:300]}")
    if network.num_outputs == 0:
        raise BackendError(f"{onnx} holds no graph; build it again with: sdic-export build")
    config = _config(trt, builder, network, target, settings)
    config.progress_monitor = monitor = _monitor(trt, step or (lambda phase, done: None))
    refused = log.said()  # a setter that fails only logs it
    if refused:
        raise BackendError(f"{library} does not take a setting: {refused}")
    with _stopping(monitor):
        plan = builder.build_serialized_network(network, config)
    if monitor.stopped:
        signal.raise_signal(monitor.stopped)
        raise KeyboardInterrupt
    if plan is None:
        raise BackendError(f"{library} cannot build {onnx.name}: {log.said() or 'it does not say why'}")
    view = memoryview(plan)
    return BuiltEngine(view, time.perf_counter() - start, take_census(trt, view, settings.profile.best))


def take_census(trt: Any, plan: memoryview, batch: int = 1) -> Census:
    """By the inspector where the engine can be loaded, which is asked about `batch` pictures; else from the plan's text."""
    census = plan_census(plan)
    if gpu_count() == 0:
        return census
    engine = trt.Runtime(error_log(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        return census
    inspector = engine.create_engine_inspector()
    context = _shaped_context(trt, engine, batch)
    if context is not None:
        inspector.execution_context = context
    found = inspector_census(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return census if found.source == NOTHING else found


def _shaped_context(trt: Any, engine: Any, batch: int) -> Any:
    """A context without device memory, in which the inputs have `batch` pictures, so that the inspector can name the tensors' types; None
    where there is none to be had: the weights' types are known without."""
    try:
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        for index in range(engine.num_io_tensors if context is not None else 0):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                context.set_input_shape(name, (batch, *tuple(engine.get_tensor_shape(name))[1:]))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return context


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
    if settings.hardware in HARDWARE_LEVELS:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, HARDWARE_LEVELS[settings.hardware])
    if settings.weights == "stripped":
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # the same weights come back: plain REFIT may drop a bias in 11.3
    if target == Target.tensorrt_rtx:
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
            raise ArgumentError(
                f"TensorRT-RTX {trt.__version__} does not build for compute capability {capability}; it builds for {listed}, "
                "and other GPUs take --target tensorrt"
            )
        config.set_compute_capability(known[name], index)


def _monitor(trt: Any, step: Step) -> Any:
    """Progress out of nested phases: a phase takes the share of one step of its parent."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = 0  # the number of the signal that asked for it
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
    """Ctrl-C, or SIGTERM where it is handled, asks the builder to stop at its next step instead of breaking through its C++ frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        monitor.stopped = number

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
