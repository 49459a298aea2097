"""A checkpoint becomes a bundle: every stage exported and checked against PyTorch, golden tensors, directions, the manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

import sdic_runtime
from sdic_export.check import TOLERANCES, by_ratio, check_stage
from sdic_export.directions.files import read_directions, write_directions
from sdic_export.golden import FILE as GOLDEN_FILE
from sdic_export.golden import Chain, example_direction, make_golden, run_all, run_chain, smooth_pictures, write_golden
from sdic_export.graphs.exporter import OPSET, beside, export_alone, export_stage, require_packages, stored_bytes, weights_of
from sdic_export.half.precision import Policy, load_policy
from sdic_export.half.stages import Graphs, HalfProgress, HalfStages, add_half
from sdic_export.placement import check_inputs, check_place, placed_folder
from sdic_export.variants import add_variant, arranged, arrangements_of, asked_alone, saves, shared
from sdic_runtime.bundle.manifest import FFHQ, STANDARD, Input, Manifest, file_entries, write_manifest
from sdic_runtime.errors import ArgumentError
from sdic_runtime.files import sha256
from sdic_runtime.program import INVERT, PICTURE, Method
from sdic_runtime.tools.compare import Difference, difference
from sdic_train.config import FACES

if TYPE_CHECKING:
    from torch import nn

    from sdic_export.methods import Arrange, ExportCode
    from sdic_runtime.backends.base import Backend

Some = TypeVar("Some", bound=Method)
WEIGHTS = ("float32", "float16")
NO_FACES = "none"
ALIGNMENTS = (FFHQ, NO_FACES)
UNKNOWN_LICENCE = "The weights are under the licence of their authors, which this bundle does not change."


@dataclass(frozen=True)
class BuildOptions:
    """What to build from which checkpoint."""

    checkpoint: Path
    out: Path
    name: str | None = None  # the folder's name when None
    faces: str | None = None  # the alignment that the model was trained on, "ffhq" or "none"; by the domain when None
    domain: str | None = None  # "faces" or "cars" in spite of what the checkpoint says of itself
    directions: Sequence[Path] = ()  # files and folders
    pictures: Sequence[Path] = ()  # for the golden tensors; synthetic ones when empty
    licence: str = UNKNOWN_LICENCE
    opset: int = OPSET
    weights: str = "float32"  # how large weights are stored, see `export_stage`; one of WEIGHTS
    parts: bool = True  # also write the parts of stages, at which edits of the later style rows begin
    cpu_graphs: bool = True  # also write CPU-optimized graphs; with float32 weights only
    policy: str | Path | Policy | None = None  # a second precision: "fp16", "bf16" or the file of a policy
    force: bool = False
    method: str | None = None  # what the checkpoint is of, see `sdic_export.methods`; told by what is in it when None
    others: Sequence[Path] = ()  # further files that belong to the model
    iterations: int | None = None  # of a method that iterates; as many as it was trained with, or its own number, when None
    style_space: bool = False  # whether the generator takes offsets to its styles, see `sdic_train.methods.style_space`
    research: bool = False  # whether the terms of a method whose weights are for research alone are agreed to


@dataclass(frozen=True)
class StageReport:
    """One stage, exported and checked."""

    stage: str
    precision: str
    seconds: float
    bytes: int
    worst: Difference
    cpu: Difference | None = None  # the worst difference of its CPU-optimized graph, where there is one


@dataclass(frozen=True)
class BuildReport:
    """What a build made."""

    manifest: Manifest
    stages: Sequence[StageReport]
    rounding: Difference | None = None  # how far rounding the weights to float16 moved the inverted picture, when that was asked for
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
    from sdic_export.graphs.style_space import styled_export
    from sdic_export.methods import export_code
    from sdic_train.checkpoints.load import read_checkpoint
    from sdic_train.methods import method_of_file
    from sdic_train.methods.trace import method_of
    from sdic_train.networks.style_space import layer_widths
    from sdic_train.threads import use_threads

    use_threads()
    progress, start = progress or Progress(), time.perf_counter()
    _check(options)
    progress.begin(f"loading {options.checkpoint}")
    export = export_code(options.method or method_of_file(options.checkpoint).name)
    trained = read_checkpoint(options.checkpoint, sure=False).iterations if export.code.unrolled else None
    export = replace(export, code=export.code.iterating(options.iterations, trained))
    export = styled_export(export) if options.style_space else export
    code = export.code
    terms = code.terms if code.terms and not read_checkpoint(options.checkpoint, sure=False).ours else ""  # of the released weights
    if terms and not options.research:
        raise ArgumentError(f"{terms} Build it with --research-only if that is your use")
    model: Any = code.read(options.checkpoint, options.domain, options.others)
    config, method = model.config, method_of(code, model.config)
    if not options.parts:
        method = whole_stages(method)
    policy = None if options.policy is None else load_policy(options.policy).check(method.stages)
    directions = read_directions(options.directions, method.sizes, config.domain)
    image, direction = _pictures(options, method, config.visible_rows), example_direction(method.sizes)
    with placed_folder(options.out, options.force) as folder:
        progress.begin("computing the golden tensors with PyTorch")
        modules = stage_modules_for(export, model, options.weights)
        single = run_all(reference_for(method, model, modules, options.weights), image, direction)
        rounding = _rounding(method, model, single) if options.weights == "float16" else None
        del model
        (folder / GOLDEN_FILE).parent.mkdir()
        write_golden(folder / GOLDEN_FILE, make_golden(single.values, image, direction))
        graphs: Graphs = {}
        reports = []
        part_graphs: Graphs = {}
        same = {name for name, arrange in export.openvino.items() if arrange is None}
        optimized = arrangements_of(export) if options.cpu_graphs and options.weights == "float32" else {}
        for name in (*method.stages, *method.parts):
            progress.begin(f"exporting {name}")
            alone, shares = name in export.alone, _graphs_of_whole(method, name, graphs)
            made, report = _stage(folder, method, name, modules.pop(name), optimized.get(name, {}), single, options, alone, shares)
            (graphs if name in method.stages else part_graphs).update(shared(made) if name in same else made)
            reports.append(report)
            progress.done(report)
        half = None
        if policy is not None:
            half = add_half(folder, method, {key: variants[STANDARD][0] for key, variants in graphs.items()}, single, policy, progress.half)
            graphs = half.added_to(graphs)
        progress.begin("writing the manifest")
        manifest = finish(
            folder,
            Manifest(
                **{item.name: getattr(method, item.name) for item in msgspec.structs.fields(Method)},
                name=options.name or Path(options.out).resolve().name,
                domain=config.domain,
                input=Input(config.visible_rows),
                faces=alignment(options.faces, config.domain, method.sizes["R"]),
                style_layers=layer_widths(config) if options.style_space else (),
                graphs=graphs,
                part_graphs=part_graphs,
                default_precision=STANDARD,
                files={},
                directions=write_directions(folder, directions),
                golden=GOLDEN_FILE,
                tolerances={STANDARD: TOLERANCES[STANDARD], **({half.precision: half.tolerance} if half else {})},
                psnr=half.told if half else {},
                tools=tool_versions(),
                licence=f"{terms} {options.licence}" if terms else options.licence,
                checkpoint=_checkpoint_record(options),
            ),
        )
    return BuildReport(manifest, reports, rounding, half, time.perf_counter() - start)


def alignment(wanted: str | None, domain: str, resolution: int) -> str | None:
    """How faces lie in the pictures that the model takes: as `wanted`, or for the size and the domain of the released face models as in
    FFHQ. Raises ArgumentError."""
    if wanted not in (None, *ALIGNMENTS):
        raise ArgumentError(f'the alignment of faces is "{wanted}"; use {" or ".join(ALIGNMENTS)}')
    if wanted is None:
        return FFHQ if (domain, resolution) == (FACES.domain, FACES.resolution) else None
    return wanted if wanted != NO_FACES else None


def _graphs_of_whole(method: Method, part: str, graphs: Graphs) -> list[str]:
    """The graphs of the stage that `part` is a part of, which have its weights too."""
    wholes = [stage for stage, cut in method.cuts.items() if part in cut.stages]
    return [file for stage in wholes for files in graphs[stage].values() for file in files]


def _stage(
    folder: Path,
    method: Method,
    name: str,
    module: nn.Module,
    arrangements: Mapping[str, Arrange],
    single: Chain,
    options: BuildOptions,
    one: bool,
    shares: Sequence[str],
) -> tuple[Graphs, StageReport]:
    """Export one stage in all its variants, those of one output alone included, and check them; `Manifest.graphs` of them. `one`: for one
    picture at a time. `shares`: graphs with weights that its variants may read."""
    stage, example, start = method.stage(name), single.examples[name], time.perf_counter()
    whole, alone = f"onnx/{STANDARD}/{name}.onnx", asked_alone(method, name)
    (folder / whole).parent.mkdir(parents=True, exist_ok=True)
    export_stage(module, stage, method, folder / whole, options.opset, options.weights == "float16", share_weights=bool(alone), alone=one)
    worst = check_stage([folder / whole], name, stage.outputs, method, example)
    graphs: Graphs = {name: {STANDARD: (whole,)}}
    for output in alone:
        file, key = beside(whole, output), f"{name}:{output}"
        export_alone(folder / whole, output, folder / file)
        if not saves(folder / file, folder / whole):
            (folder / file).unlink()
            continue
        check_stage([folder / file], key, [output], method, example)
        graphs[key] = {STANDARD: (file,)}
    found = []
    for variant, arrange in arrangements.items():
        found += add_variant(folder, method, name, variant, arranged(module, arrange, method, stage), graphs, single, options.opset, shares)
    size = stored_bytes(folder, [file for variants in graphs.values() for files in variants.values() for file in files])
    cpu = max(found, key=by_ratio, default=None)
    return graphs, StageReport(name, STANDARD, time.perf_counter() - start, size, worst, cpu)


def whole_stages(method: Some) -> Some:
    """The method without the parts of its stages."""
    rows = {name: count for name, count in method.rows.items() if name in method.stages}
    return msgspec.structs.replace(method, rows=rows, cuts={})


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` into `folder` with every file that lies there, and the weights that its graphs name; the one written."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    tables = (*manifest.graphs.values(), *manifest.part_graphs.values())
    graphs = [file for variants in tables for files in variants.values() for file in files]
    manifest = msgspec.structs.replace(manifest, files=file_entries(folder, names), weights=weights_of(folder, graphs))
    write_manifest(folder, manifest)
    return manifest


def tool_versions() -> dict[str, str]:
    """The versions of everything that had a hand in the graphs."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}
    return {"sdic": sdic_runtime.__version__, **packages}


