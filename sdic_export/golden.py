"""Golden tensors: a few pictures, and every value that PyTorch makes of them. Every backend is checked against them.

Latent codes and the input pictures are whole. Of a large map, or weights, one of k * k elements of every channel is kept, see `kept`; k is
the tensor's entry under "strides" in the file's metadata "golden", a JSON object that also has the edit's "strength" and the "pattern" in
which they lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.manifest import first_schema
from sdic_runtime.errors import BundleError
from sdic_runtime.files import save_tensors
from sdic_runtime.program import IMAGE, INVERT, PICTURE, PREPARE, STYLES, STYLES_LETTER, Method, Step, run
from sdic_runtime.tools.wrapper import Wrapper

FILE = "golden/golden.safetensors"
STRENGTH = 1.5
KEPT = 1 << 16  # elements of one picture's map that are kept at most
DIRECTION_DEVIATION = 0.2
STYLE_AMPLITUDE = 0.3
WHOLE = (IMAGE, "direction")  # inputs, which cannot be thinned
METADATA = "golden"
GRID, SPREAD = "grid", "spread"  # patterns: of the files before there were several, and of those that are written now
TURN = (5**0.5 - 1) / 2  # of the columns' first one, from row to row: no period, so that all columns and all phases of them are met
SEAM_ROWS, SEAM_SHARE = (
    4,
    32,
)  # a dense block in the middle, where bands of rows meet: its rows, and which part of the rest it is as wide as


@dataclass(frozen=True)
class Golden:
    """The golden tensors of a bundle, and how the maps among them were thinned."""

    tensors: Mapping[str, np.ndarray]
    strides: Mapping[str, int] = field(default_factory=dict)
    strength: float = STRENGTH
    pattern: str = GRID

    def where(self, name: str, array: np.ndarray) -> Any:
        """The index of what is kept of the tensor `name`, of which `array` is a whole one; see `kept`."""
        return kept(array, self.strides.get(name, 1), self.pattern)

    def thinned(self, name: str, array: np.ndarray) -> np.ndarray:
        """The part of `array` that is kept of the tensor `name`."""
        part: np.ndarray = array[self.where(name, array)]
        return part


@dataclass(frozen=True)
class Example:
    """What one stage reads in the first step that runs it (see `Watched`), and everything that it makes of that; in the order of the stage
    table."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Chain:
    """What `run_chain` was given and what it gave, and an example of every stage: of the inversion, for those that it runs."""

    image: np.ndarray  # [N, 3, S, S]
    direction: np.ndarray  # [1, L, C]
    values: Mapping[str, np.ndarray]
    examples: Mapping[str, Example]


