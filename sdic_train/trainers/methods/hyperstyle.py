"""Training of HyperStyle's hypernetwork (Alaluf et al. 2022): the losses after every iteration, one step of the optimizer for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.methods.method import MethodRecipe, MethodTrainer


@dataclass(frozen=True)
class HyperStyleRecipe(MethodRecipe):
    """`shallow` gives every group of the backbone one unit, and the blocks a share of the code's width."""

    iterations: int = 5
    shallow: bool = False
    spread: float = 0.01  # deviation of the changes' last layers at the start, times that of a usual layer; 0: no change at first


class HyperStyleTrainer(MethodTrainer):
    """The hypernetwork; the encoder into W and the generator stay as they are. The losses that are logged are the last iteration's."""

    kind = "hyperstyle"
    losses = ("total", "l2", "perceptual", "identity")
    parts = ("encoder", "generator", "hypernet")

    def __init__(self, model: HyperStyle, recipe: HyperStyleRecipe, pictures: Any, compute: Compute, steps: int, *judges: Any) -> None:
        super().__init__(model, [model.hypernet], recipe, pictures, compute, steps, *judges)

    def part(self, image: Tensor, *rest: Tensor, losses: Losses) -> None:
        model = self.model
        with torch.no_grad(), self.compute.autocast():
            latent, deltas = model.encode(image).float(), model.start(image)
            reconstruction = model.shrink(model.render(latent, deltas).float())
        for _ in range(self.recipe.iterations):
            with self.compute.autocast():
                steps = model.hypernet.steps(model.hypernet.backbone(image, reconstruction))
                changes = [before + step.float() for before, step in zip(deltas, steps, strict=True)]
                picture = model.render(latent, changes)
            terms = self.compare(image, picture)
            total = self.weighted(terms)
            self.compute.backward(total)
            deltas, reconstruction = [change.detach() for change in changes], model.shrink(picture.detach().float())
        losses.add(total=total, **terms)