def stage_modules_for(export: ExportCode, model: nn.Module, weights: str) -> dict[str, nn.Module]:
    """The modules that are exported: constants folded, and rounded to float16 where `weights` says so."""
    from sdic_export.graphs.fusion import fused, round_to_half

    modules = {name: fused(module) for name, module in export.modules(model).items()}
    if weights == "float16":
        for module in modules.values():
            round_to_half(module)
    return modules


def reference_for(method: Method, model: nn.Module, modules: Mapping[str, nn.Module], weights: str) -> Backend:
    """What PyTorch computes: the networks themselves, or with rounded weights the modules that hold these."""
    from sdic_export.reference import TorchStages
    from sdic_train.backend import TorchBackend

    return TorchStages(method, modules) if weights == "float16" else TorchBackend(method, model)


def _check(options: BuildOptions) -> None:
    """What can be said before any work."""
    read = {"checkpoint": [options.checkpoint], "file": options.others, "direction": options.directions, "picture": options.pictures}
    check_inputs(Path(options.out), read)
    check_place(Path(options.out), options.force)
    if options.weights not in WEIGHTS:
        raise ArgumentError(f'the weights are "{options.weights}"; use {" or ".join(WEIGHTS)}')
    if options.policy is not None:
        load_policy(options.policy)


