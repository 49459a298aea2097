"""What the trainers of all inversion methods share: some networks of a model train, the generator and all others stay as they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.checkpoints.load import ITERATIONS, save_checkpoint
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.base import Judge, Trainer, wide, widen
from sdic_train.trainers.chance import random_of
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.noise import new_noises, noise
from sdic_train.trainers.optimizers import check_optimizer, optimizer_of
from sdic_train.trainers.pictures import batch_pictures, sheet_of, shown_rows

SETTLING = 48  # batches over which the batch norms' statistics are averaged


@dataclass(frozen=True)
class MethodRecipe:
    """Weights and rates that all methods have. A loss with weight 0 is not computed."""

    rate: float = 1e-4
    optimizer: str = "ranger"
    warm_up: int = 0
    decay: float = 0.0  # last share of the steps over which the rate falls to a twentieth
    l2: float = 1.0  # at the working size on [-1, 1]
    perceptual: float = 0.8
    identity: float = 0.1
    encoder_norm: bool = False  # let the batch norm of frozen networks drift, as released code does
    random_noise: bool = False  # new generator noise for every picture in every step, as released code does
    mirror: bool = True
    settle_norm: int = 0  # from this step on the batch norm of what trains keeps its statistics, averaged over many batches; 0: never
    from_encoder: bool = False  # start the networks that fit e4e's from it
    new_inputs: float = 1.0  # deviation of what reads the reconstruction, in the first layer of a body that had three channels
    seed: int = 0


class MethodTrainer(Trainer):
    """One training of a method. A subclass says what a batch is beside its pictures (`drawn`) and what its losses are (`terms`).

    `parts`: the networks of the model that its checkpoint holds. `drifting`: frozen networks whose batch norm the recipe may let drift.
    """

    kept: tuple[str, ...] = ("trained", "optimizer")
    parts: tuple[str, ...]
    drifting: tuple[str, ...] = ()
    average: Tensor | None = None  # a picture that belongs to the model
    model: Any

    def __init__(
        self, model: Any, trained: Sequence[nn.Module], recipe: Any, pictures: PictureSet, compute: Compute, steps: int, *judges: Judge
    ) -> None:
        """`trained`: the networks of `model` that train. `judges`: the networks of the losses perceptual and identity."""
        super().__init__(model.config, recipe, pictures, compute, steps)
        check_optimizer(recipe)
        self.distances = self.judges(*judges)
        self.model = widen(model).to(compute.device)
        self.trained = nn.ModuleList(trained)
        model.requires_grad_(False)
        self.trained.requires_grad_(True)
        self.drift = nn.ModuleDict({name: getattr(model, name) for name in self.drifting if recipe.encoder_norm})
        self.kept = (*self.kept, *(["drift"] if self.drift else []))
        self.optimizer = optimizer_of(recipe, self.trained)

    def train_step(self, losses: Losses) -> None:
        recipe, compute, random = self.recipe, self.compute, self.random()
        if recipe.settle_norm and self.step == recipe.settle_norm:
            with self.one_off():
                self.settle()
        self.begin(self.optimizer, recipe.rate)
        images = self.batch(compute.batch, random)
        further = self.drawn(random)
        maps = new_noises(self.model.generator, random, compute.batch) if recipe.random_noise else []
        self.set_modes()
        for image, *rest in compute.parts(images, *further, *maps):
            with noise(self.model.generator, rest[len(further) :]):
                self.computed(self._part, (wide(image), *rest[: len(further)]), losses)
        self.update(self.optimizer, self.trained)

    def batch(self, count: int, random: torch.Generator) -> Tensor:
        """`count` pictures as the model takes them, [count, 3, S, S]."""
        size, mirror, device = self.config.working, self.recipe.mirror, self.compute.device
        return batch_pictures(self.pictures, count, size, random, mirror, device, shown_rows(self.config, size))[0]

    def _part(self, batch: Sequence[Tensor], losses: Losses) -> None:
        self.part(*batch, losses=losses)

    def phase(self) -> Hashable:
        return None if self.recipe.random_noise or self.drift else ("settled", self.settled)

    def drawn(self, random: torch.Generator) -> Sequence[Tensor]:
        """What a batch has beside its pictures: tensors [batch, ...]."""
        return ()

    def part(self, image: Tensor, *rest: Tensor, losses: Losses) -> None:
        """The losses and gradients of one part of a batch."""
        terms = self.terms(image, *rest)
        total = self.weighted(terms)
        self.compute.backward(total)
        losses.add(total=total, **terms)

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        """image [N, 3, S, S], and a part of what was drawn -> the losses, by their names in the recipe."""
        with self.compute.autocast():
            picture = self.model(image)
        return self.compare(image, picture)

    def compare(self, image: Tensor, *pictures: Tensor) -> dict[str, Tensor]:
        """The image losses of pictures [N, 3, R, R], averaged to the working size, against one image: their sums over the pictures."""
        terms: dict[str, Tensor] = {}
        size, image = image.shape[-1], self.seen(image)
        for picture in pictures:
            small = self.seen(pooled(picture, size)).float()
            with self.compute.autocast():
                found = {name: network(small, image).mean() for name, network in self.distances.items()}
            if self.recipe.l2:
                found["l2"] = F.mse_loss(small, image)
            terms = {name: terms.get(name, 0) + value for name, value in found.items()}
        return terms

    @property
    def settled(self) -> bool:
        """Whether the batch norm of what trains keeps its statistics now."""
        return 0 < self.recipe.settle_norm <= self.step

    @property
    def beginning(self) -> int:
        return self.recipe.settle_norm if self.step >= self.recipe.settle_norm else 0

    def set_modes(self) -> None:
        """What is frozen is in evaluation mode, batch norm too, unless the recipe asks otherwise."""
        self.model.eval()
        self.trained.train(not self.settled)
        self.drift.train()

    @torch.no_grad()
    def settle(self) -> None:
        """Replaces the batch norms' moving statistics by means over `SETTLING` batches: small batches make them jump, and a network that
        trains on its batches' statistics is another one when it is used. The optimizer begins anew: without the batches' statistics the
        gradients have other sizes, and with its memory of the old ones a good network can be lost within ten steps."""
        norms = [module for module in self.trained.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        self.model.eval()
        self.trained.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        for batch in range(SETTLING):
            random = random_of(self.recipe.seed, (1 << 30) + batch)
            images = self.batch(max(4, self.compute.batch), random)
            with self.compute.autocast():
                self.model(wide(images.to(self.compute.device)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.optimizer = optimizer_of(self.recipe, self.trained)

    @torch.no_grad()
    def sheet(self) -> Any:
        """Pictures above their inversions."""
        self.model.eval()
        image = self.shown(self.config.working)
        return sheet_of(image, downsample(self.model(image), self.config.working))

    def save(self, path: Path) -> None:
        model, trained = self.model, {"trained": f"{self.kind}, {self.step} steps"}
        if iterations := getattr(self.recipe, ITERATIONS, None):
            trained[ITERATIONS] = str(iterations)
        networks: dict[str, Any] = {name: getattr(model, name) for name in self.parts}
        save_checkpoint(path, self.config, model.latent_avg, trained, average=self.average, **networks)


def pooled(picture: Tensor, size: int) -> Tensor:
    """[N, 3, R, R] -> the means of its tiles, [N, 3, size, size]."""
    return picture if picture.shape[-1] == size else F.avg_pool2d(picture, picture.shape[-1] // size)
