"""A method as data: its sizes, tensors, stages and programs; and the only interpreter of programs.

A program is a list of steps. A step runs one stage: it binds values to the stage's inputs and names the outputs it asks for. A value is
made once, and is a tensor of the table `tensors`. Whoever runs a bundle (Python, C++, Triton, a CUDA graph) runs these steps and knows no
method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from sdic_runtime.errors import BundleError

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Tensor

Join: TypeAlias = "Callable[[str, Sequence[Mapping[str, Tensor]], Sequence[Sequence[str]]], Sequence[Mapping[str, Tensor]]]"  # see `run`
Axes: TypeAlias = tuple[int | str, ...]

BATCH = "N"
SIZE_LETTERS = ("R", "S", "L", "C")  # of every method: picture size, working size, style rows, style width
IMAGE, PICTURE, INVERT = "image", "picture", "invert"
PREPARE = "prepare"  # the program of what edits alone need, see `Method.prepared`
FIXED_AXES: dict[str, Axes] = {IMAGE: (BATCH, 3, "S", "S"), PICTURE: (BATCH, 3, "R", "R")}
CODE_AXES: Axes = (BATCH, "L", "C")
MASK_AXES: Axes = (BATCH, 1, "S", "S")  # of what an edit takes to keep a region as it is
LARGEST_SIZE = 1 << 16  # of one axis
LARGEST_TENSOR = 1 << 28  # values of one picture
MOST_AXES = 8
EDIT_KINDS = ("direction", "ganspace")
# Offsets to what the generator makes of a code, where a method has them: an inversion keeps zeros, and an edit in style space adds to them
# in every move whose program takes them.
STYLES, STYLES_LETTER, STYLE_KIND = "styles", "M", "style"
STYLE_AXES: Axes = (BATCH, STYLES_LETTER)


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network or part of one: its tensors by name, in graph order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One run of one stage: input -> value that it reads, output asked for -> value that it makes."""

    stage: str
    inputs: dict[str, str]
    outputs: dict[str, str]


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Steps from the tensors it `takes` (which are values of the same name) to those it `gives` (tensor -> value). The host gives zeros for
    the takes named in `zeros`, where the caller gives nothing else, such as the mask of an edit."""

    takes: tuple[str, ...]
    steps: tuple[Step, ...]
    gives: dict[str, str]
    zeros: tuple[str, ...] = ()


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form of editing: the host moves `codes`, then runs `program`. `kinds` are the edits it is meant for, see EDIT_KINDS."""

    program: str
    codes: tuple[str, ...]
    kinds: tuple[str, ...] = EDIT_KINDS


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stage as a chain of smaller ones, so that an edit can begin in its middle. `stages` are those, which no program names; `steps` lead
    from the inputs of the whole stage to its outputs, values named alike."""

    stages: dict[str, Stage]
    steps: tuple[Step, ...]


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """What a method is.

    `sizes`: letter -> number. `tensors`: name -> axes, each a number, a letter of `sizes`, or "N" for the batch, which comes first.
    `keeps`: the tensors that an inversion stores, each given or taken by the program "invert". `moves`: the forms of editing by name; the
    first that is meant for an edit's kind is the default. `rows`: stage -> how many style rows of the latent codes it reads, the first; a
    stage that is not named reads all. `cuts`: stage -> the same as a chain. Both are for edits that leave the first rows alone, see
    `unmoved`.
    """

    method: str
    sizes: dict[str, int]
    tensors: dict[str, Axes]
    stages: dict[str, Stage]
    programs: dict[str, Program]
    keeps: tuple[str, ...]
    moves: dict[str, Move]
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    cuts: dict[str, Cut] = msgspec.field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Stage]:
        """The stages of all cuts."""
        return {name: stage for cut in self.cuts.values() for name, stage in cut.stages.items()}

    def stage(self, name: str) -> Stage:
        """The stage, or the part of one, that is called `name`. Raises KeyError."""
        return self.stages[name] if name in self.stages else self.parts[name]

    def chain(self, stage: str) -> Program:
        """The program that the cut of `stage` is, from its inputs to its outputs."""
        whole = self.stages[stage]
        return Program(whole.inputs, self.cuts[stage].steps, {tensor: tensor for tensor in whole.outputs})

    @property
    def prepared(self) -> tuple[str, ...]:
        """What the program "prepare" gives: programs of edits may take it as if an inversion kept it. The host runs it once per inversion,
        before the first edit that takes any of it."""
        return tuple(self.programs[PREPARE].gives) if PREPARE in self.programs else ()

    def shape(self, tensor: str, batch: int) -> tuple[int, ...]:
        """The shape of the tensor called `tensor` for `batch` pictures."""
        return sized(self.tensors[tensor], self.sizes, batch)


def sized(axes: Axes, sizes: Mapping[str, int], batch: int) -> tuple[int, ...]:
    """The shape that `axes` have for `batch` pictures. Raises KeyError for a letter without a size."""
    letters = {**sizes, BATCH: batch}
    return tuple(letters[axis] if isinstance(axis, str) else axis for axis in axes)


class Stages(Protocol):
    """What a program runs on: a backend, or something around one."""

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str], /) -> dict[str, Tensor]: ...


def joined(program: Program) -> list[tuple[Step, ...]]:
    """The steps in an order in which they can run, those of the same stage in one group where none of them needs the values of another."""
    known, waiting, groups = set(program.takes), list(program.steps), list[tuple[Step, ...]]()
    while waiting:
        first = waiting[0]
        group = [step for step in waiting if step.stage == first.stage and (step is first or known.issuperset(step.inputs.values()))]
        groups.append(tuple(group))
        known.update(value for step in group for value in step.outputs.values())
        waiting = [step for step in waiting if not any(step is taken for taken in group)]
    return groups


def run(program: Program, backend: Stages, tensors: Mapping[str, Tensor], join: Join | None = None) -> dict[str, Tensor]:
    """Run the steps on `backend`, from the tensors that the program takes to those that it gives, by name. A value that no later step reads
    is let go at once. `join` runs a stage for several steps at once: the inputs of each, and the outputs that each asks for."""
    groups = joined(program) if join is not None else [(step,) for step in program.steps]
    named = [[value for step in group for value in (*step.inputs.values(), *step.outputs.values())] for group in groups]
    last = {value: index for index, values in enumerate(named) for value in values}
    last |= dict.fromkeys(program.gives.values(), len(groups))
    values = {name: tensors[name] for name in program.takes}
    for index, group in enumerate(groups):
        stage, outputs = group[0].stage, [tuple(step.outputs) for step in group]
        inputs = [{name: values[value] for name, value in step.inputs.items()} for step in group]
        found = [backend.run(stage, inputs[0], outputs[0])] if join is None or len(group) == 1 else join(stage, inputs, outputs)
        for step, results in zip(group, found, strict=True):
            values |= {value: results[name] for name, value in step.outputs.items()}
        values = {name: value for name, value in values.items() if last.get(name, -1) > index}
        del inputs, found, results
    return {name: values[value] for name, value in program.gives.items()}


def check(method: Method) -> None:
    """Raise BundleError unless tables, programs, keeps and moves fit together."""
    _check_tables(method)
    for name, program in method.programs.items():
        _check_program(method, name, program)
        _require(PICTURE in program.gives or name == PREPARE, f'the program "{name}" gives no "{PICTURE}"')
    _check_cuts(method)
    _check_editing(method)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BundleError(what)


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raise BundleError for sizes that no model has."""
    missing = [letter for letter in SIZE_LETTERS if letter not in sizes]
    _require(not missing, f"sizes lacks {', '.join(missing)}")
    for letter, size in sizes.items():
        _require(letter.isalpha() and letter != BATCH, f'sizes has "{letter}", which is not a letter for a size')
        _require(0 < size <= LARGEST_SIZE, f'sizes["{letter}"] is {size}, expected 1 to {LARGEST_SIZE}')


