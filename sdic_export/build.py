"""A checkpoint becomes a bundle: six stages exported and proven one at a time, golden tensors, directions, the manifest."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import sdic_runtime
from sdic_export.check import TOLERANCES, cpu_label, prove_stage
from sdic_export.direction_files import find_directions, read_direction, write_directions
from sdic_export.golden import FILE as GOLDEN_FILE
from sdic_export.golden import MADE_BY, Golden, example_direction, make_golden, run_chain, smooth_pictures, stage_inputs, write_golden
from sdic_export.graphs.exporter import OPSET, export_partial, export_sharing, export_stage, require_packages
from sdic_export.half.precision import Policy, load_policy
from sdic_export.half.stages import HalfProgress, HalfStages, add_half
from sdic_export.placement import check_place, placed_folder
from sdic_runtime.bundle.bundle import Manifest, file_entries, write_manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.files import sha256
from sdic_runtime.stages import STAGES, Sizes
from sdic_runtime.tools.compare import Difference, difference

if TYPE_CHECKING:
    from torch import nn

    from sdic_runtime.backends.registry import Backend
    from sdic_train.networks.sdic.model import SDIC

PRECISION = "fp32"
CPU = "cpu"  # how the files of graphs for processors are called: dicn.cpu.onnx
WEIGHTS = ("float32", "float16")
# Outputs that the chain asks for alone, and whose graph is much smaller than the stage's: engines compute whole graphs.
PARTIALS = {"generator_head": ("rgb",)}
UNKNOWN_LICENCE = "The weights are under the licence of their authors, which this bundle does not change."


@dataclass(frozen=True)
class BuildOptions:
    """What to build from which checkpoint."""

    checkpoint: Path
    out: Path
    name: str | None = None  # the folder's name when None
    domain: str | None = None  # "faces" or "cars" in spite of what the checkpoint says of itself
    directions: Sequence[Path] = ()  # files and folders
    pictures: Sequence[Path] = ()  # for the golden tensors; synthetic ones when empty
    licence: str = UNKNOWN_LICENCE
    opset: int = OPSET
    weights: str = "float32"  # how large weights are stored, see `export_stage`; one of WEIGHTS
    cpu_graphs: bool = True  # also write graphs that are arranged for processors; with float32 weights only
    policy: str | Path | Policy | None = None  # a second precision: "fp16", "bf16" or the file of a policy
    force: bool = False


@dataclass(frozen=True)
class StageReport:
    """One stage, exported and proven."""

    stage: str
    precision: str
    seconds: float
    bytes: int
    worst: Difference
    cpu: Difference | None = None  # the worst difference of its graph for processors, where there is one


@dataclass(frozen=True)
class BuildReport:
    """What a build made."""

    manifest: Manifest
    stages: Sequence[StageReport]
    rounding: Sequence[Difference] = ()  # how far rounding the weights to float16 moved each tensor, when that was asked for
    half: HalfStages | None = None
    seconds: float = 0.0


@dataclass
class Progress:
    """What a build tells while it runs; each function may be replaced."""

    begin: Callable[[str], None] = field(default=lambda what: None)
    done: Callable[[StageReport], None] = field(default=lambda report: None)
    half: HalfProgress = field(default_factory=HalfProgress)


def build(options: BuildOptions, progress: Progress | None = None) -> BuildReport:
    """Build the bundle `options.out`, whole or not at all. Raises SdicError, for one when a stage differs from PyTorch."""
    require_packages("sdic-export build")
    from sdic_train.checkpoints.load import load_sdic

    progress, start = progress or Progress(), time.perf_counter()
    _check(options)
    progress.begin(f"loading {options.checkpoint}")
    model = load_sdic(options.checkpoint, options.domain)
    config = model.config
    for path in find_directions(options.directions, config.domain).values():
        read_direction(path, config.sizes)
    image, direction = _pictures(options, model), example_direction(config.sizes)
    with placed_folder(options.out, options.force) as folder:
        progress.begin("computing the golden tensors with PyTorch")
        modules = stage_modules_for(model, options.weights)
        tensors = {"image": image, **run_chain(reference_for(model, modules, options.weights), image, direction)}
        rounding = _rounding(model, tensors, direction) if options.weights == "float16" else []
        cpu_modules = cpu_modules_for(model, options)
        cpu = cpu_table({stage: len(forms) for stage, forms in cpu_modules.items()})
        del model
        golden = _write_golden(folder, make_golden(tensors, image, direction))
        reports = _stages(folder, modules, cpu_modules, config.sizes, tensors, options, progress)
        stages = {report.stage: stage_file(report.stage) for report in reports}
        partials = {f"{name}:{output}": beside(file, output) for name, file in stages.items() for output in PARTIALS.get(name, ())}
        half = None
        if options.policy is not None:
            half = add_half(folder, stages, partials, tensors, direction, options.policy, progress.half)
        progress.begin("writing the manifest")
        manifest = finish(
            folder,
            Manifest(
                name=options.name or Path(options.out).resolve().name,
                domain=config.domain,
                sizes=config.sizes,
                visible_rows=config.visible_rows,
                stages=_by_precision(stages, half.stages if half else {}, half),
                partials=_by_precision(partials, half.partials if half else {}, half),
                cpu=cpu,
                default_precision=PRECISION,
                files={},
                directions=write_directions(folder, options.directions, config.sizes, config.domain),
                golden=golden,
                tolerances={PRECISION: TOLERANCES[PRECISION], **({half.precision: half.tolerance} if half else {})},
                tools=tool_versions(),
                licence=options.licence,
                checkpoint=_checkpoint_record(options),
            ),
        )
    return BuildReport(manifest, reports, rounding, half, time.perf_counter() - start)


def stage_file(stage: str) -> str:
    """Where a bundle keeps the float32 graph of `stage`."""
    return f"onnx/{PRECISION}/{stage}.onnx"


def cpu_files(stage: str, count: int) -> list[str]:
    """Where a bundle keeps the graph of `stage` for processors, or its `count` bands of rows."""
    return [beside(stage_file(stage), CPU if count == 1 else f"{CPU}.{band}") for band in range(count)]


def cpu_partials(stage: str, count: int) -> dict[str, str]:
    """ "stage:output" -> where a bundle keeps the graph of that output alone for processors; there is none where `stage` is in bands."""
    whole = cpu_files(stage, count)
    return {f"{stage}:{output}": beside(whole[0], output) for output in PARTIALS.get(stage, ()) if count == 1}


def cpu_table(counts: Mapping[str, int]) -> dict[str, list[str]]:
    """`Manifest.cpu` for stages with so many bands of rows."""
    table = {stage: cpu_files(stage, count) for stage, count in counts.items()}
    return table | {key: [file] for stage, count in counts.items() for key, file in cpu_partials(stage, count).items()}


def _stages(
    folder: Path,
    modules: dict[str, nn.Module],
    cpu_modules: dict[str, list[nn.Module]],
    sizes: Sizes,
    tensors: Mapping[str, np.ndarray],
    options: BuildOptions,
    progress: Progress,
) -> list[StageReport]:
    """Export and prove one stage after the other; each leaves its table, so that its weights are freed before the next."""
    reports = []
    for name in STAGES:
        progress.begin(f"exporting {name}")
        path, start = folder / stage_file(name), time.perf_counter()
        worst = _stage(path, modules.pop(name), name, sizes, tensors, options)
        cpu = _cpu_stage(folder, cpu_modules.pop(name), name, sizes, tensors, options.opset) if name in cpu_modules else None
        size = sum(file.stat().st_size for file in path.parent.glob(f"{name}.*"))
        reports.append(StageReport(name, PRECISION, time.perf_counter() - start, size, worst, cpu))
        progress.done(reports[-1])
    return reports


def _by_precision(single: Mapping[str, str], second: Mapping[str, str], made: HalfStages | None) -> dict[str, dict[str, str]]:
    """Name -> precision -> file, from one table per precision."""
    return {name: {PRECISION: file, **({made.precision: second[name]} if made else {})} for name, file in single.items()}


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` into `folder` with every file that lies there; the one written."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = replace(manifest, files=file_entries(folder, names))
    write_manifest(folder, manifest)
    return manifest


def tool_versions() -> dict[str, str]:
    """The versions of everything that had a hand in the graphs."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}
    return {"sdic": sdic_runtime.__version__, **packages}


