"""What NVIDIA's Polygraphy needs to compare a bundle's stages on other runtimes, and to find the nodes at which they part.

Per stage: the inputs and the outputs of a golden picture in Polygraphy's own format, a data loader script, and commands. The inputs are
whole, which golden tensors are not: they are computed anew in the standard precision, and used only when they agree with the golden ones.
Of the outputs what is golden is taken from there: small tensors are whole, and of large ones some elements.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdic_export.check import TOLERANCES, judged
from sdic_export.golden import Chain, Example, Golden, makers, read_golden, run_all
from sdic_export.placement import placed_folder
from sdic_export.verify import compare_with
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import graph_for
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.errors import ArgumentError, BundleError, MissingExtraError
from sdic_runtime.program import IMAGE, Method

INPUTS, OUTPUTS, LAYERS, REDUCED = "inputs.json", "outputs.json", "layers.json", "reduced.onnx"
LOADER, README, BISECT, EVERY = "data_loader.py", "README.md", "bisect.sh", "every_tensor.sh"
RUNNER = "expected"  # how Polygraphy calls what it compares with
# Name of a script -> how `polygraphy run` is told to run a graph there.
RUNNERS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("--onnxrt",),
    "onnxruntime-cuda": ("--onnxrt", "--providers", "cuda"),
    "tensorrt": ("--trt", "--strongly-typed"),
    "tensorrt-rtx": ("--trt", "--strongly-typed"),
}
SWITCHES = {"tensorrt-rtx": ("export POLYGRAPHY_USE_TENSORRT_RTX=1",)}  # lines before a runner's command
SCRIPT = '#!/bin/sh\n# {what}\nset -e\ncd "$(dirname "$0")"\n{lines}\n'
LOADER_TEXT = '''"""The golden inputs of the stage "{stage}", for: polygraphy run MODEL --data-loader-script {loader}"""

from pathlib import Path

from polygraphy.json import load_json


def load_data():
    yield from load_json(str(Path(__file__).with_name("{inputs}")))
'''
README_TEXT = """# {name} in Polygraphy

Made by `sdic-export polygraphy {bundle}`; graphs in {precision}, {pictures} picture(s). Each folder is a stage:

| file | what it is |
| --- | --- |
| `{inputs}`, `{outputs}` | what the stage is given and gives, for `--load-inputs` and `--load-outputs` |
| `{loader}` | the inputs, for `--data-loader-script` |
| {scripts} | the stage on that runtime, compared with `{outputs}` within the bundle's tolerance |
| `{layers}` | compares every tensor of the graph on a runtime with ONNX Runtime's |
| `{bisect}` | finds the first tensor of the graph that is off on a runtime, see below |

The inputs were computed by {computed}, and so were the outputs, but for what the bundle's golden tensors hold of
them, which PyTorch gave: {golden}. Everything
computed agreed with the golden tensors within the bundle's tolerance. On the runtime that computed it, a script tells nothing beyond them.

