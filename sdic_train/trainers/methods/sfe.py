"""Training of StyleFeatureEditor (Bobkov et al. 2024): first the inverter, then the editor of its feature."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_train.networks.discriminator import Discriminator
from sdic_train.networks.sfe.model import SFE, SFEInverter
from sdic_train.trainers.adversaries import Adversary
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.methods.method import MethodRecipe, MethodTrainer, pooled

STRENGTH = 3.0  # of a direction that suggests no range


@dataclass(frozen=True)
class SFERecipe(MethodRecipe):
    """Both phases. `body`: the residual blocks of fuser and editor."""

    feature: float = 0.01  # mean squared difference of the fused and the generator's own feature; phase 1
    blend: int = 10_000  # steps over which the fused feature takes the place of the generator's own; phase 1
    adversarial: float = 0.01
    first_adversarial: int = 45_000  # the step from which the discriminator joins
    discriminator_rate: float = 1e-4
    r1: float = 10.0
    r1_every: int = 16
    body: int = 5


class SFETrainer(MethodTrainer):
    """What the phases share: the discriminator, at the working size."""

    def __init__(
        self,
        model: SFEInverter,
        trained: Sequence[Any],
        recipe: SFERecipe,
        pictures: Any,
        compute: Compute,
        steps: int,
        *judges: Any,
        channels: dict[int, int] | None = None,
    ) -> None:
        super().__init__(model, trained, recipe, pictures, compute, steps, *judges)
        if recipe.adversarial:
            torch.manual_seed(recipe.seed)
            network = Discriminator(self.config.working, channels or self.config.channels)
            self.adversary = Adversary(network, compute, recipe.discriminator_rate, (0.9, 0.999), recipe.r1, recipe.r1_every)
            self.kept = (*self.kept, "adversary")

    @property
    def contested(self) -> bool:
        """Whether the discriminator takes part in this step."""
        return bool(self.recipe.adversarial) and self.step >= self.recipe.first_adversarial

    def phase(self) -> Hashable:
        return None if self.contested else super().phase()

    def train_step(self, losses: Losses) -> None:
        self.made: list[Tensor] = []
        super().train_step(losses)
        if self.contested:
            images = self.batch(self.compute.batch, self.random())
            real, made = torch.cat([image for (image,) in self.compute.parts(images)]), torch.cat(self.made)
            share = len(made) * self.compute.processes / self.inverted
            self.adversary.advance(real, made, self.step, losses, "discriminator", share)

    @property
    def inverted(self) -> int:
        """The pictures of a whole batch that are inverted and not edited."""
        return self.compute.batch

    def judged(self, picture: Tensor) -> dict[str, Tensor]:
        """The adversarial loss of the inverted pictures [N, 3, R, R] of a part, which may have more or fewer than another one."""
        if not self.contested:
            return {}
        small = pooled(picture, self.config.working).float()
        self.made.append(small.detach())
        if not len(small):
            return {"adversarial": small.sum()}
        parts = self.compute.processes * self.compute.accumulate
        return {"adversarial": self.adversary.term(small) * (len(small) * parts / self.inverted)}


class SFEInverterTrainer(SFETrainer):
    """Phase 1: backbone and fuser. Two pictures are compared: with the fused feature, and of the code alone."""

    kind = "sfe-inverter"
    losses = ("total", "l2", "perceptual", "identity", "feature", "adversarial", "discriminator")
    parts = ("inverter", "generator")

    def __init__(self, model: SFEInverter, recipe: SFERecipe, *rest: Any, **options: Any) -> None:
        super().__init__(model, [model.inverter], recipe, *rest, **options)

    @property
    def mix(self) -> float:
        """The fused feature's share now."""
        return min(1.0, (self.step + 1) / max(1, self.recipe.blend))

    def phase(self) -> Hashable:
        return None if self.mix < 1 else super().phase()

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        model, recipe = self.model, self.recipe
        with self.compute.autocast():
            latent, predicted = model.predict(image)
            own, rgb = model.generator.prefix(latent)
            fused = model.fuse(predicted, own)
            whole = model.generator.suffix(own + self.mix * (fused - own), rgb, latent)
            alone = model.generator.suffix(own, rgb, latent)
        terms = {**self.compare(image, whole, alone), **self.judged(whole)}
        if recipe.feature:
            terms["feature"] = F.mse_loss(fused.float(), own.float())
        return terms


