"""Pivotal tuning (Roich et al. 2022): the generator's weights are moved until it gives a picture from the code that an inversion found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.restyle import ReStyle
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.sfe.model import SFE
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.chance import random_of

BETAS = (0.9, 0.999)  # of Adam
MAPPING = "style."  # the parameters of the mapping network, which is not tuned


@dataclass(frozen=True)
class TuningRecipe:
    """The release's weights and rates. `locality` is off there and 0.1 in the paper."""

    rate: float = 3e-4
    l2: float = 1.0
    perceptual: float = 1.0
    stop: float = 0.06  # of a single picture, when its perceptual distance is no larger
    locality: float = 0.0  # weight of both distances between the tuned and the untouched generator around the pivot
    reach: float = 30.0  # how far from the pivot these are compared
    truncation: float = 0.5  # of the random codes that say in which direction
    seed: int = 0


@dataclass(frozen=True)
class TuningStep:
    """The losses of one step, before it: of `picture`, and their weighted sum with that of locality."""

    picture: int
    l2: float
    perceptual: float
    total: float
    locality: float


class Tuning:
    """A tuning of `generator`, in place, to the pictures `targets` [N, 3, R, R] in [-1, 1] at the codes `pivots` [N, L, C].

    `perceptual`: pictures a, b -> [N] distances, such as LPIPS; None where the recipe gives it no weight. `mean_code` [C] or [L, C]: centre
    of the truncation. Raises ArgumentError.
    """

    def __init__(
        self,
        generator: Generator,
        pivots: Tensor,
        targets: Tensor,
        recipe: TuningRecipe,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        mean_code: Tensor | None = None,
    ) -> None:
        side = generator.config.resolution
        if targets.shape != (len(pivots), 3, side, side) or not len(pivots):
            raise ArgumentError(f"the targets are {list(targets.shape)}; tuning needs a picture of {side} x {side} for each of the pivots")
        if recipe.perceptual and perceptual is None:
            raise ArgumentError("the loss perceptual needs a network; name its weights with --perceptual, or use --set perceptual=0")
        self.generator, self.pivots, self.targets, self.recipe, self.perceptual = generator, pivots, targets, recipe, perceptual
        self.mean_code = generator.mean_latent() if recipe.locality and mean_code is None else mean_code
        self.trained = [weight for name, weight in generator.named_parameters() if not name.startswith(MAPPING)]
        self.untouched = copy.deepcopy(generator).requires_grad_(False) if recipe.locality else None
        generator.requires_grad_(False)
        for weight in self.trained:
            weight.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.trained, lr=recipe.rate, betas=BETAS)

    def steps(self, count: int) -> Iterator[TuningStep]:
        """At most `count` steps per picture, which take turns; what each found is yielded behind it. A single picture ends early where its
        perceptual distance is small enough, before the step."""
        for step in range(count * len(self.pivots)):
            number = step % len(self.pivots)
            found, total = self._losses(number, step)
            if len(self.pivots) == 1 and self.recipe.perceptual and found.perceptual <= self.recipe.stop:
                yield found
                return
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            self.optimizer.step()
            yield found

    def random_code(self, step: int) -> Tensor:
        """z [1, C] of a step's locality."""
        random = random_of(self.recipe.seed, step)
        return torch.randn(1, self.generator.config.style_width, generator=random)

    def _losses(self, number: int, step: int) -> tuple[TuningStep, Tensor]:
        pivot, target = self.pivots[number : number + 1], self.targets[number : number + 1]
        squared, perceptual = self._distances(self.generator(pivot), target)
        total = self.recipe.l2 * squared + self.recipe.perceptual * perceptual
        locality = torch.zeros_like(total)
        if self.untouched is not None:
            near, still = self._around(pivot, step), [torch.zeros_like(noise) for noise in self.generator.noises.maps()]
            with torch.no_grad():
                before = self.untouched(near, still)
            locality = self.recipe.locality * sum(self._distances(self.generator(near, still), before), torch.zeros_like(total))
            total = total + locality
        values = (float(value.detach()) for value in (squared, perceptual, total, locality))
        return TuningStep(number, *values), total

    def _distances(self, picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error and perceptual distance."""
        rows = slice(*self.generator.config.visible_rows)  # without the bars of a letterboxed domain
        picture, target = picture[:, :, rows], target[:, :, rows]
        squared = F.mse_loss(picture, target)
        return squared, self.perceptual(picture, target).mean() if self.perceptual is not None else torch.zeros_like(squared)

    @torch.no_grad()
    def _around(self, pivot: Tensor, step: int) -> Tensor:
        """A code at the distance `reach` from `pivot` [1, L, C], towards a random one of the mapping network."""
        assert self.mean_code is not None
        code = self.generator.mapping(self.random_code(step).to(pivot.device))[:, None]
        towards = self.mean_code + self.recipe.truncation * (code - self.mean_code) - pivot
        return pivot + self.recipe.reach * towards / towards.norm()


@torch.no_grad()
def pivots_of(model: nn.Module, images: Tensor) -> Tensor:
    """The codes [N, L, C] that the encoder of `model` gives for `images` [N, 3, S, S], by its last iteration where it iterates. Of a method
    that adds to the generator's feature, this is the code alone. Raises ArgumentError for a model without an encoder."""
    if isinstance(model, ReStyle):
        latent, reconstruction = model.start(images)
        for step in range(model.iterations):
            reconstruction = model.shrink(model.generator(latent)) if step else reconstruction
            latent = model.step(images, reconstruction, latent)
        return latent
    if isinstance(model, Encoded | SDIC | SFE):
        return model.encode(images)
    raise ArgumentError("the model has no encoder that gives a code to tune around; give one with --pivot")
