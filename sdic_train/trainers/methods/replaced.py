"""Training of the methods that put their own feature at 16 x 16 into the generator: FS (Yao et al. 2022) and CLCAE (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.losses.lpips import SMALLEST
from sdic_train.networks.clcae.model import CLCAE
from sdic_train.networks.fs.model import FS
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.chance import seed_of
from sdic_train.trainers.compute import Compute
from sdic_train.trainers.methods.method import MethodRecipe, MethodTrainer, pooled
from sdic_train.trainers.pictures import shown_rows


@dataclass(frozen=True)
class ReplacedRecipe(MethodRecipe):
    """What FS and CLCAE have in common."""

    perceptual: float = 0.2
    feature: float = 0.01  # mean squared difference of the content from the generator's own feature, which is not moved by it
    blend: int = 0  # steps over which the content takes the place of the generator's feature


@dataclass(frozen=True)
class FSRecipe(ReplacedRecipe):
    """A batch is so many pictures, and with `synthetic` as many that the generator makes."""

    l2_real: float = 0.0  # `l2` is of the pictures that the generator made
    synthetic: bool = True
    scales: int = 3  # sizes, each half of the one before, over which the perceptual distance is summed
    blend: int = 10_000
    code_alone: bool = True  # also compare the picture of the code alone; the released code gives it the content too, but no l2


@dataclass(frozen=True)
class CLCAERecipe(ReplacedRecipe):
    """Without the contrastive stage and its loss."""

    ramp: bool = False  # let the content take the generator's feature's place anew in every epoch, as the released code does
    dropout: float = 0.1  # in the attention
    spread: float = 1.0  # of what the attention adds to the code at the start


class ReplacedTrainer(MethodTrainer):
    """The generator with another feature at 16 x 16."""

    @property
    def mix(self) -> float:
        """The content's share of that feature now."""
        return min(1.0, (self.step + 1) / max(1, self.recipe.blend))

    def phase(self) -> Hashable:
        return None if self.mix < 1 or self.varies else super().phase()

    @property
    def varies(self) -> bool:
        """Whether a step is another one than the last for a reason of the method's own."""
        return False

    @property
    def generator(self) -> Generator:
        generator: Generator = self.model.generator
        return generator

    def finish(self, content: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        """The picture [N, 3, R, R] of `latent` whose feature at 16 x 16 is `content`."""
        return self.generator.tail(*self.generator.middle(content, rgb, latent), latent)


class FSTrainer(ReplacedTrainer):
    """The Feature-Style encoder."""

    kind = "fs"
    losses = ("total", "l2", "l2_real", "perceptual", "identity", "feature")
    parts = ("fs", "generator")

    def __init__(self, model: FS, recipe: FSRecipe, pictures: Any, compute: Compute, steps: int, *judges: Any) -> None:
        size = model.config.working >> (recipe.scales - 1)
        first, end = shown_rows(model.config, size) or (0, size)
        smallest = end - first  # without the bars of a letterboxed domain
        if recipe.perceptual and smallest < SMALLEST:
            raise ArgumentError(
                f"scales={recipe.scales} compares pictures of {smallest} pixels, and the perceptual distance needs {SMALLEST}; "
                "use a smaller number of them"
            )
        super().__init__(model, [model.fs], recipe, pictures, compute, steps, *judges)

    def drawn(self, random: torch.Generator) -> tuple[Tensor, ...]:
        if not self.recipe.synthetic:
            return ()
        return (torch.randn(self.compute.batch, self.config.style_width, generator=random),)

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        recipe, real = self.recipe, len(image)
        with self.compute.autocast():
            if rest:
                with torch.no_grad():
                    code = self.generator.mapping(rest[0])[:, None].expand(-1, self.config.rows, -1)
                    image = torch.cat((image, pooled(self.generator(code), image.shape[-1]).float()))
            latent, content = self.model.encode(image)
            own, rgb = self.generator.base(latent)
            whole = self.finish(own + self.mix * (content - own), rgb, latent)
            alone = self.finish(own, rgb, latent) if recipe.code_alone else whole
        pictures = [pooled(picture, image.shape[-1]).float() for picture in (whole, alone)]
        terms = self.compare(image, *pictures)
        terms.pop("l2", None)
        for scale in range(1, recipe.scales if recipe.perceptual else 1):
            with self.compute.autocast():
                size = image.shape[-1] >> scale
                small = self.seen(pooled(image, size))
                pairs = [self.distances["perceptual"](self.seen(pooled(picture, size)), small).mean() for picture in pictures]
            terms["perceptual"] = terms["perceptual"] + sum(pairs)
        image, pictures = self.seen(image), [self.seen(picture) for picture in pictures]
        for name, rows in (("l2", slice(real, None)), ("l2_real", slice(0, real))):
            if getattr(recipe, name) and len(image[rows]):
                compared = pictures if recipe.code_alone else pictures[:1]
                terms[name] = sum((F.mse_loss(picture[rows], image[rows]) for picture in compared), image.new_zeros(()))
        if recipe.feature:
            terms["feature"] = F.mse_loss(content.float(), own.float().detach())
        return terms


class CLCAETrainer(ReplacedTrainer):
    """The encoder with its attention. Three pictures are compared: with the content, of the rows, and of the code in W."""

    kind = "clcae"
    losses = ("total", "l2", "perceptual", "identity", "feature")
    parts = ("encoder", "generator")

    def __init__(self, model: CLCAE, recipe: CLCAERecipe, pictures: Any, compute: Compute, steps: int, *judges: Any) -> None:
        super().__init__(model, [model.encoder], recipe, pictures, compute, steps, *judges)
        model.encoder.drop(recipe.dropout)
        self.average = model.average

    @property
    def mix(self) -> float:
        epoch = max(1, len(self.pictures) // self.compute.batch)
        return (self.step % epoch + 1) / epoch if self.recipe.ramp else super().mix

    @property
    def varies(self) -> bool:
        return bool(self.recipe.dropout or self.recipe.ramp)

    def drawn(self, random: torch.Generator) -> tuple[Tensor, ...]:
        if self.recipe.dropout:  # which draws from PyTorch's own random numbers
            torch.manual_seed(seed_of(self.recipe.seed, self.step))
        return ()

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        model, recipe = self.model, self.recipe
        with self.compute.autocast():
            w, values, level = model.encode(image)
            latent, attended = model.attend(w, values, level)
            content = model.encoder.content_layer(attended)
            own, rgb = self.generator.base(latent)
            pictures = (self.finish(own + self.mix * (content - own), rgb, latent), self.finish(own, rgb, latent), self.generator(w))
        terms = self.compare(image, *pictures)
        if recipe.feature:
            terms["feature"] = F.mse_loss(content.float(), own.float().detach())
        return terms