class SFEEditorTrainer(SFETrainer):
    """Phase 2: the editor. Half of a batch are inversions of pictures, half are edits whose result the generator shows: the inverter reads
    the picture of e4e's code, and what comes out is compared with the picture of that code edited."""

    kind = "sfe"
    losses = ("total", "l2", "perceptual", "identity", "adversarial", "discriminator")
    parts = ("inverter", "generator", "encoder", "editor")
    drifting = ("inverter", "encoder")

    def __init__(self, model: SFE, recipe: SFERecipe, *rest: Any, directions: Sequence[Direction] = (), **options: Any) -> None:
        super().__init__(model, [model.editor], recipe, *rest, **options)
        if self.compute.batch < 2:
            raise ArgumentError(
                "a batch of 1 has no picture left to edit, and the editor of StyleFeatureEditor learns from edits; use --batch 2"
            )
        if not directions:
            raise ArgumentError("the editor of StyleFeatureEditor learns from edits; name a folder of directions with --directions")
        for direction in directions:
            direction.check(self.config.sizes)
        self.directions = directions

    @property
    def inverted(self) -> int:
        return (self.compute.batch + 1) // 2

    def train_step(self, losses: Losses) -> None:
        self.part_number = self.compute.rank * self.compute.accumulate
        super().train_step(losses)

    def real_of(self, part: int) -> int:
        """How many of the pictures of a part, its first, are inverted: of all parts together, as many as of a batch in one part."""
        parts = self.compute.processes * self.compute.accumulate
        return (part + 1) * self.inverted // parts - part * self.inverted // parts

    def batch(self, count: int, random: torch.Generator) -> Tensor:
        """A whole batch in one part is inverted up to its middle and edited behind it. In several parts the same pictures are, and every
        part has its share of both."""
        images, parts = super().batch(count, random), self.compute.processes * self.compute.accumulate
        if parts == 1 or count != self.compute.batch:
            return images
        size, inverted, edited, order = count // parts, 0, self.inverted, list[int]()
        for part in range(parts):
            real = self.real_of(part)
            order += [*range(inverted, inverted + real), *range(edited, edited + size - real)]
            inverted, edited = inverted + real, edited + size - real
        return images[order]

    def drawn(self, random: torch.Generator) -> tuple[Tensor]:
        """What one edit adds to every code, [batch, L, C]: a direction, and a strength from its range."""
        direction = self.directions[int(torch.randint(len(self.directions), (), generator=random))]
        low, high = direction.strength_range or (-STRENGTH, STRENGTH)
        strength = low + (high - low) * float(torch.rand((), generator=random))
        shape = (self.compute.batch, self.config.rows, self.config.style_width)
        offset = direction.offset(torch.zeros(1, *shape[1:]).numpy())
        return ((torch.from_numpy(offset) * strength).expand(shape),)

    def terms(self, image: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        model, generator, (offset,) = self.model, self.model.generator, rest
        real = self.real_of(self.part_number)
        self.part_number += self.compute.accumulate > 1  # a recorded step is the only part
        none = torch.zeros_like(offset[:real])
        with self.compute.autocast():
            with torch.no_grad():
                shown, wanted, change = self.edits(image[real:], offset[real:])
                latent, predicted = model.predict(torch.cat((image[:real], shown)))
                own = generator.prefix(latent)[0]
                fused = model.fuse(predicted, own)
                change = own[:0] if change is None else change
                delta = torch.cat((change.new_zeros(real, *change.shape[1:]), change))
                moved = latent + torch.cat((none, offset[real:]))
                rgb = generator.prefix(moved)[1]
            picture = generator.suffix(model.editor(fused, delta), rgb, moved)
        return {**self.compare(torch.cat((image[:real], wanted)), picture), **self.judged(picture[:real])}

    def edits(self, image: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What e4e's codes of pictures show, what they show when edited, and what that takes from the feature, if there are any."""
        if not len(image):
            return image, image, None
        generator = self.model.generator
        code = self.model.encode(image).float()
        before, after = generator.prefix(code), generator.prefix(code + offset)
        shown, wanted = (
            pooled(generator.suffix(*made, latent), image.shape[-1]).float() for made, latent in ((before, code), (after, code + offset))
        )
        return shown, wanted, before[0] - after[0]