def check_axes(name: str, axes: Axes, sizes: Mapping[str, int]) -> None:
    """Raise BundleError for axes that no tensor has: of sizes that are not there, or of more than LARGEST_TENSOR values."""
    known = all(axis in sizes if isinstance(axis, str) else 0 < axis <= LARGEST_SIZE for axis in axes[1:])
    fits = axes[:1] == (BATCH,) and len(axes) <= MOST_AXES and known
    _require(fits, f'the axes of the tensor "{name}" are {list(axes)}, expected "N", then at most {MOST_AXES - 1} sizes')
    values = math.prod(sized(axes, sizes, 1))
    _require(values <= LARGEST_TENSOR, f'the tensor "{name}" has {values} values for one picture, and the limit is {LARGEST_TENSOR}')


def _check_tables(method: Method) -> None:
    check_sizes(method.sizes)
    for name, axes in method.tensors.items():
        check_axes(name, axes, method.sizes)
    for name, expected in FIXED_AXES.items():
        _require(method.tensors.get(name) == expected, f'the tensor "{name}" must have the axes {list(expected)}')
    for name, stage in (*method.stages.items(), *method.parts.items()):
        _require(":" not in name, f'the stage "{name}" has a colon in its name')
        for tensor in (*stage.inputs, *stage.outputs):
            _require(tensor in method.tensors, f'the stage "{name}" has the tensor "{tensor}", which the table of tensors lacks')
        twice = len({*stage.inputs, *stage.outputs}) < len(stage.inputs) + len(stage.outputs)
        _require(bool(stage.inputs) and bool(stage.outputs) and not twice, f'the stage "{name}" needs inputs and outputs, each named once')


