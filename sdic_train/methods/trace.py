"""A chain function becomes a program: it runs once on a backend that computes nothing and records what it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from sdic_runtime.program import Method, Program, Step, check

if TYPE_CHECKING:
    from sdic_train.methods.base import Chain, MethodCode


class Recorder:
    """What a chain sees as its backend: tensors are the names of values. A value is called as the stage's output is, with _2, _3, ... where
    that name is taken."""

    def __init__(self, takes: Sequence[str]) -> None:
        self.steps: list[Step] = []
        self._taken = set(takes)

    def run(self, stage: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
        values = {output: self._new(output) for output in outputs}
        self.steps.append(Step(stage, dict(inputs), dict(values)))
        return values

    def _new(self, output: str) -> str:
        names = chain([output], (f"{output}_{number}" for number in count(2)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def trace(function: Chain, takes: Sequence[str], zeros: Sequence[str] = ()) -> Program:
    """The program of `function`: (backend, **tensors `takes` by name) -> tensors by name. The host fills `zeros` with zeros."""
    recorder: Any = Recorder(takes)
    gives = function(recorder, **{name: name for name in takes})
    return Program(tuple(takes), tuple(recorder.steps), gives, tuple(zeros))


def method_of(code: MethodCode, config: Any) -> Method:
    """The method as data, for a model of `config`. Raises BundleError where its tables and chains do not fit together."""
    code = code.for_model(config)
    tables = code.tables(config)
    programs = {name: trace(function, code.takes(name), code.zeros.get(name, ())) for name, function in code.chains.items()}
    method = Method(
        method=code.name,
        sizes=tables.sizes,
        tensors=tables.tensors,
        stages=tables.stages,
        programs=programs,
        keeps=code.keeps,
        moves=dict(code.moves),
    )
    check(method)
    return method
