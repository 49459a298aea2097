"""Directions that are trained on pairs of pictures, before and after: "steerability" (Jahanian et al. 2020), through a method's own edits.

The direction of a linear machine separates codes, and moves whatever goes along with the attribute. A trained one is asked for the picture
itself, by the networks that will show it, with what they compensate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_train.data.pairs import Pair
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.compute import Compute

LOWEST_RATE = 0.05  # share of the rate at the end
MEASURED = 64  # pairs on which it is measured how far edits move
TRIED = (1.0, 1.25, 1.5, 1.75, 2.0)  # times the trained step
WORTH = 1 / 3  # of what a share of the trained step brings, that the same share beyond it must bring


@dataclass(frozen=True)
class SteeringRecipe:
    """Weights and rates."""

    rate: float = 0.02  # of a number of the direction, as a share of their mean size; it falls to a twentieth
    pixels: float = 1.0  # mean absolute difference on [-1, 1]
    perceptual: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class _Kept:
    """What an edit of one picture needs of its inversion: the code, of SDIC also the enhanced one and the residual; `wanted`
    [1, 3, S, S]."""

    inversion: tuple[Tensor, ...]
    wanted: Tensor
    amount: float
    further: bool


class Steering:
    """Pairs of pictures, inverted by SDIC or an encoder on the plain generator, and a direction [L, C] that brings one to the other.

    An edit of `before` is compared with `after`, to which is added what the inversion of `before` lacks: an edit need not correct that.
    `perceptual`: pictures a, b -> [N] distances, such as LPIPS; None where the recipe gives it no weight. Raises ArgumentError.
    """

    def __init__(
        self, model: Encoded, recipe: SteeringRecipe, compute: Compute, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        if recipe.perceptual and perceptual is None:
            raise ArgumentError("the loss perceptual needs a network; name its weights with --perceptual, or use --set perceptual=0")
        self.model, self.recipe, self.compute = model.to(compute.device).eval().requires_grad_(False), recipe, compute
        self.perceptual, self.side = perceptual, model.config.working
        self.step = torch.zeros(model.config.rows, model.config.style_width, device=compute.device)  # [L, C], for an amount of 1
        self._kept: list[_Kept] = []
        self._codes: list[Tensor] = []

    @torch.no_grad()
    def add(self, pair: Pair) -> None:
        """Invert a pair's first picture, and keep what its edits need."""
        before, after = pair.before.to(self.compute.device), pair.after.to(self.compute.device)
        inversion: tuple[Tensor, ...]
        if isinstance(self.model, SDIC):
            found = self.model.invert(before)
            inversion, picture = (found.latent, found.latent_enhanced, found.residual), found.picture
        else:
            inversion = (self.model.encode(before),)
            picture = self.model.generator(*inversion)
        lacks = downsample(picture.clamp(-1, 1), self.side) - before
        self._kept.append(_Kept(inversion, after + lacks, pair.amount, pair.further))
        if not pair.further:
            self._codes.append((self.model.encode(after) - inversion[0])[0] / pair.amount)

    @property
    def amounts(self) -> tuple[float, float]:
        """The smallest and the largest amount of all pairs, from 0 at least."""
        amounts = [0.0, *(kept.amount for kept in self._kept)]
        return min(amounts), max(amounts)

    def edited(self, chosen: list[_Kept], times: float = 1.0) -> Tensor:
        """The pictures [N, 3, S, S] after edits by `times` their amounts of the step."""
        inversion = [torch.cat(parts) for parts in zip(*(kept.inversion for kept in chosen), strict=True)]
        delta = torch.tensor([times * kept.amount for kept in chosen], device=self.step.device)[:, None, None] * self.step
        if isinstance(self.model, SDIC):
            latent, enhanced, residual = inversion
            return downsample(self.model.moved(latent, enhanced, residual, delta).float(), self.side)
        return downsample(self.model.generator(inversion[0] + delta).float(), self.side)

    def train(self, steps: int) -> Iterator[dict[str, float]]:
        """Train `step`, and yield the losses. It begins as the mean difference of the encoder's codes of `after` and `before`."""
        if not self._kept:
            raise ArgumentError("there are no pairs to train a direction on; give at least one")
        recipe, random = self.recipe, torch.Generator().manual_seed(self.recipe.seed)
        self.step = torch.stack(self._codes).mean(0)
        rate = recipe.rate * float(self.step.square().mean().sqrt())
        if not 0 < rate < math.inf:
            raise ArgumentError("the pictures of the pairs have the same codes; give pairs of pictures that differ")
        self.step.requires_grad_(True)
        optimizer = torch.optim.Adam([self.step], lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda index: max(LOWEST_RATE, 1 - index / steps))
        for _ in range(steps):
            chosen = [self._kept[index] for index in torch.randint(len(self._kept), (self.compute.batch,), generator=random).tolist()]
            wanted = torch.cat([kept.wanted for kept in chosen])
            with self.compute.autocast():
                picture = self.edited(chosen)
            losses = {"pixels": (picture - wanted).abs().mean()}
            if self.perceptual is not None and recipe.perceptual:
                losses["perceptual"] = self.perceptual(picture.clamp(-1, 1), wanted.clamp(-1, 1)).mean()
            optimizer.zero_grad(set_to_none=True)
            torch.stack([getattr(recipe, name) * loss for name, loss in losses.items()]).sum().backward()
            optimizer.step()
            schedule.step()
            yield {name: float(loss.detach()) for name, loss in losses.items()}
        self.step.requires_grad_(False)

    @torch.no_grad()
    def moved(self, read: Callable[[Tensor], Tensor], times: Sequence[float]) -> tuple[float, list[float]]:
        """The mean change of what `read` says of pictures, [N], between the pictures of up to 64 pairs, and where the first ones are edited
        by so many `times` their amounts; along the amounts' signs."""
        there = [kept for kept in self._kept if not kept.further]
        chosen = [there[index] for index in np.linspace(0, len(there) - 1, min(MEASURED, len(there))).astype(int)]
        sums = np.zeros(1 + len(times))
        for kept in chosen:
            pictures = [self.edited([kept], 0.0), kept.wanted, *(self.edited([kept], share) for share in times)]
            before, *after = (float(read(picture.clamp(-1, 1))) for picture in pictures)
            sums += (np.array(after) - before) * math.copysign(1, kept.amount)
        asked, *found = (float(total) / len(chosen) for total in sums)
        return asked, found


def reached(asked: float, found: Sequence[float]) -> tuple[float, float]:
    """How many times the trained step an edit may be, and how far that moves: as far as `asked`, if every quarter of a step on the way is
    worth it. `found`: how far `TRIED` move."""
    least = WORTH * found[0] / TRIED[0]
    for place in range(1, len(TRIED)):
        before, after = found[place - 1 : place + 1]
        span = TRIED[place] - TRIED[place - 1]
        if before >= asked or after - before < least * span:
            return TRIED[place - 1], before
        if after >= asked:
            share = (asked - before) / (after - before)
            return TRIED[place - 1] + share * span, asked
    return TRIED[-1], found[-1]


def as_direction(step: Tensor, amounts: tuple[float, float], name: str, method: str) -> Direction:
    """A step [L, C] as a direction whose rows have a mean length of 1, and whose range brings these amounts of the step."""
    length = float(step.norm(dim=1).mean())
    low, high = (float(f"{amount * length:.2g}") for amount in amounts)
    return Direction((step / length).cpu().numpy(), name, method, (low, high))
