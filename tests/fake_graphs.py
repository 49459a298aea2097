"""CUDA graphs without CUDA: what is recorded is computed anew, from the places of its inputs into those of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sdic_train.trainers.compute import Losses
from sdic_train.trainers.loops.graphs import Graphs, Recorded, Work


@dataclass
class FakeGraph:
    """`replays`: how often it was repeated. `shift`: what its losses are off by."""

    work: Work
    inputs: list[Tensor]
    compute: Any
    weights: list[nn.Parameter]
    shift: float = 0.0
    replays: int = 0
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: list[Tensor | None] = field(default_factory=list)

    def replay(self) -> None:
        self.replays += 1
        for weight in self.weights:
            weight.grad = None
        losses = Losses(self.compute)
        self.work(self.inputs, losses)
        for name, values in losses.values.items():
            self.values.setdefault(name, [])[:] = [value + self.shift for value in values]
        self.gradients[:] = [weight.grad for weight in self.weights]


class FakeGraphs(Graphs):
    """`recorded`: all graphs so far. `shift`: of the losses of what is recorded. `fault`: what recording fails with."""

    def __init__(self, trainer: Any, shift: float = 0.0, fault: str = "") -> None:
        self.said: list[str] = []
        super().__init__(trainer.weights(), self.said.append)
        self.graphs: list[FakeGraph] = []
        self.shift, self.fault = shift, fault

    def record(self, work: Work, batch: Sequence[Tensor], losses: Losses) -> Recorded:
        if self.fault:
            raise RuntimeError(self.fault)
        graph = FakeGraph(work, [tensor.clone() for tensor in batch], losses.compute, self.weights, self.shift)
        self.graphs.append(graph)
        return Recorded(graph, graph.inputs, graph.values, graph.gradients)