def smooth_pictures(side: int, count: int = 2) -> np.ndarray:
    """Synthetic pictures without noise: colour gradients, waves of a few periods, a soft disc; float32 [count, 3, side, side]."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1.0)
    pictures = []
    for index in range(count):
        rng = np.random.default_rng(index)
        periods, phases, centre = rng.uniform(0.5, 3, (3, 2)), rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.3, 0.7, 2)
        waves = [np.sin(2 * np.pi * (a * x + b * y) + phase) for (a, b), phase in zip(periods, phases, strict=True)]
        disc = 1 / (1 + np.exp(30 * (np.hypot(x - centre[0], y - centre[1]) - 0.25)))
        pictures.append(np.stack([0.55 * wave + 0.4 * disc * sign for wave, sign in zip(waves, (1, -1, 0.5), strict=True)]))
    return np.clip(np.stack(pictures), -1, 1).astype(np.float32)


def example_direction(sizes: Mapping[str, int]) -> np.ndarray:
    """A random direction [1, L, C] for the golden edit."""
    rng = np.random.default_rng(0)
    return (DIRECTION_DEVIATION * rng.standard_normal((1, sizes["L"], sizes["C"]))).astype(np.float32)


def example_styles(sizes: Mapping[str, int]) -> np.ndarray:
    """Offsets [1, M] to the styles for the golden edit of a method that has style space: a wave over all channels."""
    return (STYLE_AMPLITUDE * np.sin(1.7 * np.arange(sizes[STYLES_LETTER])))[None].astype(np.float32)


def makers(method: Method) -> dict[str, Step]:
    """Golden value -> the step that makes it, in the order in which they are made: every value of the program "invert" by its name, and
    the picture of an edit by every move."""
    steps = {value: step for step in method.programs[INVERT].steps for value in step.outputs.values()}
    for name, move in method.moves.items():
        program = method.programs[move.program]
        steps |= {edited(name): step for step in program.steps if program.gives[PICTURE] in step.outputs.values()}
    return steps


def edited(move: str) -> str:
    """What the golden picture of an edit by `move` is called."""
    return f"edited.{move}.{PICTURE}"


def pictures(method: Method) -> list[str]:
    """The golden values that a person sees: the inversion and every edit of it."""
    return [method.programs[INVERT].gives[PICTURE], *(edited(name) for name in method.moves)]


def run_chain(backend: Backend, image: np.ndarray, direction: np.ndarray, strength: float = STRENGTH) -> dict[str, np.ndarray]:
    """Every value of `makers`, whole, as `backend` computes it from `image` [N, 3, S, S] and `direction` [1, L, C]."""
    method, invert = backend.method, backend.method.programs[INVERT]
    given = backend.upload(image)
    made = [value for step in invert.steps for value in step.outputs.values()]
    values = run(msgspec.structs.replace(invert, gives={value: value for value in made}), backend, {IMAGE: given}) | {IMAGE: given}
    kept = {IMAGE: given} | {tensor: values[value] for tensor, value in invert.gives.items()}
    results = {name: backend.download(values[name]) for name in made}
    kept |= run_with(backend, PREPARE, kept, len(image)) if method.prepared else {}
    for name, move in method.moves.items():
        offsets = dict.fromkeys(move.codes, direction)
        offsets |= {STYLES: example_styles(method.sizes)} if STYLES in method.programs[move.program].takes else {}
        moved = {code: backend.upload(backend.download(kept[code]) + np.float32(strength) * offset) for code, offset in offsets.items()}
        results[edited(name)] = backend.download(run_with(backend, move.program, {**kept, **moved}, len(image))[PICTURE])
    return results


def run_with(backend: Backend, program: str, kept: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Run a program for `count` pictures on what it takes of `kept`, and on zeros where it asks for them."""
    wanted, method = backend.method.programs[program], backend.method
    zeros = {name: backend.upload(np.zeros(method.shape(name, count), np.float32)) for name in wanted.zeros}
    return backend.run_program(program, {name: {**kept, **zeros}[name] for name in wanted.takes})