def stage_modules_for(model: SDIC, weights: str) -> dict[str, nn.Module]:
    """The modules that are exported: constants folded, and rounded to float16 where `weights` says so."""
    from sdic_export.graphs.fusion import fused, round_to_half
    from sdic_export.graphs.sdic import stage_modules

    modules = {name: fused(module) for name, module in stage_modules(model).items()}
    if weights == "float16":
        for module in modules.values():
            round_to_half(module)
    return modules


def cpu_modules_for(model: SDIC, options: BuildOptions) -> dict[str, list[nn.Module]]:
    """The modules of the graphs for processors, constants folded; none for rounded weights, which have no rounded other form."""
    from sdic_export.cpu.arrange import cpu_modules
    from sdic_export.graphs.fusion import fused

    wanted = options.cpu_graphs and options.weights == "float32"
    return {name: [fused(module) for module in modules] for name, modules in cpu_modules(model).items()} if wanted else {}


def reference_for(model: SDIC, modules: dict[str, nn.Module], weights: str) -> Backend:
    """What PyTorch computes: the networks themselves, or with rounded weights the modules that hold these."""
    from sdic_export.reference import TorchStages
    from sdic_train.backend import TorchBackend

    return TorchStages(dict(modules)) if weights == "float16" else TorchBackend(model, "cpu", compiled=False)


