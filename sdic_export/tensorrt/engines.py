"""Engines of a bundle: what must be built and why, one graph at a time, each inspected, with a sidecar that says what they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdic_export.graphs.bytes_graph import write_bytes_graph
from sdic_export.half.precision import policy_names
from sdic_export.tensorrt.builder import build_engine, check_settings, load_library, target_named
from sdic_export.tensorrt.census import check_precision, graph_census
from sdic_runtime.backends.cuda.driver import gpu_count, open_gpu
from sdic_runtime.backends.tensorrt.engine_files import (
    FOLDER,
    SIDECAR,
    TO_BYTES,
    EngineEntry,
    EngineSettings,
    Place,
    Sidecar,
    bound_gpu,
    engine_folder,
    engine_name,
    graph_file,
    graph_names,
    key,
    onnx_hash,
    read_sidecar,
    stale,
    write_sidecar,
)
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import SdicError
from sdic_runtime.files import reason, replacing, sha256

BUILD, REUSE = "build", "reuse"
TIMING = "timing"
LOCK = ".lock"


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


def plan_engines(
    bundle_path: str | os.PathLike[str], target: str, settings: EngineSettings | None = None, force: bool = False
) -> EnginePlan:
    """What `build_engines` would build or use again, and why; nothing is written. Raises SdicError."""
    chosen, settings = target_named(target), settings or EngineSettings()
    check_settings(chosen, settings)
    bundle = Bundle.open(bundle_path)
    if settings.precision not in bundle.manifest.precisions:
        policies = policy_names()
        hint = (
            f"add them with: sdic-export half {bundle.path} --policy {settings.precision}"
            if settings.precision in policies
            else ("choose one of them with --precision")
        )
        raise SdicError(f"{bundle.path} has no graphs in {settings.precision}, only in {', '.join(bundle.manifest.precisions)}; {hint}")
    library = require_builder(target)
    gpu = open_gpu().attributes() if chosen.needs_gpu else None
    place = Place(chosen, library.__version__, gpu)
    folder = engine_folder(bundle, place, settings)
    return EnginePlan(
        bundle,
        place,
        settings,
        folder,
        tuple(_planned(bundle, folder, graph, settings, force) for graph in graph_names(bundle, settings.precision)),
    )


def build_engines(
    bundle_path: str | os.PathLike[str],
    target: str,
    precision: str = "fp16",
    settings: EngineSettings | None = None,
    force: bool = False,
    progress: EngineProgress | None = None,
    timing_cache: Path | None = None,
) -> EngineReport:
    """Build the engines of a bundle for `target` ("tensorrt" or "tensorrt-rtx"), those that are there and fit left as they are.

    `settings` overrides `precision`. Each engine is put in place whole and listed in the sidecar as soon as it is proven to be in its
    precision, so a build that was stopped goes on where it was. Raises SdicError.
    """
    from filelock import FileLock, Timeout

    settings = settings or EngineSettings(precision=precision)
    plan, progress = plan_engines(bundle_path, target, settings, force), progress or EngineProgress()
    if not plan.to_build:
        return EngineReport(plan, read_sidecar(plan.folder))
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SdicError(f"cannot write to {plan.folder}: {reason(error)}; choose another place for the bundle") from error
    try:
        with FileLock(plan.folder / LOCK, timeout=0):
            plan = plan_engines(bundle_path, target, settings, force)  # another build may just have ended
            sidecar = _kept(plan)
            for planned in plan.graphs:
                progress.begin(planned)
                if planned.action == BUILD:
                    entry = _build(plan, planned.graph, progress, timing_cache)
                    sidecar = replace(sidecar, stages={**sidecar.stages, planned.graph: entry})
                    write_sidecar(plan.folder, sidecar)
                progress.done(planned.graph, sidecar.stages[planned.graph])
    except Timeout as error:
        raise SdicError(f"another process is building in {plan.folder}; wait for it to end") from error
    return EngineReport(plan, sidecar)


def require_builder(target: str) -> Any:
    """The library that builds engines for `target`. Raises SdicError when it, or the GPU it needs, is not there."""
    chosen = target_named(target)
    library = load_library(chosen)
    if chosen.needs_gpu and gpu_count() == 0:
        raise SdicError(
            f"{chosen.title} builds for the GPU of this machine, and there is none; run the command where the GPU is, or build "
            "for RTX cards here with --target tensorrt-rtx"
        )
    return library


def _planned(bundle: Bundle, folder: Path, graph: str, settings: EngineSettings, force: bool) -> Planned:
    if force:
        return Planned(graph, BUILD, "it was asked for")
    if not (folder / SIDECAR).is_file():
        return Planned(graph, BUILD, "there are no engines for these settings yet")
    try:
        why = stale(read_sidecar(folder), folder, bundle, graph, deep=True)
    except SdicError as error:
        return Planned(graph, BUILD, str(error))
    return Planned(graph, BUILD, why) if why else Planned(graph, REUSE, "it fits its graph")


def _kept(plan: EnginePlan) -> Sidecar:
    """The sidecar with the engines that stay."""
    reused = {item.graph for item in plan.graphs if item.action == REUSE}
    stages = read_sidecar(plan.folder).stages if reused else {}
    return Sidecar(
        plan.place.target.name,
        plan.place.version,
        plan.settings,
        bound_gpu(plan.place, plan.settings),
        {graph: entry for graph, entry in stages.items() if graph in reused},
    )


def _build(plan: EnginePlan, graph: str, progress: EngineProgress, timing_cache: Path | None) -> EngineEntry:
    path = graph_file(plan.bundle, graph, plan.settings.precision)
    if graph == TO_BYTES:
        write_bytes_graph(path, plan.bundle.sizes, plan.bundle.manifest.visible_rows)

    def step(phase: str, done: float) -> None:
        progress.step(graph, phase, done)

    built = build_engine(path, plan.place.target, plan.settings, step, timing_cache or _timing_file(plan))
    if plan.settings.weights == "included" and graph != TO_BYTES:  # it has no weights, and rounds to bytes from float32
        check_precision(graph, plan.settings.precision, built.census, graph_census(path))
    name = engine_name(graph)
    with replacing(plan.folder / name) as temporary:
        temporary.write_bytes(built.plan)
    file = plan.folder / name
    return EngineEntry(
        name,
        sha256(file),
        file.stat().st_size,
        onnx_hash(plan.bundle, graph, plan.settings.precision),
        round(built.seconds, 3),
        built.census.as_dict(),
    )


def _timing_file(plan: EnginePlan) -> Path:
    """One timing cache per target, version and GPU, shared by all settings."""
    default = EngineSettings()
    return plan.bundle.path / FOLDER / TIMING / f"{key(plan.place, default)}.cache"
