"""Training of ReStyle over pSp and over e4e (Alaluf et al. 2021): the losses of every iteration, one step of the optimizer for all."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdic_train.networks.restyle import ReStyle
from sdic_train.trainers.adversaries import Adversary, LatentDiscriminator
from sdic_train.trainers.chance import random_of
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.encoder import REAL_SAMPLES, RowByRow, closed
from sdic_train.trainers.methods.method import MethodRecipe, MethodTrainer


@dataclass(frozen=True)
class ReStyleRecipe(MethodRecipe):
    """`iterations` of one step. The others are of the form over e4e: see `EncoderRecipe`."""

    iterations: int = 5
    delta: float = 0.0
    last_delta: bool = False  # go on with `delta` once all rows have their own offsets
    latent_adversarial: float = 0.0
    latent_rate: float = 2e-5
    latent_r1: float = 10.0
    latent_r1_every: int = 16
    raw_codes: bool = False  # show the discriminator the first iteration's offsets without the mean code, as the released code does
    first_delta: int = -1
    delta_every: int = 2_000


class ReStyleTrainer(RowByRow, MethodTrainer):
    """The encoder; between iterations nothing is differentiated. The losses that are logged are the last iteration's."""

    kind = "restyle"
    losses = ("total", "l2", "perceptual", "identity", "delta", "latent_adversarial", "latent_discriminator")
    parts = ("encoder", "generator")

    def __init__(self, model: ReStyle, recipe: ReStyleRecipe, pictures: Any, compute: Compute, steps: int, *judges: Any) -> None:
        super().__init__(model, [model.encoder], recipe, pictures, compute, steps, *judges)
        self.check_rows(model.config.encoder.form)
        if recipe.latent_adversarial:
            discriminator = LatentDiscriminator(model.config.style_width)
            self.latent = Adversary(discriminator, compute, recipe.latent_rate, (0.9, 0.999), recipe.latent_r1, recipe.latent_r1_every)
            self.kept = (*self.kept, "latent")

    def train_step(self, losses: Losses) -> None:
        self.codes: list[Tensor] = []
        super().train_step(losses)
        if self.recipe.latent_adversarial:
            random = random_of(self.recipe.seed, (1 << 31) + self.step)
            z = torch.randn(self.compute.batch * REAL_SAMPLES, self.config.style_width, generator=random)
            z = z.to(self.compute.device, non_blocking=True)
            with torch.no_grad():
                real = self.model.generator.mapping(z)
            self.latent.advance(real, torch.cat(self.codes).flatten(0, 1), self.step, losses, "latent_discriminator")

    def phase(self) -> Hashable:
        return None if self.recipe.latent_adversarial or super().phase() is None else (super().phase(), self._deltas())

    def part(self, image: Tensor, *rest: Tensor, losses: Losses) -> None:
        latent, reconstruction = self.model.start(image)
        for iteration in range(self.recipe.iterations):
            with self.compute.autocast():
                offsets = self.model.encoder(torch.cat((image, reconstruction), 1), self._deltas()).float()
                code = latent + offsets
                picture = self.model.generator(code)
            terms = {**self.compare(image, picture), **self._of_code(code)}
            total = self.weighted(terms)
            self.compute.backward(total)
            if iteration == 0:
                self.codes.append((offsets if self.recipe.raw_codes else code).detach())
            latent, reconstruction = code.detach(), self.model.shrink(picture.detach().float())
        losses.add(total=total, **terms)

    def _of_code(self, latent: Tensor) -> dict[str, Tensor]:
        """The losses of the code alone."""
        terms = dict[str, Tensor]()
        if self.recipe.delta and (self.recipe.last_delta or self._deltas() is not None):
            offsets = latent - self.model.latent_avg
            terms["delta"] = (offsets[:, 1:] - offsets[:, :1]).norm(dim=2).mean(0).sum()
        if self.recipe.latent_adversarial:
            terms["latent_adversarial"] = self.latent.term(latent.flatten(0, 1))
        return terms

    def settle(self) -> None:
        with closed(self.model.encoder, self._open):
            super().settle()

    def sheet(self) -> Any:
        with closed(self.model.encoder, self._open):
            return super().sheet()

    def save(self, path: Path) -> None:
        with closed(self.model.encoder, self._open):
            super().save(path)
