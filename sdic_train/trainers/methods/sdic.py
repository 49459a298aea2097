"""Training of DIPN and DICN on a frozen generator and encoder (Section 3.4, Eq. 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.sdic.dipn import ContextFusion
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.base import Judge
from sdic_train.trainers.compute import Compute
from sdic_train.trainers.methods.method import MethodTrainer
from sdic_train.trainers.optimizers import optimizer_of
from sdic_train.trainers.pictures import sheet_of

NORMS = {"l1": F.l1_loss, "l2": F.mse_loss}


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
    random_noise: bool = False  # new generator noise for every picture in every step, as the released code does
    mirror: bool = True
    context: bool = True  # the spatial-contextual branches of Eq. 1 and 2; false is the paper's ablation
    settle_norm: int = 0  # from this step on DIPN's and DICN's batch norm keeps its statistics, averaged over many batches; 0: never
    silent_start: bool = False  # let DICN start from zero, so that the first inversions are the encoder's
    keep: bool = False  # continue from the DIPN and DICN in --model, whose batch norm keeps its statistics; false starts with new ones
    fusion: str = "attention"  # of DICN; "affine" is the paper's ablation
    seed: int = 0


class SdicTrainer(MethodTrainer):
    """DIPN and DICN; the encoder and the generator stay as they are."""

    kind = "sdic"
    losses = ("total", "l2", "perceptual", "identity", "edit_feature", "edit_code")
    parts = ("encoder", "generator", "dipn", "dicn")
    drifting = ("encoder",)

    def __init__(self, model: SDIC, recipe: SdicRecipe, pictures: PictureSet, compute: Compute, steps: int, *judges: Judge) -> None:
        """`judges`: the networks of the losses perceptual and identity."""
        if recipe.edit_norm not in NORMS:
            raise ArgumentError(f'the edit_norm "{recipe.edit_norm}" is unknown; use {" or ".join(NORMS)}')
        if recipe.keep and recipe.settle_norm:
            raise ArgumentError(
                f"keep=true keeps the statistics of batch norm, and settle_norm={recipe.settle_norm} replaces them; use --set settle_norm=0"
            )
        super().__init__(model, [model.dipn, model.dicn], recipe, pictures, compute, steps, *judges)
        if not recipe.context:
            _silence_context(model)
            self.optimizer = optimizer_of(recipe, self.trained)  # without what is silent, as after settling

    @property
    def settled(self) -> bool:
        return self.recipe.keep or super().settled

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        total: Tensor = weighted(self.recipe, terms)
        return total

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        recipe, model = self.recipe, self.model
        with self.compute.autocast():
            with torch.no_grad():
                latent = model.encode(image).float()
                feature, rgb = model.generator.head(latent)
                reconstruction = downsample(model.generator.tail(feature, rgb, latent).clamp(-1, 1), self.config.working)
            discrepancy = model.dipn(image, reconstruction)
            enhanced, residual = model.dicn(discrepancy, feature, latent)
            _, rgb = model.generator.head(enhanced)
            picture = downsample(model.generator.tail(feature, rgb, enhanced, residual).float(), self.config.working)
        terms = self.compare(image, picture)
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


def _silence_context(model: SDIC) -> None:
    """Sets what the context adds to the volume to zero and keeps it there: Eq. 1 and 2 without the 2D branches."""
    for module in model.dipn.modules():
        if isinstance(module, ContextFusion):
            for weight in module.semantic[-1].parameters():
                nn.init.zeros_(weight).requires_grad_(False)


def weighted(recipe: SdicRecipe, terms: Mapping[str, Any]) -> Any:
    """The loss of Eq. 7 and 9: the sum of the terms named in `SdicTrainer.losses`, tensors or numbers, with the recipe's weights."""
    return sum((recipe.edit if name.startswith("edit_") else 1.0) * getattr(recipe, name) * value for name, value in terms.items())
