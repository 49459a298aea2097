"""What a method is in code: its tables, its chains as plain functions, and the networks behind its stages.

The exporter runs every chain once and writes what it saw into the bundle as programs; from then on a method is data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sdic_runtime.errors import ArgumentError, CheckpointError
from sdic_runtime.program import Axes, Cut, Move, Stage
from sdic_train.config import check_domain

if TYPE_CHECKING:
    from torch import nn

Tensor: TypeAlias = Any  # opaque to chains: they only hand tensors from stage to stage
Chain: TypeAlias = Callable[..., dict[str, Tensor]]  # (backend, **tensors by name) -> tensors by name
StageFunction: TypeAlias = Callable[..., dict[str, Tensor]]  # (**inputs by name) -> every output by name


@dataclass(frozen=True)
class Tables:
    """The part of a method that depends on the model: see `sdic_runtime.program.Method`."""

    sizes: dict[str, int]
    tensors: dict[str, Axes]
    stages: dict[str, Stage]
    rows: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, Cut] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MethodCode:
    """One method.

    `tables`: the configuration of a model -> its tables. `chains`: program -> function; its parameters behind the backend are what the
    program takes, its result is what the program gives. `zeros`: program -> those of its takes that the host fills with zeros. `keeps` and
    `moves`: see `sdic_runtime.program.Method`. `load`: checkpoint file, domain or None, further files that belong to the model -> the
    networks in evaluation mode, whose `config` `tables` reads and whose `generator` is the StyleGAN2; raises CheckpointError. `functions`:
    those networks, and the generator to use -> stage, or part of one -> function. A method that iterates has its number of `iterations`,
    and `unrolled`: another number -> the method with so many.
    `further`: program -> what its chain takes through `**`. `fitted`: a configuration -> the method for such models, where its chains and
    keeps depend on them. `terms`: what the released weights may be used for, where that is so little that who builds a bundle must agree.
    """

    name: str
    tables: Callable[[Any], Tables]
    chains: Mapping[str, Chain]
    keeps: tuple[str, ...]
    moves: Mapping[str, Move]
    zeros: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    load: Callable[..., nn.Module]
    functions: Callable[[Any, Any], dict[str, StageFunction]]
    iterations: int | None = None
    unrolled: Callable[[int], MethodCode] | None = None
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fitted: Callable[[Any], MethodCode] | None = None
    terms: str = ""

    def read(self, path: Path, domain: str | None, others: Sequence[Path] = ()) -> nn.Module:
        """What `load` gives; only where there are `others` need it take them. Raises CheckpointError."""
        if others and len(inspect.signature(self.load).parameters) < 3:
            raise CheckpointError(f'a model of the method "{self.name}" is one file; give no further files, such as {others[0]}')
        model: Any = self.load(path, domain, *((others,) if others else ()))
        config = getattr(model, "config", None)  # of any kind, where the method is another package's
        check_domain(path, getattr(config, "domain", None), domain)
        return model

    def takes(self, program: str) -> tuple[str, ...]:
        """The tensors that the chain of `program` takes, in order."""
        parameters = inspect.signature(self.chains[program]).parameters.values()
        named = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        return (*named[1:], *self.further.get(program, ()))

    def for_model(self, config: Any) -> MethodCode:
        """The method for models of `config`."""
        return self if self.fitted is None else self.fitted(config)

    def iterating(self, count: int | None, trained: int | None = None) -> MethodCode:
        """The method with `count` iterations; when None as many as its weights were `trained` with, and its own number where nobody says
        how many that were. Raises ArgumentError."""
        if count is None:
            return self if trained is None or self.unrolled is None else self.unrolled(trained)
        if self.unrolled is None:
            raise ArgumentError(f'the method "{self.name}" does not iterate; leave the number of iterations out')
        if count < 1:
            raise ArgumentError(f"the number of iterations is {count}; give at least 1")
        return self.unrolled(count)
