"""Engines of a bundle: what must be built and why, one graph at a time, each inspected, with a sidecar that says what they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sdic_export.graphs.bytes_graph import write_bytes_graph
from sdic_export.half.precision import policy_names
from sdic_export.tensorrt.builder import build_engine, check_settings
from sdic_export.tensorrt.census import check_precision, graph_census
from sdic_runtime.backends.cuda.driver import gpu_count, open_gpu
from sdic_runtime.backends.tensorrt.engine_files import (
    SIDECAR,
    TO_BYTES,
    EngineEntry,
    Sidecar,
    engine_folder,
    engine_name,
    graph_file,
    graph_names,
    onnx_hash,
    read_sidecar,
    stale,
    write_sidecar,
)
from sdic_runtime.backends.tensorrt.library import load_library
from sdic_runtime.backends.tensorrt.places import Place, bound_place
from sdic_runtime.backends.tensorrt.settings import DEFAULTS, EngineSettings, Profile, Target
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, FileError
from sdic_runtime.files import reason, replacing, sha256

BUILD, REUSE = "build", "reuse"
LOCK = ".lock"
ONE_PICTURE = Profile(1, 1, 1)


@dataclass(frozen=True)
class Planned:
    """What is to be done about one graph, and why."""

    graph: str  # a stage, or "stage:output"
    action: str  # BUILD or REUSE
    reason: str


@dataclass(frozen=True)
class EnginePlan:
    """What a build would do."""

    bundle: Bundle
    place: Place
    settings: EngineSettings
    folder: Path
    graphs: tuple[Planned, ...]

    @property
    def to_build(self) -> list[Planned]:
        return [item for item in self.graphs if item.action == BUILD]


@dataclass(frozen=True)
class EngineReport:
    """What a build did."""

    plan: EnginePlan
    sidecar: Sidecar


@dataclass
class EngineProgress:
    """What is told while engines are built; each function may be replaced."""

    begin: Callable[[Planned], None] = field(default=lambda planned: None)
    step: Callable[[str, str, float], None] = field(default=lambda graph, phase, done: None)  # done: 0 to 1 of this graph
    done: Callable[[str, EngineEntry], None] = field(default=lambda graph, entry: None)


def plan_engines(bundle_path: str | os.PathLike[str], target: str, settings: EngineSettings = DEFAULTS, force: bool = False) -> EnginePlan:
    """What `build_engines` would build or use again, and why; nothing is written. Raises SdicError."""
    chosen = Target.named(target)
    check_settings(chosen, settings)
    bundle = Bundle.open(bundle_path)
    precisions = bundle.manifest.precisions
    if settings.precision not in precisions:
        add = f"add them with: sdic-export half {bundle.path} --policy {settings.precision}"
        hint = add if settings.precision in policy_names() else "choose one of them with --precision"
        raise BundleError(f"{bundle.path} has no graphs in {settings.precision}, only in {', '.join(precisions)}; {hint}")
    if alone := _for_one(bundle, settings.precision):
        if settings.profile not in (DEFAULTS.profile, ONE_PICTURE):
            raise _only_one(alone, settings.profile)
        settings = msgspec.structs.replace(settings, profile=ONE_PICTURE)
    library = require_builder(target)
    place = Place(chosen, library.__version__, open_gpu().attributes() if chosen.needs_gpu else None)
    folder = engine_folder(bundle, place, settings)
    graphs = tuple(_planned(bundle, folder, graph, settings, force) for graph in graph_names(bundle, settings.precision))
    return EnginePlan(bundle, place, settings, folder, graphs)


def build_engines(
    bundle_path: str | os.PathLike[str],
    target: str,
    settings: EngineSettings = DEFAULTS,
    force: bool = False,
    progress: EngineProgress | None = None,
) -> EngineReport:
    """Build the engines of a bundle for `target` ("tensorrt" or "tensorrt-rtx"), those that are there and fit left as they are.

    Each engine is written atomically and listed in the sidecar as soon as it is built and its precision checked, so a build that was
    stopped goes on where it was. Raises SdicError.
    """
    from filelock import FileLock, Timeout

    plan, progress = plan_engines(bundle_path, target, settings, force), progress or EngineProgress()
    if not plan.to_build:
        return EngineReport(plan, read_sidecar(plan.folder))
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write to {plan.folder}: {reason(error)}; choose another place for the bundle") from error
    try:
        with FileLock(plan.folder / LOCK, timeout=0):
            plan = plan_engines(bundle_path, target, settings, force)  # another build may just have ended
            sidecar = _kept(plan)
            for planned in plan.graphs:
                progress.begin(planned)
                if planned.action == BUILD:
                    entry = _build(plan, planned.graph, progress)
                    sidecar = msgspec.structs.replace(sidecar, stages={**sidecar.stages, planned.graph: entry})
                    write_sidecar(plan.folder, sidecar)
                progress.done(planned.graph, sidecar.stages[planned.graph])
    except Timeout as error:
        raise BackendError(f"another process is building in {plan.folder}; wait for it to end") from error
    return EngineReport(plan, sidecar)


def require_builder(target: str) -> Any:
    """The library that builds engines for `target`. Raises SdicError when it, or the GPU it needs, is not there."""
    chosen = Target.named(target)
    library = load_library(chosen)
    if chosen.needs_gpu and gpu_count() == 0:
        raise BackendError(
            f"{chosen.label} builds for the GPU of this machine, and there is none; run the command where the GPU is, or build "
            f"for RTX cards here with --target {Target.tensorrt_rtx}"
        )
    return library


def check_batches(bundle_path: str | os.PathLike[str], settings: EngineSettings) -> None:
    """Raise ArgumentError where the batches that were asked for in so many words are more than a bundle's graphs take."""
    bundle = Bundle.open(bundle_path)
    alone = _for_one(bundle, settings.precision) if settings.precision in bundle.manifest.precisions else ""
    if alone and settings.profile != ONE_PICTURE:
        raise _only_one(alone, settings.profile)


