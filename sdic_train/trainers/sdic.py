"""Training of DIPN and DICN on a frozen generator and encoder (Section 3.4, Eq. 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError, MissingExtraError
from sdic_train.checkpoints.load import save_checkpoint
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.sdic.dipn import ContextFusion
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.base import Judge, Trainer, wide, widen
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.pictures import batch_pictures, new_noises, sheet_of

SETTLING = 48  # batches over which the batch norms' statistics are averaged
NORMS = {"l1": F.l1_loss, "l2": F.mse_loss}
OPTIMIZERS = ("ranger", "adam")


@dataclass(frozen=True)
class SdicRecipe:
    """Weights and rates; the defaults are the paper's. A loss with weight 0 is not computed."""

    rate: float = 1e-3
    optimizer: str = "ranger"
    warm_up: int = 0
    decay: float = 0.0  # last share of the steps over which the rate falls to a twentieth
    l2: float = 1.0  # of Eq. 7, at the working size on [-1, 1]
    perceptual: float = 0.8
    identity: float = 0.2
    edit: float = 0.5  # of Eq. 9
    edit_norm: str = "l1"  # of Eq. 8; the released code takes l2, the mean squared error
    edit_feature: float = 1.0  # share of the layer-7 feature in Eq. 8; the released code takes 0.8
    edit_code: float = 1.0  # share of the latent code in Eq. 8; the released code takes 0.2
    encoder_norm: bool = False  # let the frozen encoder's batch norm drift, as the released code does
    random_noise: bool = False  # new generator noise in every step, as the released code does
    mirror: bool = True
    context: bool = True  # the spatial-contextual branches of Eq. 1 and 2; false is the paper's ablation
    settle_norm: int = 0  # from this step on DIPN's and DICN's batch norm keeps its statistics, averaged over many batches; 0: never
    silent_start: bool = False  # let DICN start from zero, so that the first inversions are the encoder's
    keep: bool = False  # continue from the DIPN and DICN in --model, whose batch norm keeps its statistics; false starts with new ones
    fusion: str = "attention"  # of DICN; "affine" is the paper's ablation
    seed: int = 0


