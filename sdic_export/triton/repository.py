"""A bundle becomes a model repository of the Triton Inference Server: a model per stage, and ensembles that invert and edit.

The ensembles are the programs of the bundle: that of the inversion, that of what edits alone need where there is one, and per move one
that moves the codes first.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_export.triton.config import BACKENDS, BYTE, Model, Serving, Step, Tensor
from sdic_export.triton.graphs import MOVED, RESULT, write_mover, write_results
from sdic_runtime.backends.tensorrt.engine_files import Sidecar, read_sidecar, stale
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import files_of, graph_keys, parts
from sdic_runtime.errors import ArgumentError, BackendError, FileError, MissingExtraError
from sdic_runtime.files import reason
from sdic_runtime.program import IMAGE, INVERT, PICTURE, PREPARE, Method, Program

if TYPE_CHECKING:
    import numpy as np

VERSION = "1"  # the folder of the only version of each model
CONFIG = "config.pbtxt"
MOVER, RESULTS = "_codes", "_results"  # what the names of an ensemble's small models end in
INSIDE = "value_"  # what the names of values within an ensemble begin with
ENGINE_TARGET = "tensorrt"  # Triton's TensorRT backend does not run TensorRT-RTX engines
PLACEMENTS: dict[str, Callable[[Path, Path], object]] = {"copy": shutil.copyfile, "hard": os.link, "symbolic": os.symlink}


@dataclass(frozen=True)
class TritonOptions:
    """What to write where. `engines`: a folder of TensorRT engines of the bundle, for backend "tensorrt"."""

    bundle: Path | None
    repository: Path
    backend: str = "onnxruntime"  # of the stages; one of BACKENDS
    engines: Path | None = None
    precision: str | None = None
    serving: Serving = field(default_factory=Serving)
    files: str = "copy"  # one of PLACEMENTS
    warm_up: bool = True
    force: bool = False


@dataclass(frozen=True)
class Placed:
    """A model, and the files of its version folder: name there -> file to be placed."""

    model: Model
    graph: str = ""  # stage or "stage:output"; "" for what is no stage
    files: Mapping[str, Path] = field(default_factory=dict)


def write_repository(options: TritonOptions, progress: Callable[[str], None] = lambda what: None) -> list[Model]:
    """Write the model repository, whole or not at all; the models in it. Raises SdicError."""
    from sdic_export.placement import placed_folder

    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", "triton", "sdic-export triton")
    check_repository(options.repository, options.force)
    bundle = Bundle.open(options.bundle)
    if options.backend not in BACKENDS:
        raise ArgumentError(f'there is no backend "{options.backend}"; use {", ".join(BACKENDS)}')
    precision, prefix = bundle.precision(options.precision), model_prefix(bundle)
    if options.backend == ENGINE_TARGET:
        placed, serving = engine_stages(bundle, options, prefix)
    else:
        placed = graph_stages(bundle, precision, options.backend, prefix)
        serving = replace(options.serving, max_batch=1) if any(map(_for_one, placed)) else options.serving
    warm = warm_up_arrays(bundle, precision, progress) if options.warm_up else {}
    with placed_folder(options.repository, options.force, check_repository) as folder:
        stages = {item.graph: item.model for item in placed}
        models = [_write_stage(folder, item, serving, warm, options, progress) for item in placed]
        runner = "onnxruntime" if options.backend == ENGINE_TARGET else options.backend
        small = replace(serving, device=options.serving.device)
        for ensemble in ensembles(bundle, prefix, stages, runner):
            for helper, write in ensemble.helpers:
                models.append(_write_helper(folder, helper, small, write))
            (folder / ensemble.model.name / VERSION).mkdir(parents=True)
            _write_config(folder, ensemble.model, serving)
            models.append(ensemble.model)
    return models


def check_repository(path: Path, force: bool) -> None:
    """Raise ArgumentError when no repository may be written to `path`: only one that was written by this command is replaced."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file; name a folder for the model repository")
    try:
        entries = list(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise FileError(f"cannot read {path}: {reason(error)}; choose another folder") from error
    if not entries:
        return
    if not all((entry / CONFIG).is_file() for entry in entries):
        raise ArgumentError(f"{path} is a folder with other files in it, which are not overwritten; name a new folder")
    if not force:
        raise ArgumentError(f"there is already a model repository at {path}; replace it with --force or name another folder")


def model_prefix(bundle: Bundle) -> str:
    """What the names of all models of a bundle begin with, so that several bundles can be served side by side."""
    return re.sub(r"\W", "_", bundle.manifest.name) + "_"


def graph_stages(bundle: Bundle, precision: str, backend: str, prefix: str) -> list[Placed]:
    """Every graph of the bundle in `precision` as a model with its ONNX file, external weights beside it."""
    placed = []
    for key in graph_keys(bundle.manifest, precision):
        graph, *weights = (bundle.file(name) for name in files_of(bundle.manifest, bundle.manifest.graphs[key][precision]))
        files = {"model.onnx": graph, **{path.name: path for path in weights}}
        placed.append(Placed(stage_model(key, bundle.manifest, backend, prefix), key, files))
    return placed


def _for_one(placed: Placed) -> bool:
    """Whether a graph is for one picture at a time, because the weights of its layers are a picture's own: ensembles with it are then."""
    import onnx

    graph = onnx.load(placed.files["model.onnx"], load_external_data=False).graph
    return any(item.type.tensor_type.shape.dim[0].dim_value == 1 for item in graph.input)


def engine_stages(bundle: Bundle, options: TritonOptions, prefix: str) -> tuple[list[Placed], Serving]:
    """The engines of a folder as models, and the largest batch limited to what they take. Raises BackendError where they do not fit."""
    if options.engines is None:
        raise ArgumentError("--backend tensorrt needs the engines to be served; name their folder in the bundle with --engines DIR")
    sidecar = read_sidecar(options.engines)
    if sidecar.target != ENGINE_TARGET:
        raise BackendError(
            f"the engines in {options.engines} are for {sidecar.target}, and Triton runs those for {ENGINE_TARGET}; build them "
            f"with: sdic-export engines {bundle.path} --target {ENGINE_TARGET}"
        )
    if sidecar.settings.weights != "included":
        raise BackendError(
            f"the engines in {options.engines} are without their weights, which Triton cannot add; build others without --strip-weights"
        )
    placed = []
    for graph in graph_keys(bundle.manifest, sidecar.settings.precision):
        why = stale(sidecar, options.engines, bundle, graph, deep=True)
        if why is not None:
            raise BackendError(
                f'the engine of "{graph}" in {options.engines} cannot be used: {why}; build the engines again with: '
                f"sdic-export engines {bundle.path} --target {ENGINE_TARGET}"
            )
        model = stage_model(graph, bundle.manifest, ENGINE_TARGET, prefix)
        placed.append(Placed(model, graph, {"model.plan": options.engines / sidecar.stages[graph].file}))
    return placed, replace(options.serving, max_batch=_largest(options.serving, sidecar), device="gpu")


def _largest(serving: Serving, sidecar: Sidecar) -> int:
    return min(serving.max_batch, sidecar.settings.profile.largest)


def stage_model(graph: str, method: Method, backend: str, prefix: str) -> Model:
    """The model of a stage or of "stage:output"."""
    stage, output = parts(graph)
    table = method.stages[stage]
    outputs = (output,) if output else table.outputs
    return Model(prefix + graph.replace(":", "_"), tensors(table.inputs, method), tensors(outputs, method), backend)


def tensors(names: Sequence[str], method: Method) -> tuple[Tensor, ...]:
    """Tensors of the method's table as a model's border has them."""
    return tuple(Tensor(name, method.shape(name, 1)[1:]) for name in names)


@dataclass(frozen=True)
class Ensemble:
    """An ensemble, and the small models that it needs besides those of the stages, with what writes their graphs."""

    model: Model
    helpers: tuple[tuple[Model, Callable[[Path], None]], ...]


def ensembles(bundle: Bundle, prefix: str, stages: Mapping[str, Model], runner: str) -> list[Ensemble]:
    """The program "invert", "prepare" where there is one, and per move the program that it runs behind the model that moves its codes. An
    ensemble is called as its program is, and as its move where another one runs the same program."""
    manifest = bundle.manifest
    plain = [name for name in (INVERT, PREPARE) if name in manifest.programs]
    made = [_ensemble(bundle, prefix + name, manifest.programs[name], (), stages, runner) for name in plain]
    programs = [move.program for move in manifest.moves.values()]
    for form, move in manifest.moves.items():
        name = prefix + (move.program if programs.count(move.program) == 1 else f"{move.program}_{form}")
        made.append(_ensemble(bundle, name, manifest.programs[move.program], move.codes, stages, runner))
    return made


def _ensemble(bundle: Bundle, name: str, program: Program, codes: Sequence[str], stages: Mapping[str, Model], runner: str) -> Ensemble:
    """The ensemble of `program`, before which `codes` are moved. It takes what the program takes, and for codes a direction and a strength;
    it gives what the program gives, the moved codes, and a picture's bytes too."""
    method, (first, end) = bundle.manifest, bundle.manifest.visible_rows
    helpers: list[tuple[Model, Callable[[Path], None]]] = []
    steps: list[Step] = []
    inputs = list(tensors(program.takes, method))
    places = {tensor: tensor for tensor in program.takes}  # value -> what it is called in the ensemble
    shown = {tensor: program.gives[tensor] for tensor in method.tensors if tensor in program.gives}  # result -> value
    results = list(tensors(tuple(shown), method))
    if codes:
        shape = method.shape(codes[0], 1)[1:]
        read = (*tensors(codes, method), Tensor("direction", shape), Tensor("strength", (1,)))
        moved = [Tensor(code + MOVED, shape) for code in codes]
        mover = Model(name + MOVER, read, tuple(moved), runner)
        helpers.append((mover, partial(write_mover, codes=codes, shape=shape)))
        steps.append(Step(mover.name, {item.name: item.name for item in read}, {item.name: INSIDE + item.name for item in moved}))
        inputs += [tensor for tensor in read if tensor not in inputs]
        results += moved
        places |= {code: INSIDE + code + MOVED for code in codes}
        shown |= {code + MOVED: code for code in codes}
    for step in program.steps:
        places |= {value: INSIDE + value for value in step.outputs.values()}
        alone = f"{step.stage}:{next(iter(step.outputs))}" if len(step.outputs) == 1 else step.stage
        pairs = ({key: places[value] for key, value in names.items()} for names in (step.inputs, step.outputs))
        steps.append(Step(stages[alone if alone in stages else step.stage].name, *pairs))
    # One step makes all results because Triton omits a step when none of its outputs is among those that a request asks for, even where
    # other steps read them (triton-inference-server/server, issue 7482).
    given = [*results, *([Tensor("bytes", (end - first, method.sizes["R"], 3), BYTE)] if PICTURE in shown else [])]
    names = {tensor.name + (RESULT if tensor in results else ""): tensor.name for tensor in given}
    outputs = [replace(tensor, name=name) for name, tensor in zip(names, given, strict=True)]
    last = Model(name + RESULTS, tuple(results), tuple(outputs), runner)
    shapes = {tensor.name: tensor.dims for tensor in results}
    helpers.append((last, partial(write_results, tensors=shapes, side=method.sizes["R"], rows=(first, end))))
    steps.append(Step(last.name, {tensor: places[value] for tensor, value in shown.items()}, names))
    return Ensemble(Model(name, tuple(inputs), tuple(given), steps=without_unused(steps, given)), tuple(helpers))


def without_unused(steps: Sequence[Step], outputs: Sequence[Tensor]) -> tuple[Step, ...]:
    """The steps without outputs that nobody reads, which Triton refuses."""
    read = {tensor for step in steps for tensor in step.inputs.values()} | {tensor.name for tensor in outputs}
    return tuple(Step(step.model, step.inputs, {name: tensor for name, tensor in step.outputs.items() if tensor in read}) for step in steps)


def warm_up_arrays(bundle: Bundle, precision: str, progress: Callable[[str], None]) -> dict[str, dict[str, np.ndarray]]:
    """Stage -> input -> what it is for the first golden picture, float32 without the batch axis; empty where a bundle has no golden one."""
    from sdic_export.golden import read_golden, run_all
    from sdic_runtime.backends.registry import load_backend

    if bundle.manifest.golden is None:
        return {}
    progress("computing the warm-up tensors from the golden picture")
    golden = read_golden(bundle.file(bundle.manifest.golden), bundle.manifest)
    runner = load_backend("onnxruntime", bundle, precision=precision, lazy=True)
    examples = run_all(runner, golden.tensors[IMAGE][:1], golden.tensors["direction"]).examples
    return {stage: {name: array[0] for name, array in example.inputs.items()} for stage, example in examples.items()}


def _write_stage(
    folder: Path,
    item: Placed,
    serving: Serving,
    warm: Mapping[str, Mapping[str, np.ndarray]],
    options: TritonOptions,
    progress: Callable[[str], None],
) -> Model:
    """Write the folder of one stage; the model as it was written."""
    import numpy as np

    progress(f"writing {item.model.name}")
    inputs = warm.get(parts(item.graph)[0], {})
    model = replace(item.model, warm_up=tuple(inputs))
    place = folder / model.name / VERSION
    place.mkdir(parents=True)
    for name, source in item.files.items():
        _place(source, place / name, options.files)
    if model.backend == "python":
        _write_runner(place)
    for name, array in inputs.items():
        (folder / model.name / "warmup").mkdir(exist_ok=True)
        (folder / model.name / "warmup" / name).write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
    _write_config(folder, model, serving)
    return model


def _write_helper(folder: Path, model: Model, serving: Serving, write: Callable[[Path], None]) -> Model:
    """Write the folder of one small model; `write` makes its graph."""
    place = folder / model.name / VERSION
    place.mkdir(parents=True)
    write(place / "model.onnx")
    if model.backend == "python":
        _write_runner(place)
    _write_config(folder, model, serving)
    return model


def _write_runner(place: Path) -> None:
    shutil.copyfile(Path(__file__).with_name("stage.py"), place / BACKENDS["python"])


def _write_config(folder: Path, model: Model, serving: Serving) -> None:
    (folder / model.name / CONFIG).write_text(model.text(serving), encoding="utf-8")


def _place(source: Path, target: Path, how: str) -> None:
    """Bring a file of the bundle into the repository. Raises FileError where the file system has no such link."""
    try:
        PLACEMENTS[how](source.resolve(), target)
    except OSError as error:
        advice = "make room or choose another place" if how == "copy" else "use --files copy"
        raise FileError(f"cannot place {source} into the repository ({how}): {reason(error)}; {advice}") from error