def _only_one(stage: str, profile: Profile) -> ArgumentError:
    return ArgumentError(f'the batch profile is {profile}, and the stage "{stage}" is for one picture at a time; omit --batch')


def _for_one(bundle: Bundle, precision: str) -> str:
    """The first stage whose graph is for one picture at a time, "" for none: its engines are then, and those of the other stages too."""
    import onnx

    for stage in bundle.manifest.stages:
        path = bundle.file(bundle.manifest.graphs[stage][precision][0])
        inputs = onnx.load(path, load_external_data=False).graph.input
        if any(item.type.tensor_type.shape.dim[0].dim_value == 1 for item in inputs):
            return stage
    return ""


def _planned(bundle: Bundle, folder: Path, graph: str, settings: EngineSettings, force: bool) -> Planned:
    if force:
        return Planned(graph, BUILD, "it was asked for")
    if not (folder / SIDECAR).is_file():
        return Planned(graph, BUILD, "there are no engines for these settings yet")
    try:
        why = stale(read_sidecar(folder), folder, bundle, graph, deep=True)
    except BackendError as error:
        return Planned(graph, BUILD, str(error))
    return Planned(graph, BUILD, why) if why else Planned(graph, REUSE, "it fits its graph")


def _kept(plan: EnginePlan) -> Sidecar:
    """The sidecar with the engines that stay."""
    reused = [item.graph for item in plan.graphs if item.action == REUSE]
    stages = read_sidecar(plan.folder).stages if reused else {}
    place = bound_place(plan.place, plan.settings)
    return Sidecar(place.target, place.version, plan.settings, place.gpu, {graph: stages[graph] for graph in reused})


def _build(plan: EnginePlan, graph: str, progress: EngineProgress) -> EngineEntry:
    bundle, precision = plan.bundle, plan.settings.precision
    path = graph_file(bundle, graph, precision)
    if graph == TO_BYTES:
        write_bytes_graph(path, bundle.manifest.sizes["R"], bundle.manifest.visible_rows)
    built = build_engine(path, plan.place.target, plan.settings, lambda phase, done: progress.step(graph, phase, done))
    if plan.settings.weights == "included" and graph != TO_BYTES:  # it has no weights, and rounds to bytes from float32
        check_precision(graph, precision, built.census, graph_census(path))
    file = plan.folder / engine_name(graph)
    with replacing(file) as temporary:
        temporary.write_bytes(built.plan)
    census = msgspec.to_builtins(built.census)
    return EngineEntry(file.name, sha256(file), file.stat().st_size, onnx_hash(bundle, graph, precision), round(built.seconds, 3), census)