def _check(options: BuildOptions) -> None:
    """What can be said before any work."""
    check_place(Path(options.out), options.force)
    if options.weights not in WEIGHTS:
        raise SdicError(f'the weights are "{options.weights}"; use {" or ".join(WEIGHTS)}')
    if options.policy is not None:
        load_policy(options.policy)


def _pictures(options: BuildOptions, model: SDIC) -> np.ndarray:
    """The golden pictures [N, 3, S, S]; at least two, so that a batch is proven."""
    from sdic_runtime.pictures import prepare

    sizes = model.config.sizes
    if not options.pictures:
        return smooth_pictures(sizes.working)
    given = [prepare(path, sizes, model.config.visible_rows) for path in options.pictures]
    return np.concatenate(given if len(given) > 1 else [*given, smooth_pictures(sizes.working, 1)])


def _rounding(model: SDIC, rounded: Mapping[str, np.ndarray], direction: np.ndarray) -> list[Difference]:
    """How far the rounded weights move every tensor from what the weights of the checkpoint give."""
    from sdic_train.backend import TorchBackend

    exact = run_chain(TorchBackend(model, "cpu", compiled=False), rounded["image"], direction)
    return [difference(stage, name, rounded[name], exact[name]) for name, stage in MADE_BY.items()]


def _stage(path: Path, module: nn.Module, name: str, sizes: Sizes, tensors: Mapping[str, np.ndarray], options: BuildOptions) -> Difference:
    """Export one stage and its partial graphs, and prove them; the stage's largest difference."""
    stage = STAGES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    partials = PARTIALS.get(name, ())
    export_stage(module, stage, sizes, path, options.opset, options.weights == "float16", share_weights=bool(partials))
    del module
    gc.collect()
    inputs, tolerance = stage_inputs(name, tensors), TOLERANCES[PRECISION]
    worst = prove_stage([path], stage, sizes, inputs, tensors, tolerance)
    for output in partials:
        partial = Path(beside(str(path), output))
        export_partial(path, output, partial)
        prove_stage([partial], replace(stage, outputs=(output,)), sizes, inputs, tensors, tolerance)
    return worst


def _cpu_stage(
    folder: Path, modules: list[nn.Module], name: str, sizes: Sizes, tensors: Mapping[str, np.ndarray], opset: int
) -> Difference:
    """Export the form of a stage for processors beside its own graph, and prove it and its partial graphs as those were; the largest
    difference.

    The bands of a stage share weights with the stage and with each other; each leaves the list, so that it is freed before the next.
    """
    stage, graphs = STAGES[name], [folder / file for file in cpu_files(name, len(modules))]
    own, banded, partials = folder / stage_file(name), len(graphs) > 1, cpu_partials(name, len(graphs))
    for index, graph in enumerate(graphs):
        export_sharing(modules.pop(0), stage, sizes, graph, [own, *graphs[:index]], opset, banded, share_weights=bool(partials))
        gc.collect()
    proven = [(graphs, replace(stage, name=cpu_label(name)))]
    for key, file in partials.items():
        output = key.partition(":")[2]
        export_partial(graphs[0], output, folder / file)
        proven.append(([folder / file], replace(stage, name=cpu_label(key), outputs=(output,))))
    inputs = stage_inputs(name, tensors)
    found = [prove_stage(paths, part, sizes, inputs, tensors, TOLERANCES[PRECISION]) for paths, part in proven]
    return max(found, key=lambda item: item.ratio)


def beside(file: str, form: str) -> str:
    """The file of another form of a graph beside the stage's own: the partial graph of one output, or the form for processors."""
    return f"{file.removesuffix('.onnx')}.{form}.onnx"


def _write_golden(folder: Path, golden: Golden) -> str:
    (folder / GOLDEN_FILE).parent.mkdir()
    write_golden(folder / GOLDEN_FILE, golden)
    return GOLDEN_FILE


def _checkpoint_record(options: BuildOptions) -> dict[str, str]:
    """Where the weights came from, relative to the bundle's final place."""
    path = os.path.relpath(Path(options.checkpoint).resolve(), Path(options.out).resolve())
    return {"path": Path(path).as_posix(), "sha256": sha256(Path(options.checkpoint)), "weights": options.weights}
