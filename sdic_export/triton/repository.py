"""A bundle becomes a model repository of the Triton Inference Server: a model per stage, and ensembles that invert and edit.

The ensembles are not written down anywhere: `sdic_runtime.chain` runs on a backend that only takes notes, and the notes are the steps.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain as joined
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_export.triton.config import BACKENDS, BYTE, Model, Serving, Step, Tensor
from sdic_export.triton.graphs import RESULT, write_edit_codes, write_results
from sdic_runtime import chain
from sdic_runtime.backends.tensorrt.engine_files import Sidecar, graph_file, read_sidecar, stale
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.files import reason
from sdic_runtime.stages import STAGES, TENSORS, Sizes

if TYPE_CHECKING:
    import numpy as np

VERSION = "1"  # the folder of the only version of each model
CONFIG = "config.pbtxt"
INVERT, EDIT, EDIT_CODES, RESULTS = "invert", "edit", "edit_codes", "_results"
INSIDE = "chain_"  # what names of tensors within an ensemble begin with
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


@dataclass
class Notes:
    """A backend that runs nothing and notes what is asked of it: tensors are names."""

    steps: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    name: str = "notes"
    description: str = "no arithmetic"

    def upload(self, array: Any) -> str:
        raise AssertionError("a chain that uploads cannot be an ensemble")

    def download(self, tensor: Any) -> Any:
        raise AssertionError("a chain that downloads cannot be an ensemble")

    def new(self, name: str) -> str:
        """A name inside the ensemble, with a number where an earlier tensor has it already."""
        numbered = (f"{INSIDE}{name}_{index}" for index in count(2))
        free = next(text for text in joined([INSIDE + name], numbered) if text not in self.taken)
        self.taken.add(free)
        return free

    def run(self, stage: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
        found = {output: self.new(output) for output in outputs}
        self.steps.append((stage, {name: inputs[name] for name in STAGES[stage].inputs}, dict(found)))
        return found


def write_repository(options: TritonOptions, progress: Callable[[str], None] = lambda what: None) -> list[Model]:
    """Write the model repository, whole or not at all; the models in it. Raises SdicError."""
    from sdic_export.placement import placed_folder

    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", "triton", "sdic-export triton")
    check_repository(options.repository, options.force)
    bundle = Bundle.open(options.bundle)
    if options.backend not in BACKENDS:
        raise SdicError(f'there is no backend "{options.backend}"; use {", ".join(BACKENDS)}')
    precision = bundle.precision(options.precision)
    prefix = model_prefix(bundle)
    if options.backend == ENGINE_TARGET:
        placed, serving = engine_stages(bundle, options, prefix)
    else:
        placed, serving = graph_stages(bundle, precision, options.backend, prefix), options.serving
    warm = warm_up_arrays(bundle, precision, progress) if options.warm_up else {}
    with placed_folder(options.repository, options.force, check_repository) as folder:
        stages = {item.graph: item.model for item in placed}
        models = [_write_stage(folder, item, serving, warm, options, progress) for item in placed]
        runner = "onnxruntime" if options.backend == ENGINE_TARGET else options.backend
        small = replace(serving, device=options.serving.device)
        sizes, rows = bundle.sizes, bundle.manifest.visible_rows
        mover = edit_codes_model(bundle, prefix, runner)
        models.append(_write_helper(folder, mover, small, lambda path: write_edit_codes(path, sizes)))
        for model, last in ensembles(bundle, prefix, stages, runner):
            shapes = {tensor.name: tensor.dims for tensor in last.inputs}
            models.append(_write_helper(folder, last, small, partial(write_results, tensors=shapes, sizes=sizes, rows=rows)))
            (folder / model.name / VERSION).mkdir(parents=True)
            _write_config(folder, model, serving)
            models.append(model)
    return models


def check_repository(path: Path, force: bool) -> None:
    """Raise SdicError when no repository may be written to `path`: only one that was written by this command is replaced."""
    if path.exists() and not path.is_dir():
        raise SdicError(f"{path} is a file; name a folder for the model repository")
    try:
        entries = list(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise SdicError(f"cannot read {path}: {reason(error)}; choose another folder") from error
    if not entries:
        return
    if not all((entry / CONFIG).is_file() for entry in entries):
        raise SdicError(f"{path} is a folder with other files in it, which are not overwritten; name a new folder")
    if not force:
        raise SdicError(f"there is already a model repository at {path}; replace it with --force or name another folder")


def model_prefix(bundle: Bundle) -> str:
    """What the names of all models of a bundle begin with, so that several bundles can be served side by side."""
    return re.sub(r"\W", "_", bundle.manifest.name) + "_"


def graphs_of(bundle: Bundle, precision: str) -> list[str]:
    """The stages of the bundle, and its partial graphs as "stage:output"."""
    return [*STAGES, *(name for name, choices in bundle.manifest.partials.items() if precision in choices)]


def graph_stages(bundle: Bundle, precision: str, backend: str, prefix: str) -> list[Placed]:
    """Every stage and partial graph of the bundle as a model with its ONNX file, external weights beside it."""
    placed = []
    for graph in graphs_of(bundle, precision):
        path = graph_file(bundle, graph, precision)
        stage = graph.partition(":")[0]
        weights = [
            bundle.file(name)
            for name in bundle.manifest.stage_files(precision)
            if name.startswith(bundle.manifest.stages[stage][precision] + ".")
        ]
        files = {"model.onnx": path, **{item.name: item for item in weights}}
        placed.append(Placed(stage_model(graph, bundle.sizes, backend, prefix), graph, files))
    return placed


def engine_stages(bundle: Bundle, options: TritonOptions, prefix: str) -> tuple[list[Placed], Serving]:
    """The engines of a folder as models, and the largest batch limited to what they take. Raises SdicError for engines that do not fit."""
    if options.engines is None:
        raise SdicError("--backend tensorrt needs the engines to be served; name their folder in the bundle with --engines DIR")
    sidecar = read_sidecar(options.engines)
    if sidecar.target != ENGINE_TARGET:
        raise SdicError(
            f"the engines in {options.engines} are for {sidecar.target}, and Triton runs those for {ENGINE_TARGET}; build them "
            f"with: sdic-export engines {bundle.path} --target {ENGINE_TARGET}"
        )
    if sidecar.settings.weights != "included":
        raise SdicError(
            f"the engines in {options.engines} are without their weights, which Triton cannot add; build others without --strip-weights"
        )
    placed = []
    for graph in graphs_of(bundle, sidecar.settings.precision):
        why = stale(sidecar, options.engines, bundle, graph, deep=True)
        if why is not None:
            raise SdicError(
                f'the engine of "{graph}" in {options.engines} cannot be used: {why}; build the engines again with: '
                f"sdic-export engines {bundle.path} --target {ENGINE_TARGET}"
            )
        model = stage_model(graph, bundle.sizes, ENGINE_TARGET, prefix)
        placed.append(Placed(model, graph, {"model.plan": options.engines / sidecar.stages[graph].file}))
    return placed, replace(options.serving, max_batch=_largest(options.serving, sidecar), device="gpu")


def _largest(serving: Serving, sidecar: Sidecar) -> int:
    return min(serving.max_batch, sidecar.settings.profile.largest)


def stage_model(graph: str, sizes: Sizes, backend: str, prefix: str) -> Model:
    """The model of a stage or of "stage:output"."""
    stage, _, output = graph.partition(":")
    outputs = (output,) if output else STAGES[stage].outputs
    return Model(prefix + graph.replace(":", "_"), tensors(STAGES[stage].inputs, sizes), tensors(outputs, sizes), backend)


def tensors(names: Sequence[str], sizes: Sizes) -> tuple[Tensor, ...]:
    """Tensors of the stage table as a model's border has them."""
    return tuple(Tensor(name, sizes.shape(name, 1)[1:]) for name in names)