def _pictures(options: BuildOptions, method: Method, visible_rows: tuple[int, int]) -> np.ndarray:
    """The golden pictures [N, 3, S, S]; at least two, so that a batch is checked."""
    from sdic_runtime.pictures import prepare

    side = method.sizes["S"]
    if not options.pictures:
        return smooth_pictures(side)
    given = [prepare(path, method.sizes, visible_rows) for path in options.pictures]
    return np.concatenate(given if len(given) > 1 else [*given, smooth_pictures(side, 1)])


def _rounding(method: Method, model: nn.Module, rounded: Chain) -> Difference:
    """How far the rounded weights move the inverted picture from what the weights of the checkpoint give."""
    from sdic_train.backend import TorchBackend

    exact = run_chain(TorchBackend(method, model), rounded.image, rounded.direction)
    value = method.programs[INVERT].gives[PICTURE]
    return difference("inversion", PICTURE, rounded.values[value], exact[value])


def _checkpoint_record(options: BuildOptions) -> dict[str, str]:
    """Where the weights came from, relative to the bundle's final place."""

    def relative(path: Path) -> str:
        return Path(os.path.relpath(Path(path).resolve(), Path(options.out).resolve())).as_posix()

    record = {"path": relative(options.checkpoint), "sha256": sha256(Path(options.checkpoint)), "weights": options.weights}
    if not options.others:
        return record
    return record | {"others": "\n".join(map(relative, options.others)), "others_sha256": "\n".join(map(sha256, map(Path, options.others)))}
