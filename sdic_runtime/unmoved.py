"""What an edit need not compute: the steps of its program that read nothing which it moves.

An edit moves the latent codes from some style row on, all of them or only the last. A stage that reads the rows before it alone gives what
it gave for the inversion; so do the stages behind it that read nothing else. These steps run once per inversion, and edits start at the
first step that does read what they move. Where that is a stage which the method also has as a chain, they start inside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from sdic_runtime.program import Cut, Method, Program, Step


@dataclass(frozen=True)
class Split:
    """A program in two: `still` takes what the inversion holds, and gives what `rest` takes of it, under the names of its values."""

    still: Program
    rest: Program


def first_row(before: np.ndarray, after: np.ndarray) -> int:
    """The first style row in which codes [N, L, C] differ; L where none does."""
    moved = np.flatnonzero((before != after).any((0, 2)))
    return int(moved[0]) if len(moved) else before.shape[1]


def pays(cut: Cut, still: Program, least: float) -> bool:
    """Whether the share `least` of a stage's parts is among the `still` steps, so that it is worth running it in parts."""
    away = {step.stage for step in still.steps}
    return sum(part in away for part in cut.stages) >= least * len(cut.stages)


def split(method: Method, program: str, moved: Collection[str], codes: Collection[str], row: int, cut: Collection[str]) -> Split | None:
    """The program for edits that change what is `moved` of what it takes, of which the latent `codes` only from the style row `row` on.
    `cut`: the stages that may be run as their chains. None where every step must run."""
    whole = method.programs[program]
    still: list[Step] = []
    rest: list[Step] = []
    changed = set(moved)

    def is_still(step: Step) -> bool:
        reads_before = method.rows.get(step.stage, method.sizes["L"]) <= row
        return all(value not in changed or (value in codes and reads_before) for value in step.inputs.values())

    for index, step in enumerate(whole.steps):
        parts = [step] if is_still(step) or step.stage not in cut else list(expanded(method, step, f"{index}."))
        if not is_still(parts[0]):
            parts = [step]
        for part in parts:
            if is_still(part):
                still.append(part)
            else:
                rest.append(part)
                changed |= set(part.outputs.values())
    made = {value for step in still for value in step.outputs.values()}
    read = dict.fromkeys([*(value for step in rest for value in step.inputs.values()), *whole.gives.values()])
    kept = [value for value in read if value in made]
    if not kept:
        return None
    first = _program(whole, still, {value: value for value in kept})
    last = _program(whole, rest, whole.gives)
    return Split(first, msgspec.structs.replace(last, takes=(*last.takes, *kept)))


def expanded(method: Method, step: Step, prefix: str) -> Iterator[Step]:
    """The steps of the cut of a stage in place of one that runs it; `prefix` is for the values in between."""
    whole, cut = method.stages[step.stage], method.cuts[step.stage]
    names = {**step.inputs, **{tensor: step.outputs.get(tensor, prefix + tensor) for tensor in whole.outputs}}
    for part in cut.steps:
        inputs, outputs = (
            {tensor: names.get(value, prefix + value) for tensor, value in bound.items()} for bound in (part.inputs, part.outputs)
        )
        yield Step(part.stage, inputs, outputs)


def _program(whole: Program, steps: Sequence[Step], gives: Mapping[str, str]) -> Program:
    """Some of the steps of a program, with what they take of what it takes."""
    read = {*(value for step in steps for value in step.inputs.values()), *gives.values()}
    takes = tuple(name for name in whole.takes if name in read)
    return Program(takes, tuple(steps), dict(gives), tuple(name for name in takes if name in whole.zeros))