class Watched(Wrapper):
    """A backend that takes an example of every stage of `inner`: the first run, for all outputs. Of a stage that takes offsets to styles
    it is the first run where they are not zeros."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.examples: dict[str, Example] = {}

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        if stage in self.examples and np.any(self.examples[stage].inputs.get(STYLES, 1)):
            return self.inner.run(stage, inputs, outputs)
        table = self.method.stage(stage)
        results = self.inner.run(stage, inputs, table.outputs)
        read = {name: self.download(inputs[name]) for name in table.inputs}
        self.examples[stage] = Example(read, {name: self.download(results[name]) for name in table.outputs})
        return {name: results[name] for name in outputs}


def run_all(backend: Backend, image: np.ndarray, direction: np.ndarray) -> Chain:
    """`run_chain`, and an example of every stage and of the parts that `backend` runs. Raises BundleError for a stage that no program
    runs."""
    watched, method = Watched(backend), backend.method
    values = run_chain(watched, image, direction)
    invert = method.programs[INVERT]
    kept = {IMAGE: image} | {tensor: {**values, IMAGE: image}[value] for tensor, value in invert.gives.items()}
    for name, program in method.programs.items():
        if any(step.stage not in watched.examples for step in program.steps):
            run_with(watched, name, {tensor: backend.upload(array) for tensor, array in kept.items()}, len(image))
    unused = [stage for stage in method.stages if stage not in watched.examples]
    if unused:
        raise BundleError(f'no program runs the stage "{unused[0]}", so that nothing can be checked of it; remove it from the method')
    for stage, cut in method.cuts.items():
        if not all(backend.runs(step.stage) for step in cut.steps):
            continue
        inputs = watched.examples[stage].inputs
        run(method.chain(stage), watched, {name: backend.upload(array) for name, array in inputs.items()})
    return Chain(image, direction, values, watched.examples)


def make_golden(values: Mapping[str, np.ndarray], image: np.ndarray, direction: np.ndarray) -> Golden:
    """The golden tensors of the whole values that `run_chain` gave."""
    every = {IMAGE: image, "direction": direction, **values}
    strides = {name: stride_of(array) for name, array in every.items() if (array.ndim == 4 or array[0].size > KEPT) and name not in WHOLE}
    golden = Golden(every, strides, pattern=SPREAD)
    return replace(golden, tensors={name: np.ascontiguousarray(golden.thinned(name, array)) for name, array in every.items()})


def stride_of(array: np.ndarray) -> int:
    """The smallest power of two that leaves at most KEPT elements of a picture's tensor, besides the block in the middle."""
    stride = 1
    while array[0].size > KEPT * stride * stride:
        stride *= 2
    return stride


def kept(array: np.ndarray, stride: int, pattern: str = SPREAD) -> Any:
    """The index of what is kept of [N, C, H, W], or of weights [N, H, W] and [N, H, W, 3, 3]: everything where `stride` is 1, else one of
    stride * stride elements.

    GRID: every `stride`-th row and column from stride // 2 on. SPREAD: of every row one of stride * stride columns, others in every row,
    and a dense block in the middle. Rows and columns that the layers before make in different ways (even and odd ones, the edges of bands)
    are all among them.
    """
    if stride == 1:
        return ...
    lead = (slice(None),) * (2 if array.ndim == 4 else 1)
    if pattern == GRID:
        return (*lead, *[slice(stride // 2, None, stride)] * 2)
    height, width = array.shape[len(lead) : len(lead) + 2]
    chosen = np.zeros((height, width), bool)
    for row in range(height):
        chosen[row, int((row + 0.5) * TURN % 1 * stride * stride) :: stride * stride] = True
    across = max(1, int(chosen.sum()) // SEAM_SHARE)
    top, left = (max(0, (size - block) // 2) for size, block in ((height, SEAM_ROWS), (width, across)))
    chosen[top : top + SEAM_ROWS, left : left + across] = True
    return (*lead, *np.nonzero(chosen))


def write_golden(path: Path, golden: Golden) -> None:
    """Write a golden file, whole or not at all."""
    described = {"strides": dict(golden.strides), "strength": golden.strength, "pattern": golden.pattern}
    save_tensors(path, golden.tensors, {METADATA: json.dumps(described, sort_keys=True)})


def read_golden(path: Path, method: Method) -> Golden:
    """Read the golden file of a bundle of `method`. Raises BundleError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            described = json.loads((stream.metadata() or {})[METADATA])
        strides, strength = {name: int(stride) for name, stride in described["strides"].items()}, float(described["strength"])
        pattern = described.get("pattern", GRID)
        if pattern not in (GRID, SPREAD):
            raise ValueError(f'its pattern "{pattern}" is not known')
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is not a file of golden tensors ({error}); build the bundle again") from error
    wanted = (*WHOLE, *makers(method))
    for old, name in first_schema()["golden"].items():  # files of bundles of schema 1
        if name in wanted and name not in tensors and old in tensors:
            tensors[name] = tensors.pop(old)
            strides |= {name: strides.pop(old)} if old in strides else {}
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise BundleError(f"{path} lacks the golden tensors {', '.join(missing)}; build the bundle again")
    return Golden(tensors, strides, strength, pattern)