def edit_codes_model(bundle: Bundle, prefix: str, runner: str) -> Model:
    """Both latent codes moved along a direction."""
    sizes = bundle.sizes
    code = (sizes.rows, sizes.style_width)
    inputs = (*tensors(("latent", "latent_enhanced"), sizes), Tensor("direction", code), Tensor("strength", (1,)))
    return Model(prefix + EDIT_CODES, inputs, (Tensor("latent_edited", code), Tensor("latent_enhanced_edited", code)), runner)


def results_model(bundle: Bundle, name: str, given: Sequence[Tensor], runner: str) -> Model:
    """The last step of an ensemble, which hands out all of its results, `picture` also as bytes.

    One step makes them all because Triton leaves out a step when none of its outputs is among those that a request asks for, even
    where other steps read them (triton-inference-server/server, issue 7482).
    """
    first, end = bundle.manifest.visible_rows
    outputs = [Tensor(tensor.name + RESULT, tensor.dims) for tensor in given]
    outputs.append(Tensor("bytes", (end - first, bundle.sizes.resolution, 3), BYTE))
    return Model(name + RESULTS, tuple(given), tuple(outputs), runner)


def ensembles(bundle: Bundle, prefix: str, stages: Mapping[str, Model], runner: str) -> list[tuple[Model, Model]]:
    """The inversion, and the edit in both forms of Eq. 6, as the chain runs them: each with the model of its last step."""
    sizes, notes = bundle.sizes, Notes()
    found = chain.invert(notes, "image")
    made = [
        _ensemble(
            bundle,
            prefix + INVERT,
            tensors(("image",), sizes),
            _steps(notes, stages),
            {tensor: found[tensor.name] for tensor in tensors([name for name in TENSORS if name in found], sizes)},
            runner,
        )
    ]
    mover = edit_codes_model(bundle, prefix, runner)
    latent, enhanced = mover.outputs
    inside = {tensor.name: INSIDE + tensor.name for tensor in mover.outputs}
    for form in chain.EQ6_FORMS:
        notes = Notes()
        picture = chain.edit(notes, inside[latent.name], inside[enhanced.name], "residual", form)
        first = Step(mover.name, {tensor.name: tensor.name for tensor in mover.inputs}, inside)
        results = {tensors(("picture",), sizes)[0]: picture, enhanced: inside[enhanced.name]}
        name = prefix + (EDIT if form == chain.EQ6_FORMS[0] else f"{EDIT}_{form}")
        inputs = (*mover.inputs, *tensors(("residual",), sizes))
        made.append(_ensemble(bundle, name, inputs, [first, *_steps(notes, stages)], results, runner))
    return made


