"""Steps as CUDA graphs: what a step computes on a GPU is recorded once and then repeated, without Python between its kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdic_train.trainers.compute import Losses

EAGER_STEPS = 5  # of a phase, before it is recorded
TOLERANCE = 0.05  # of a recorded step's losses, as a share; convolutions in half precision are not the same twice

Work = Callable[[Sequence[Tensor], Losses], None]  # reads tensors of a batch, adds losses, and leaves gradients


@dataclass(frozen=True)
class Recorded:
    """A step: where its batch is written, where its losses and gradients appear."""

    graph: Any
    inputs: list[Tensor]
    values: dict[str, list[Tensor]]
    gradients: list[Tensor | None]


class Graphs:
    """Does a trainer's work, and records it when its phase has lasted a few steps. `weights`: those that get gradients.

    A phase is everything that changes what a step computes beside the batch and the rates; None is never recorded. Where recording fails
    or gives other losses, that is said once, and all goes on without. `apart`: what recording is done inside, see `Trainer.one_off`.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], report: Callable[[str], None], apart: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self.weights, self.report, self.apart, self.works = list(weights), report, apart, True
        if torch.cuda.is_available():  # nothing is recorded on the stream that all begin with
            if self.weights and self.weights[0].is_cuda:
                torch.cuda.set_device(self.weights[0].device)
            torch.cuda.synchronize()
            torch.cuda.set_stream(torch.cuda.Stream())
        self._phase: Hashable = None
        self._steps = 0
        self._recorded: Recorded | None = None

    def run(self, phase: Hashable, work: Work, batch: Sequence[Tensor], losses: Losses) -> None:
        """`work` on `batch`, whose tensors keep their shapes; its losses are added to `losses`."""
        if phase != self._phase:
            self._phase, self._steps, self._recorded = phase, 0, None
        self._steps += 1
        if self._recorded is None:
            work(batch, losses)
            if self.works and phase is not None and self._steps == EAGER_STEPS:
                with self.apart():
                    self._try(work, batch, losses)
            return
        self._repeat(self._recorded, batch)
        losses.values = dict(self._recorded.values)

    def _repeat(self, recorded: Recorded, batch: Sequence[Tensor]) -> None:
        for place, tensor in zip(recorded.inputs, batch, strict=True):
            place.copy_(tensor, non_blocking=True)
        recorded.graph.replay()
        for weight, gradient in zip(self.weights, recorded.gradients, strict=True):
            weight.grad = gradient

    def _try(self, work: Work, batch: Sequence[Tensor], losses: Losses) -> None:
        """Record `work`, and keep the record if it repeats `losses`, those of `batch`."""
        wanted, problem = losses.means(), ""
        try:
            recorded = self.record(work, batch, losses)
            self._repeat(recorded, batch)
            again = Losses(losses.compute)
            again.values = recorded.values
            found = again.means()
            other = [name for name in wanted if not math.isclose(wanted[name], found[name], rel_tol=TOLERANCE, abs_tol=1e-3)]
            if other:
                problem = f"{other[0]} became {found[other[0]]:g} and not {wanted[other[0]]:g}"
        except RuntimeError as error:
            problem = str(error).partition("\n")[0]
        if problem:
            self.works = False
            self._forget()
            work(batch, Losses(losses.compute))  # the gradients of this step
            self.report(f"steps are not CUDA graphs: {problem}")
        else:
            self._recorded = recorded
            self.report("steps are CUDA graphs from here on")

    def _forget(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def record(self, work: Work, batch: Sequence[Tensor], losses: Losses) -> Recorded:
        """`work` as a graph. Raises RuntimeError where it does something that a graph cannot hold."""
        self._forget()
        inputs = [tensor.clone() for tensor in batch]
        graph, inside = torch.cuda.CUDAGraph(), Losses(losses.compute)
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work(inputs, inside)
        return Recorded(graph, inputs, inside.values, [weight.grad for weight in self.weights])
