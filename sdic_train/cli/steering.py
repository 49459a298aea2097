"""What `sdic-train directions steer` does: pairs, a training of each direction, and how far it reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typer import echo

from sdic_runtime.directions import save_direction
from sdic_runtime.errors import ArgumentError, CheckpointError
from sdic_runtime.progress import progress
from sdic_train.cli.options import check_training_seed
from sdic_train.data.pairs import Pair, drawn_pairs, read_pairs
from sdic_train.directions.steered import TRIED, Steering, SteeringRecipe, as_direction, reached
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.pipelines import Weights
from sdic_train.portraits.portraits import ATTRIBUTES, PARAMETERS
from sdic_train.trainers.compute import Compute
from sdic_train.tune import pictures_of

METHODS = ("sdic", "e4e", "psp")
FURTHER = 2  # pairs from side to side for each that is to stay on its own


@dataclass(frozen=True)
class Plan:
    """How directions are trained."""

    model: Path
    out: Path
    steps: int
    recipe: SteeringRecipe
    compute: Compute
    perceptual: nn.Module | None

    def networks(self) -> Any:
        """Those of the checkpoint. Raises CheckpointError for another method's."""
        code, model = Weights(self.model).read()
        if code.name not in METHODS or not isinstance(model, Encoded):
            raise CheckpointError(f'"{self.model}" is of {code.name}; directions are steered with a checkpoint of {", ".join(METHODS)}')
        return model

    def trained(self, model: Encoded, pairs: Iterable[Pair], count: int, name: str) -> Steering:
        """A direction trained on the pairs."""
        judge = None if self.perceptual is None else self.perceptual.to(self.compute.device).eval().requires_grad_(False)
        steering = Steering(model, self.recipe, self.compute, judge)
        for pair in progress(pairs, f"{name}: pairs", count, "pair"):
            steering.add(pair)
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        for last in progress(steering.train(self.steps), f"{name}: steps", self.steps, "step"):
            first = first or last
        echo(f"{name}: " + ", ".join(f"{loss} {first[loss]:.4f} -> {last[loss]:.4f}" for loss in first), err=True)
        return steering

    def save(self, steering: Steering, name: str, count: int, amounts: tuple[float, float], said: str = "") -> None:
        """Write the direction whose range brings these amounts of its step."""
        method = f"trained on {count} pairs of pictures in {self.steps} steps{said}"
        direction = as_direction(steering.step, amounts, name, method)
        save_direction(self.out / f"{name}.safetensors", direction)
        assert direction.strength_range
        echo(f"{self.out / name}.safetensors: strengths {direction.strength_range[0]:g} to {direction.strength_range[1]:g}")


def steer_pairs(plan: Plan, path: Path, name: str) -> None:
    """The direction of a user's own pairs; its range is that of their amounts."""
    pairs, model = read_pairs(path), plan.networks()

    def opened() -> Iterator[Pair]:
        for before, after, amount in pairs:
            both = pictures_of([before, after], model.config, model.config.working)
            yield Pair(both[:1], both[1:], amount)

    steering = plan.trained(model, opened(), len(pairs), name)
    plan.save(steering, name, len(pairs), steering.amounts)


def steer_drawn(plan: Plan, names: Sequence[str], count: int, seed: int, reader: PortraitReader | None) -> None:
    """The directions of attributes of drawn portraits. With a reader, their ranges go from side to side, where that is worth it."""
    names = [name.strip() for name in names]
    if unknown := [name for name in names if name not in ATTRIBUTES]:
        raise ArgumentError(f'"{unknown[0]}" is no attribute of a portrait; use some of {", ".join(ATTRIBUTES)}')
    check_training_seed("--seed", seed)
    model = plan.networks()
    for name in names:
        size, further = model.config.working, count // FURTHER
        pairs = chain(drawn_pairs(name, count, size, seed), drawn_pairs(name, further, size, seed, further=True))
        steering = plan.trained(model, pairs, count + further, name)
        times, said = 1.0, ""
        if reader is not None:
            place, entry = next((place, entry) for place, entry in enumerate(PARAMETERS) if entry.name == name)
            asked, found = steering.moved(partial(_parameter, reader.to(plan.compute.device), place), TRIED)
            times, far = reached(entry.span, found)
            far, perfect = far / entry.span, asked / entry.span
            said = f"; its range moves photos by {far:.2f} of the distance between the sides, a perfect edit by {perfect:.2f}"
        plan.save(steering, name, count + further, (-times, times), said)


def _parameter(reader: PortraitReader, place: int, pictures: Tensor) -> Tensor:
    return reader(pictures)[:, place]