What stands behind a script's name goes to `polygraphy run`, such as `-v` or `--save-engine FILE`. Behind `{bisect}` it says which runtime
is off, such as `--trt --strongly-typed`, for TensorRT-RTX with `POLYGRAPHY_USE_TENSORRT_RTX=1` in front of `sh`. Where nothing is off it
says so; else `{reduced}` is the graph up to the first tensor that is off.
With `MODEL=FILE` in front of `sh {bisect}` another graph with the
same tensors is examined; `ATOL=NUMBER` says which difference counts, instead of 1e-3; `MODE=linear` tries node by node, which takes longer
and finds the first one also where the graph branches. `{layers}` compares all tensors in one run, which a runtime that fuses nodes then
computes without fusing.
"""


@dataclass(frozen=True)
class PolygraphyOptions:
    """What to write where. `backend` computes the inputs and outputs of the stages; `pictures` is how many golden pictures they are for."""

    bundle: Path
    folder: Path
    precision: str | None = None
    backend: str = "onnxruntime:cpu_graphs=false"
    pictures: int = 1
    force: bool = False


def write_polygraphy(options: PolygraphyOptions, begin: Callable[[str], None] = lambda what: None) -> list[str]:
    """Write the folder, whole or not at all; the stages, which are its folders. Raises SdicError, for one when the numbers of `backend` are
    not the golden ones."""
    _polygraphy()
    bundle = Bundle.open(options.bundle)
    precision = bundle.precision(options.precision)
    with placed_folder(options.folder, options.force, partial(_check_place)) as folder:
        begin("computing the stages")
        examples = golden_examples(bundle, options.backend, options.pictures, precision)
        tolerance = bundle.manifest.tolerances.get(precision, TOLERANCES[STANDARD])
        for stage in bundle.manifest.stages:
            begin(f"writing {stage}")
            graph = graph_for(bundle.manifest, stage, bundle.manifest.stages[stage].outputs, [precision])
            paths = [bundle.file(name).resolve() for name in graph.files]
            if len(paths) == 1:
                _write_stage(folder / stage, stage, paths[0], examples, tolerance)
        _write_readme(folder, bundle, precision, examples, options)
    return [stage for stage in bundle.manifest.stages if (options.folder / stage).is_dir()]


@dataclass(frozen=True)
class Expected:
    """An example of every stage. `computed`: the backend that computed it. `golden`: output -> n where one of n * n elements is golden, for
    the outputs that are golden at all, by stage."""

    examples: Mapping[str, Example]
    computed: str
    golden: Mapping[str, Mapping[str, int]]

    def told(self, stage: str) -> str:
        """In words, which outputs of a stage are golden."""
        said = [name if stride == 1 else f"one of {stride * stride} elements of {name}" for name, stride in self.golden[stage].items()]
        return ", ".join(said) or "nothing"


def golden_examples(bundle: Bundle, backend: str, count: int, precision: str) -> Expected:
    """Inputs and outputs of every stage for the first `count` golden pictures. Raises BundleError where they differ from the golden tensors
    by more than the tolerance, and ArgumentError where there are not so many pictures, or `backend` computes in a reduced precision (other
    than `precision`, where the bundle has no standard one)."""
    from sdic_runtime.backends.registry import load_backend

    if bundle.manifest.golden is None:
        raise BundleError(f"the bundle {bundle.path} holds no golden tensors; build it again with: sdic-export build")
    golden = read_golden(bundle.file(bundle.manifest.golden), bundle.manifest)
    image = golden.tensors[IMAGE]
    if not 0 < count <= len(image):
        raise ArgumentError(f"{count} pictures were asked for, and the bundle has {len(image)} golden ones; give 1 to {len(image)}")
    standard = STANDARD if STANDARD in bundle.manifest.precisions else precision
    runner = load_backend(backend, bundle, {"precision": standard})
    if runner.precision != standard:
        runner.close()
        raise ArgumentError(
            f'expected outputs must be computed in {standard}, and "{backend}" computes in {runner.precision}; name another'
        )
    chain = run_all(runner, image[:count], golden.tensors["direction"])
    values = {name: golden.thinned(name, array) for name, array in chain.values.items()}
    found = [item for _, item in compare_with(golden, values, slice(0, count), runner)]
    judged(found, bundle.manifest.tolerances.get(runner.precision, TOLERANCES[STANDARD]))
    computed, method = runner.description, runner.method
    runner.close()
    known = {stage: _golden_outputs(method, stage, chain, golden) for stage in chain.examples}
    examples = {
        stage: Example(example.inputs, {name: _patched(array, golden, known[stage].get(name)) for name, array in example.outputs.items()})
        for stage, example in chain.examples.items()
    }
    strides = {stage: {name: golden.strides.get(value, 1) for name, value in values.items()} for stage, values in known.items()}
    return Expected(examples, computed, strides)


def _golden_outputs(method: Method, stage: str, chain: Chain, golden: Golden) -> dict[str, str]:
    """Output of a stage -> the golden tensor that PyTorch gave for it: its example is the run that made this value of the chain."""
    values = [name for name, step in makers(method).items() if step.stage == stage]
    outputs = chain.examples[stage].outputs
    same = {name: [value for value in values if np.array_equal(chain.values[value], array)] for name, array in outputs.items()}
    return {name: found[0] for name, found in same.items() if found}


def _patched(array: np.ndarray, golden: Golden, value: str | None) -> np.ndarray:
    """`array` with what is golden of it."""
    if value is None:
        return array
    patched = array.copy()
    patched[golden.where(value, array)] = golden.tensors[value][: len(array)]
    return patched


def _write_stage(folder: Path, stage: str, model: Path, expected: Expected, tolerance: float) -> None:
    """The files of one stage, whose graph is `model`."""
    json, results = _polygraphy()
    example = expected.examples[stage]
    folder.mkdir()
    json.save_json([dict(example.inputs)], str(folder / INPUTS))
    outputs = results()
    outputs.add([dict(example.outputs)], runner_name=RUNNER)
    json.save_json(outputs, str(folder / OUTPUTS))
    (folder / LOADER).write_text(LOADER_TEXT.format(stage=stage, loader=LOADER, inputs=INPUTS), encoding="utf-8")
    allowed = [f"{name}:{tolerance * float(np.std(array)):.3e}" for name, array in example.outputs.items()]
    compare = ["--rtol", "0", "--atol", *allowed, "--check-error-stat", "max"]
    # For engines, which are otherwise built for one picture.
    shapes = ["--input-shapes", *(f"{name}:{list(array.shape)}".replace(" ", "") for name, array in example.inputs.items())]
    for name, runner in RUNNERS.items():
        words = ["polygraphy", "run", str(model), *runner, *shapes, "--load-inputs", INPUTS, "--load-outputs", OUTPUTS, *compare]
        about = [
            f"The stage {stage} on {name}, compared with {OUTPUTS} within the tolerance of the bundle. There, PyTorch gave:",
            f"{expected.told(stage)}; {expected.computed} gave the rest.",
        ]
        _script(folder / f"{name}.sh", "\n# ".join(about), "\n".join([*SWITCHES.get(name, ()), f'{shlex.join(words)} "$@"']))
    _script(folder / EVERY, f"Every tensor of the stage {stage} on a runtime: {EVERY} --trt", _every(model, shapes))
    _script(folder / BISECT, f"The first tensor of the stage {stage} that is off on a runtime: {BISECT} --trt", _bisect(model, shapes))


CLOSE = '--rtol 1e-3 --atol "${ATOL:-1e-3}" --check-error-stat max'


def _layers(model: Path, shapes: Sequence[str]) -> list[str]:
    """The lines that compute every tensor of `model` on ONNX Runtime; GOOD is that graph, MODEL the one to be examined."""
    return [
        f"GOOD={shlex.quote(str(model))}",
        'MODEL="${MODEL:-$GOOD}"',
        f'polygraphy run "$GOOD" --onnxrt --graph-optimization-level ORT_DISABLE_ALL {shlex.join(shapes)} --load-inputs {INPUTS} \\',
        f"  --onnx-outputs mark all --save-outputs {LAYERS}",
    ]


def _every(model: Path, shapes: Sequence[str]) -> str:
    """The lines that compare every tensor of a graph with that of `model` on ONNX Runtime."""
    given = f"{shlex.join(shapes)} --load-inputs {INPUTS}"
    compare = f'polygraphy run "$MODEL" "$@" --onnx-outputs mark all {given} --load-outputs {LAYERS} {CLOSE}'
    return "\n".join([*_layers(model, shapes), compare])


def _bisect(model: Path, shapes: Sequence[str]) -> str:
    """The lines that cut a graph off behind the first tensor that differs from that of `model` on ONNX Runtime, found by bisection; where
    the whole graph is not off there is nothing to find."""
    given = f"{shlex.join(shapes)} --load-inputs {INPUTS}"
    return "\n".join(
        [
            *_layers(model, shapes),
            f'if polygraphy run "$MODEL" "$@" {given} --load-outputs {LAYERS} {CLOSE}; then',
            f'  echo "nothing is off: the outputs are those of ONNX Runtime within ${{ATOL:-1e-3}}; {EVERY} compares the tensors inside"',
            f"  rm -f {REDUCED}",
            "  exit 0",
            "fi",
            f'polygraphy debug reduce "$MODEL" --mode "${{MODE:-bisect}}" --no-reduce-inputs --load-inputs {INPUTS} --output {REDUCED} \\',
            f'  --check polygraphy run polygraphy_debug.onnx "$@" {given} --load-outputs {LAYERS} {CLOSE}',
            f"polygraphy inspect model {REDUCED}",
        ]
    )


def _script(path: Path, what: str, lines: str) -> None:
    path.write_text(SCRIPT.format(what=what, lines=lines), encoding="utf-8")
    path.chmod(0o755)


def _write_readme(folder: Path, bundle: Bundle, precision: str, expected: Expected, options: PolygraphyOptions) -> None:
    scripts = ", ".join(f"`{name}.sh`" for name in RUNNERS)
    names = {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "loader": LOADER,
        "bisect": BISECT,
        "reduced": REDUCED,
        "layers": EVERY,
        "scripts": scripts,
    }
    told = {"name": bundle.manifest.name, "bundle": bundle.path, "precision": precision, "pictures": options.pictures}
    golden = "; ".join(f"of `{stage}` {expected.told(stage)}" for stage in expected.golden)
    told |= {"computed": expected.computed, "golden": golden}
    (folder / README).write_text(README_TEXT.format(**names, **told), encoding="utf-8")


def _check_place(path: Path, force: bool) -> None:
    """Raise ArgumentError when the folder may not be written to `path`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    ours = path.is_dir() and (path / README).is_file() and any(path.glob(f"*/{LOADER}"))
    if not (ours and force):
        remedy = "replace it with --force or name another folder" if ours else "name a new folder"
        raise ArgumentError(f"there is already something at {path}; {remedy}")


def _polygraphy() -> tuple[Any, Any]:
    """Polygraphy's JSON, and its results of runners. Raises MissingExtraError."""
    try:
        from polygraphy import json
        from polygraphy.comparator import RunResults
    except ImportError as error:
        raise MissingExtraError("polygraphy", "polygraphy", "sdic-export polygraphy") from error
    return json, RunResults