def _ensemble(
    bundle: Bundle, name: str, inputs: Sequence[Tensor], steps: Sequence[Step], results: Mapping[Tensor, str], runner: str
) -> tuple[Model, Model]:
    """An ensemble whose outputs are `results` (-> where they are inside) and the picture's bytes, and the model of its last step."""
    last = results_model(bundle, name, list(results), runner)
    names = {tensor.name: tensor.name.removesuffix(RESULT) for tensor in last.outputs}
    step = Step(last.name, {tensor.name: inside for tensor, inside in results.items()}, names)
    outputs = tuple(Tensor(names[tensor.name], tensor.dims, tensor.kind) for tensor in last.outputs)
    return Model(name, tuple(inputs), outputs, steps=without_unused([*steps, step], outputs)), last


def without_unused(steps: Sequence[Step], outputs: Sequence[Tensor]) -> tuple[Step, ...]:
    """The steps without outputs that nobody reads, which Triton refuses: the released form of an edit has no use for the edited latent."""
    read = {tensor for step in steps for tensor in step.inputs.values()} | {tensor.name for tensor in outputs}
    return tuple(Step(step.model, step.inputs, {name: tensor for name, tensor in step.outputs.items() if tensor in read}) for step in steps)


def _steps(notes: Notes, stages: Mapping[str, Model]) -> list[Step]:
    """The notes as steps; a stage of which one output is asked for runs its partial graph where there is one."""
    steps = []
    for stage, inputs, outputs in notes.steps:
        alone = f"{stage}:{next(iter(outputs))}" if len(outputs) == 1 else ""
        steps.append(Step(stages[alone if alone in stages else stage].name, inputs, outputs))
    return steps


def warm_up_arrays(bundle: Bundle, precision: str, progress: Callable[[str], None]) -> dict[str, dict[str, np.ndarray]]:
    """Stage -> input -> what it is for the first golden picture, float32 without the batch axis; empty where a bundle has no golden one."""
    from sdic_export.golden import read_golden, run_chain, stage_inputs
    from sdic_runtime.backends.registry import load_backend

    if bundle.manifest.golden is None:
        return {}
    progress("computing the warm-up tensors from the golden picture")
    golden = read_golden(bundle.file(bundle.manifest.golden))
    image = golden.tensors["image"][:1]
    runner = load_backend("onnxruntime", bundle, precision=precision, lazy=True)
    known = {"image": image, **run_chain(runner, image, golden.tensors["direction"], golden.strength)}
    return {stage: {name: array[0] for name, array in stage_inputs(stage, known).items()} for stage in STAGES}


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
    inputs = warm.get(item.graph.partition(":")[0], {})
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
    """Bring a file of the bundle into the repository. Raises SdicError where the file system has no such link."""
    try:
        PLACEMENTS[how](source.resolve(), target)
    except OSError as error:
        advice = "make room or choose another place" if how == "copy" else "use --files copy"
        raise SdicError(f"cannot place {source} into the repository ({how}): {reason(error)}; {advice}") from error
