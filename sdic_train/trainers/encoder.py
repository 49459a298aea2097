"""Training of an encoder on a frozen generator: e4e (Tov et al. 2021: image losses, delta regularisation, latent discriminator, progressive
deltas), pSp, and the one of HyperStyle into W; and regression of the code itself where the person behind a picture is known."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.checkpoints.load import mean_rows, save_checkpoint
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.hyperstyle.hypernet import WEncoder
from sdic_train.networks.stylegan2 import Generator, downsample
from sdic_train.trainers import start
from sdic_train.trainers.adversaries import Adversary, LatentDiscriminator
from sdic_train.trainers.base import Judge, Trainer, wide, widen
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.noise import new_noises, noise
from sdic_train.trainers.optimizers import optimizer_of
from sdic_train.trainers.pictures import batch_pictures, sheet_of, shown_rows

FORMS: dict[str, type[Encoder]] = {"e4e": Encoder, "psp": Encoder, "w": WEncoder}
REAL_SAMPLES = 4  # mapped codes per picture that the latent discriminator sees as real


@dataclass(frozen=True)
class EncoderRecipe:
    """Weights and rates; the defaults are e4e's. A loss with weight 0 is not computed."""

    form: str = "e4e"  # "psp": rows apart from each other; "w": one row for all, as HyperStyle starts from
    rate: float = 1e-4
    optimizer: str = "ranger"
    warm_up: int = 0
    decay: float = 0.0  # last share of the steps over which the rate falls to a twentieth
    l2: float = 1.0
    perceptual: float = 0.8
    identity: float = 0.1
    code: float = 0.0  # mean squared error of the code against the mapping of the picture's own coordinates; labelled sets only
    delta: float = 2e-4  # L2 norm of the rows' offsets from row 0
    latent_adversarial: float = 0.1
    latent_rate: float = 2e-5
    latent_r1: float = 10.0
    latent_r1_every: int = 16
    first_delta: int = 20_000  # the step from which rows get their own offsets, one more every `delta_every` steps; -1: all at once
    delta_every: int = 2_000
    random_noise: bool = False  # new generator noise for every picture in every step, as the released pSp does
    mirror: bool = True  # mirror half of the pictures; not where `code` is used
    seed: int = 0


class RowByRow:
    """Of a trainer whose rows come in one by one, by `first_delta` and `delta_every` of its recipe."""

    recipe: Any
    config: Any
    step: int

    def check_rows(self, form: str) -> None:
        """Raises ArgumentError for an encoder of a `form` whose rows do not start from row 0."""
        if form != "e4e" and self.recipe.first_delta >= 0:
            raise ArgumentError(
                f"first_delta={self.recipe.first_delta} lets rows leave row 0 one by one, and an encoder of the form "
                f'"{form}" has none that start from it; use --set first_delta=-1'
            )

    def _deltas(self, step: int | None = None) -> int | None:
        """The number of rows that may leave row 0 now, or in `step`; None: all."""
        return deltas_at(self.recipe, self.step if step is None else step, self.config.rows)

    @property
    def _open(self) -> int | None:
        """The number of rows that have left row 0 in the steps so far."""
        return self._deltas(max(0, self.step - 1))

    def remark(self) -> str:
        return closed_rows(self._open, self.config.rows)