class SdicTrainer(Trainer):
    """DIPN and DICN; the encoder and the generator stay as they are."""

    kind = "sdic"
    losses = ("total", "l2", "perceptual", "identity", "edit_feature", "edit_code")

    def __init__(self, model: SDIC, recipe: SdicRecipe, pictures: PictureSet, compute: Compute, steps: int, *judges: Judge) -> None:
        """`judges`: the networks of the losses perceptual and identity."""
        super().__init__(model.config, recipe, pictures, compute, steps)
        self.kept = ("trained", "optimizer", *(["encoder"] if recipe.encoder_norm else []))
        for name, value, known in (("edit_norm", recipe.edit_norm, NORMS), ("optimizer", recipe.optimizer, OPTIMIZERS)):
            if value not in known:
                raise ArgumentError(f'the {name} "{value}" is unknown; use {" or ".join(known)}')
        self.distances = self.judges(*judges)
        self.model = widen(model).to(compute.device)
        self.encoder = model.encoder
        self.trained = nn.ModuleList([model.dipn, model.dicn])
        model.requires_grad_(False)
        self.trained.requires_grad_(True)
        if not recipe.context:
            _silence_context(model)
        self.optimizer = _optimizer(recipe, self.trained)

    def train_step(self, losses: Losses) -> None:
        recipe, compute, random = self.recipe, self.compute, self.random()
        self.begin(self.optimizer, recipe.rate)
        images, _ = batch_pictures(self.pictures, compute.batch, self.config.working, random, recipe.mirror)
        noises = new_noises(self.model.generator, random) if recipe.random_noise else None
        self._set_modes()
        if recipe.settle_norm and self.step == recipe.settle_norm:
            self._settle_norm()
        for (image,) in compute.parts(images):
            terms = self._terms(wide(image), noises)
            total = weighted(recipe, terms)
            compute.backward(total)
            losses.add(total=total, **terms)
        self.update(self.optimizer, self.trained)

    def _set_modes(self) -> None:
        """Only DIPN and DICN train. The frozen encoder's batch norm keeps its statistics, unless the recipe asks otherwise."""
        self.model.eval()
        settled = self.recipe.keep or 0 < self.recipe.settle_norm <= self.step
        self.trained.train(not settled)
        if self.recipe.encoder_norm:
            self.model.encoder.train()

    @torch.no_grad()
    def _settle_norm(self) -> None:
        """Replaces the batch norms' moving statistics by means over `SETTLING` batches: small batches make them jump, and a network that
        trains on its batches' statistics is another one when it is used."""
        norms = [module for module in self.trained.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        self.trained.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        for batch in range(SETTLING):
            random = torch.Generator().manual_seed((self.recipe.seed << 32) + (1 << 30) + batch)
            images, _ = batch_pictures(self.pictures, max(4, self.compute.batch), self.config.working, random, self.recipe.mirror)
            with self.compute.autocast():
                self.model(wide(images.to(self.compute.device)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self._set_modes()

    def _terms(self, image: Tensor, noises: list[Tensor] | None) -> dict[str, Tensor]:
        recipe, model = self.recipe, self.model
        with self.compute.autocast():
            with torch.no_grad():
                latent = model.encode(image).float()
                feature, rgb = model.generator.head(latent, noises)
                reconstruction = downsample(model.generator.tail(feature, rgb, latent, noises=noises).clamp(-1, 1), self.config.working)
            discrepancy = model.dipn(image, reconstruction)
            enhanced, residual = model.dicn(discrepancy, feature, latent)
            _, rgb = model.generator.head(enhanced, noises)
            picture = downsample(model.generator.tail(feature, rgb, enhanced, residual, noises).float(), self.config.working)
            terms = {name: network(picture, image).mean() for name, network in self.distances.items()}
        terms["l2"] = F.mse_loss(picture, image)
        norm = NORMS[recipe.edit_norm]
        terms["edit_feature"] = norm(residual.float(), torch.zeros_like(residual, dtype=torch.float32))
        terms["edit_code"] = norm(enhanced.float(), latent)
        return terms

    @torch.no_grad()
    def sheet(self) -> Any:
        """Pictures, their e4e reconstructions, discrepancy maps, and inversions."""
        self.model.eval()
        image = self.shown(self.config.working)
        found = self.model.invert(image)
        return sheet_of(image, found.reconstruction, found.discrepancy, downsample(found.picture, self.config.working))

    def save(self, path: Path) -> None:
        model, trained = self.model, {"trained": f"sdic, {self.step} steps"}
        networks: dict[str, Any] = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
        save_checkpoint(path, self.config, model.latent_avg, trained, **networks)


def _silence_context(model: SDIC) -> None:
    """Sets what the context adds to the volume to zero and keeps it there: Eq. 1 and 2 without the 2D branches."""
    for module in model.dipn.modules():
        if isinstance(module, ContextFusion):
            for weight in module.semantic[-1].parameters():
                nn.init.zeros_(weight).requires_grad_(False)


def weighted(recipe: SdicRecipe, terms: Mapping[str, Any]) -> Any:
    """The loss of Eq. 7 and 9: the sum of the terms named in `SdicTrainer.losses`, tensors or numbers, with the recipe's weights."""
    return sum((recipe.edit if name.startswith("edit_") else 1.0) * getattr(recipe, name) * value for name, value in terms.items())


def _optimizer(recipe: SdicRecipe, module: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), lr=recipe.rate)
    try:
        from pytorch_optimizer import Ranger
    except ImportError as error:
        raise MissingExtraError("pytorch-optimizer", "train", "the optimizer Ranger") from error
    return Ranger(module.parameters(), lr=recipe.rate)