def _check_program(method: Method, name: str, program: Program, stages: Mapping[str, Stage] | None = None) -> None:
    """`stages`: those that the steps may run, when not those of the method."""
    for tensor in program.takes:
        _require(tensor in method.tensors, f'the program "{name}" takes "{tensor}", which the table of tensors lacks')
    _require(set(program.zeros) <= set(program.takes), f'the program "{name}" has zeros that it does not take')
    axes = {tensor: method.tensors[tensor] for tensor in program.takes}

    def same(value: str, tensor: str) -> bool:
        return value in axes and axes[value] == method.tensors.get(tensor)

    for index, step in enumerate(program.steps):
        where = f'step {index + 1} of the program "{name}"'
        stage = (method.stages if stages is None else stages).get(step.stage)
        if stage is None:
            raise BundleError(f'{where} runs "{step.stage}", which is no stage')
        bound, taken = ", ".join(step.inputs), ", ".join(stage.inputs)
        _require(set(step.inputs) == set(stage.inputs), f'{where} binds {bound} where "{step.stage}" takes {taken}')
        for tensor, value in step.inputs.items():
            _require(same(value, tensor), f'{where} binds "{value}" to "{tensor}", which was not made before it or has other axes')
        asked = bool(step.outputs) and set(step.outputs) <= set(stage.outputs)
        _require(asked, f'{where} asks for {", ".join(step.outputs) or "nothing"} where "{step.stage}" gives {", ".join(stage.outputs)}')
        for tensor, value in step.outputs.items():
            _require(value not in axes, f'{where} makes "{value}", which is there already')
            axes[value] = method.tensors[tensor]
    for tensor, value in program.gives.items():
        _require(same(value, tensor), f'the program "{name}" gives "{tensor}" from "{value}", which it does not make or has other axes')


def _check_cuts(method: Method) -> None:
    """What edits that leave the first rows alone go by."""
    for name, cut in method.cuts.items():
        _require(name in method.stages, f'cuts has "{name}", which is no stage')
        taken = [
            part
            for part in cut.stages
            if part in method.stages or any(part in other.stages for other in method.cuts.values() if other is not cut)
        ]
        _require(not taken, f'the cut of "{name}" has the stage "{", ".join(taken)}", which is there already')
        _check_program(method, f"cut of {name}", method.chain(name), cut.stages)
    for name, rows in method.rows.items():
        _require(name in method.stages or name in method.parts, f'rows has "{name}", which is no stage')
        _require(0 <= rows <= method.sizes["L"], f'rows["{name}"] is {rows}, expected 0 to {method.sizes["L"]}')


def _check_editing(method: Method) -> None:
    """What an inversion keeps, what programs take of it, and the moves."""
    invert = method.programs.get(INVERT)
    if invert is None or invert.takes != (IMAGE,):
        raise BundleError(f'the program "{INVERT}" is missing, or does not take "{IMAGE}" alone')
    for tensor in method.keeps:
        _require(tensor in (*invert.takes, *invert.gives), f'keeps has "{tensor}", which the program "{INVERT}" neither takes nor gives')
    _require(PICTURE in method.keeps, f'keeps lacks "{PICTURE}"')
    offsets = STYLES not in method.tensors or (method.tensors[STYLES] == STYLE_AXES and STYLES in method.keeps)
    _require(offsets, f'the tensor "{STYLES}" must have the axes {list(STYLE_AXES)}, and an inversion must keep it')
    twice = [tensor for tensor in method.prepared if tensor in method.keeps]
    _require(not twice, f'the program "{PREPARE}" gives {", ".join(twice)}, which an inversion keeps already')
    for name, program in method.programs.items():
        there = (*method.keeps, *program.zeros, *(() if name == PREPARE else method.prepared))
        lacking = [] if name == INVERT else [tensor for tensor in program.takes if tensor not in there]
        _require(not lacking, f'the program "{name}" takes {", ".join(lacking)}, which an inversion does not keep')
    for name, move in method.moves.items():
        _require(move.program in method.programs, f'the move "{name}" runs "{move.program}", which is no program')
        for code in move.codes:
            taken = code in (*method.keeps, *method.prepared) and method.tensors.get(code) == CODE_AXES
            _require(taken, f'the move "{name}" moves "{code}", which is no latent code that an inversion keeps')
            program = method.programs[move.program]
            used = code in program.takes and code not in program.zeros
            _require(used, f'the move "{name}" moves "{code}", which its program "{move.program}" does not take')
        _require(bool(move.codes) and bool(move.kinds), f'the move "{name}" moves nothing or is for no kind of edit')
        unknown = [kind for kind in move.kinds if kind not in EDIT_KINDS]
        _require(not unknown, f'the move "{name}" is for {", ".join(unknown)}; the kinds are {", ".join(EDIT_KINDS)}')