class EncoderTrainer(RowByRow, Trainer):
    """The encoder; the generator stays as it is."""

    kind = "encoder"
    kept = ("encoder", "latent", "optimizer")
    losses = ("encoder", "l2", "perceptual", "identity", "code", "delta", "latent_adversarial", "latent_discriminator")

    def __init__(
        self, generator: Generator, recipe: EncoderRecipe, pictures: PictureSet, compute: Compute, steps: int, *judges: Judge
    ) -> None:
        """`judges`: the networks of the losses perceptual and identity."""
        if recipe.form not in FORMS:
            raise ArgumentError(f'the form "{recipe.form}" of an encoder is unknown; use {", ".join(FORMS)}')
        form = "e4e" if recipe.form == "e4e" else "psp"
        encoder = replace(generator.config.encoder, form=form, inputs=3, pyramid=True)  # also where the generator is from ReStyle's file
        config = replace(generator.config, encoder=encoder)
        super().__init__(config, recipe, pictures, compute, steps)
        self.check_rows(recipe.form)
        if recipe.code and pictures.coordinates is None:
            raise ArgumentError("the loss code needs labelled pictures (the portraits); use --set code=0 for a folder")
        self.distances = self.judges(*judges)
        torch.manual_seed(recipe.seed)
        self.encoder = widen(FORMS[recipe.form](self.config)).to(compute.device)
        discriminator = LatentDiscriminator(self.config.style_width)
        self.latent = Adversary(discriminator, compute, recipe.latent_rate, (0.9, 0.999), recipe.latent_r1, recipe.latent_r1_every)
        self.generator = widen(generator).to(compute.device).eval().requires_grad_(False)
        self.latent_avg = mean_rows(self.generator).to(compute.device)
        self.optimizer = optimizer_of(recipe, self.encoder)

    def mean_of(self, path: Path) -> None:
        """Takes the mean code that a checkpoint carries, where it carries one."""
        self.latent_avg = start.mean_with(self.latent_avg, path)

    def start_from(self, path: Path) -> None:
        """Continues from another run's encoder with its mean code, or from its body alone where its form is another."""
        start.take(self.encoder, start.encoder_weights(path), path)
        if start.encoder_form(path) == self.recipe.form:
            self.mean_of(path)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "latent_avg": self.latent_avg}

    def load_state(self, state: dict[str, Any]) -> None:
        """A state of before it had the mean code is of one that was computed."""
        super().load_state(state)
        average = state["latent_avg"] if "latent_avg" in state else mean_rows(self.generator)
        self.latent_avg = average.to(self.compute.device)

    def train_step(self, losses: Losses) -> None:
        recipe, compute, random = self.recipe, self.compute, self.random()
        self.begin(self.optimizer, recipe.rate)
        mirror = recipe.mirror and not recipe.code
        size = self.config.working
        rows = shown_rows(self.config, size)
        images, coordinates = batch_pictures(self.pictures, compute.batch, size, random, mirror, compute.device, rows)
        mapped = torch.randn(len(images) * REAL_SAMPLES, self.config.style_width, generator=random).to(compute.device, non_blocking=True)
        self.encoder.train()
        self.codes: list[Tensor] = []
        maps = new_noises(self.generator, random, compute.batch) if recipe.random_noise else []
        for image, person, *own in compute.parts(images, coordinates if recipe.code else None, *maps):
            with noise(self.generator, own):
                self.computed(self._part, (image,) if person is None else (image, person), losses)
        self.update(self.optimizer, self.encoder)
        if recipe.latent_adversarial:
            with torch.no_grad():
                real = self.generator.mapping(mapped)
            self.latent.advance(real, torch.cat(self.codes).flatten(0, 1), self.step, losses, "latent_discriminator")

    def _part(self, batch: Sequence[Tensor], losses: Losses) -> None:
        image, *person = batch
        with self.compute.autocast():
            offsets = self.encoder(wide(image), self._deltas()).float()
        latent = offsets + self.latent_avg
        terms = self._terms(image, person[0] if person else None, offsets, latent)
        total = self.weighted(terms)
        self.compute.backward(total)
        losses.add(encoder=total, **terms)
        self.codes.append(latent.detach())

    def phase(self) -> Hashable:
        return None if self.recipe.random_noise or self.recipe.latent_adversarial else ("deltas", self._deltas())

    def _terms(self, image: Tensor, person: Tensor | None, offsets: Tensor, latent: Tensor) -> dict[str, Tensor]:
        recipe, terms = self.recipe, dict[str, Tensor]()
        if recipe.code and person is not None:
            terms["code"] = F.mse_loss(latent, self._wanted(person)[:, None].expand_as(latent))
        if recipe.l2 or recipe.perceptual or recipe.identity:
            with self.compute.autocast():
                picture = self.seen(downsample(self.generator(latent).float(), self.config.working))
                image = self.seen(image)
                terms |= {name: network(picture, image).mean() for name, network in self.distances.items()}
            if recipe.l2:
                terms["l2"] = F.mse_loss(picture, image)
        if recipe.delta:
            terms["delta"] = (offsets[:, 1:] - offsets[:, :1]).norm(dim=2).mean(0).sum()
        if recipe.latent_adversarial:
            terms["latent_adversarial"] = self.latent.term(latent.flatten(0, 1))
        return terms

    @torch.no_grad()
    def _wanted(self, person: Tensor) -> Tensor:
        """The mapping of a person's coordinates, with the mean square of z that its other coordinates, standard normal, would bring."""
        width = self.config.style_width
        person = person[:, :width]
        mean_square = (person.square().sum(1, keepdim=True) + width - person.shape[1]) / width
        return self.generator.style[1:](F.pad(person * mean_square.rsqrt(), (0, width - person.shape[1])))

    @torch.no_grad()
    def sheet(self) -> Any:
        """Pictures above their reconstructions."""
        self.encoder.eval()
        image = self.shown(self.config.working)
        with closed(self.encoder, self._open):
            return sheet_of(image, downsample(self.generator(self.encoder(image) + self.latent_avg), self.config.working))

    def save(self, path: Path) -> None:
        trained = {"trained": f"encoder, {self.step} steps"}
        with closed(self.encoder, self._open):
            save_checkpoint(path, self.config, self.latent_avg, trained, encoder=self.encoder, generator=self.generator)


def deltas_at(recipe: Any, step: int, rows: int) -> int | None:
    """The number of the `rows` that may leave row 0 in a step, by `first_delta` and `delta_every`; None: all."""
    if recipe.first_delta < 0:
        return None
    found: int = 0 if step < recipe.first_delta else 1 + (step - recipe.first_delta) // max(1, recipe.delta_every)
    return found if found < rows - 1 else None


@contextmanager
@torch.no_grad()
def closed(encoder: Encoder, deltas: int | None) -> Iterator[None]:
    """`encoder` as it trains while `deltas` rows may leave row 0, and its own weights again afterwards: the blocks of the other rows, which
    have learned nothing, give zero."""
    others = [] if deltas is None else list(encoder.styles)[deltas + 1 :]
    weights = [weight for block in others for weight in block.linear.parameters()]  # type: ignore[union-attr]
    own = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.zero_()
        yield
    finally:
        for weight, value in zip(weights, own, strict=True):
            weight.copy_(value)


def closed_rows(deltas: int | None, rows: int) -> str:
    """What to say at the end of a training of so many open rows."""
    if deltas is None:
        return ""
    return (
        f"rows {deltas + 1} to {rows - 1} of the code are still row 0: they come in one by one behind these steps; "
        "give more --steps, or --set first_delta=-1 for all at once"
    )
