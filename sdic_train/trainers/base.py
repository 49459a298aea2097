"""What all trainers share: the state of a run, its random numbers, its rates, and the networks that judge pictures."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.config import ModelConfig
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.chance import random_of
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.loops.graphs import Graphs
from sdic_train.trainers.loops.run import SOURCES
from sdic_train.trainers.pictures import scaled, shown_rows

if TYPE_CHECKING:
    from PIL import Image

Model = TypeVar("Model", bound=nn.Module)
Judge = nn.Module | None  # the network of a loss, where there is one


class Trainer(ABC):
    """One training. Everything random in step k follows from (seed, k), so that a resumed run repeats an undisturbed one.

    `kind`: what it trains. `losses`: the columns of the log. `kept`: the attributes with a `state_dict` that a resumed run needs. A recipe
    is a dataclass of plain values with at least `seed`, `warm_up` and `decay`. `once`: seconds that it spent on what does not come again.
    `sources`: what it learns from, see `loops.sources`.
    """

    kind: str
    losses: tuple[str, ...]
    kept: tuple[str, ...]
    graphs: Graphs | None = None  # what records its steps, where it may
    recorded: bool = True  # whether they can be
    lowest_rate: float = 0.05  # where the rates fall to over the last `decay` of the steps, as a share
    recipe: Any

    def __init__(self, config: ModelConfig | None, recipe: Any, pictures: PictureSet, compute: Compute, steps: int) -> None:
        self.config: Any = config
        self.recipe, self.pictures, self.compute, self.steps = recipe, pictures, compute, steps
        self.step, self.once = 0, 0.0
        self.sources: dict[str, Any] = {}

    @contextmanager
    def one_off(self) -> Iterator[None]:
        """What a run does once: its seconds are added to `once`, so that they are not taken for the pace of the steps."""
        self.compute.synchronize()
        start = time.perf_counter()
        yield
        self.compute.synchronize()
        self.once += time.perf_counter() - start

    def advance(self, read: bool = True) -> dict[str, float]:
        """One step, and `step` grows by one; returns its losses. Without `read` none, and nobody waits for the device."""
        losses = Losses(self.compute)
        self.train_step(losses)
        self.step += 1
        return losses.means() if read else {}

    @abstractmethod
    def train_step(self, losses: Losses) -> None:
        """Computes one step and adds its losses to `losses`."""

    @property
    def beginning(self) -> int:
        """The step that its optimizer began with."""
        return 0

    def phase(self) -> Hashable:
        """What a step computes now beside its batch and its rates, see `Graphs`; None: what may change from step to step."""
        return None

    def weights(self) -> list[nn.Parameter]:
        """What its optimizers change."""
        optimizers = [value for value in vars(self).values() if isinstance(value, torch.optim.Optimizer)]
        return [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]

    def computed(self, work: Callable[[Sequence[Tensor], Losses], None], batch: Sequence[Tensor], losses: Losses) -> None:
        """`work` on a batch, recorded where that may be."""
        if self.graphs is None:
            work(batch, losses)
        else:
            self.graphs.run(self.phase() if self.compute.accumulate == 1 else None, work, batch, losses)

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes the model as a checkpoint."""

    def sheet(self) -> Image.Image | None:
        """A picture that shows how far the training is."""
        return None

    def remark(self) -> str:
        """What somebody who uses the result should know, in a sentence; "" where there is nothing."""
        return ""

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in self.kept}}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name in self.kept:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def describe(self) -> dict[str, Any]:
        """The recipe, for the run's folder and for the check that a resumed run is the same one."""
        config = {"config": self.config.as_dict()} if self.config else {}
        rest = {"steps": self.steps, "batch": self.compute.batch, "precision": self.compute.precision}
        return {"kind": self.kind, **config, **rest, **asdict(self.recipe), **({SOURCES: self.sources} if self.sources else {})}

    def random(self) -> torch.Generator:
        """The random numbers of this step."""
        return random_of(self.recipe.seed, self.step)

    def scheduled(self, rate: float) -> float:
        """`rate` in this step: it rises over `warm_up` steps from the `beginning` and falls over the last share `decay` of all."""
        rise = min(1.0, (self.step + 1 - self.beginning) / max(1, self.recipe.warm_up))
        fall = min(1.0, max(self.lowest_rate, (self.steps - self.step) / max(1.0, self.recipe.decay * self.steps)))
        return rate * rise * fall

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms with the weights that the recipe has under their names."""
        return sum((getattr(self.recipe, name) * value for name, value in terms.items()), torch.zeros((), device=self.compute.device))

    def shown(self, size: int) -> Tensor:
        """Eight pictures from all over the set, for the sheet: [8, 3, size, size] in [-1, 1]."""
        index = np.linspace(0, len(self.pictures) - 1, 8).astype(int)
        return scaled(self.pictures, index, size, rows=shown_rows(self.config, size)).to(self.compute.device)

    def seen(self, pictures: Tensor) -> Tensor:
        """[N, C, S, S] without the bars of a letterboxed domain, which no loss compares."""
        rows = shown_rows(self.config, pictures.shape[-1])
        return pictures if rows is None else pictures[:, :, slice(*rows)]

    def begin(self, optimizer: torch.optim.Optimizer, *rates: float) -> None:
        """Gives the groups of parameters their rates of this step, and forgets the gradients of the last."""
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = self.scheduled(rate)
        optimizer.zero_grad(set_to_none=True)

    def update(self, optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
        """One step of `optimizer` with the gradients that all processes found for `module`."""
        self.compute.average_gradients(module.parameters())
        optimizer.step()

    def judges(self, perceptual: Judge, identity: Judge) -> dict[str, nn.Module]:
        """The networks of the losses that have a weight, frozen and in place. Raises ArgumentError for a loss without its network."""
        found = {}
        for name, network in {"perceptual": perceptual, "identity": identity}.items():
            if not (weight := getattr(self.recipe, name)):
                continue
            if network is None:
                raise ArgumentError(
                    f"the loss {name} has the weight {weight} and no network; name its weights with --{name}, or use --set {name}=0"
                )
            found[name] = network.to(self.compute.device).eval().requires_grad_(False)
        return found


def widen(model: Model) -> Model:
    """Puts two-dimensional convolutions into the channels-last layout: faster on a CPU, and what tensor cores prefer. Returns the model."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return model


def wide(pictures: Tensor) -> Tensor:
    """[N, C, H, W] in the channels-last layout."""
    return pictures.contiguous(memory_format=torch.channels_last)
