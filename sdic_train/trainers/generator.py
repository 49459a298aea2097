"""Generator training: adversarial (StyleGAN2), or fitted to labelled renders with an adversarial term that sharpens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.config import ModelConfig
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.portrait import feature_distance
from sdic_train.networks.discriminator import Discriminator
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.base import Trainer, wide, widen
from sdic_train.trainers.chance import random_of
from sdic_train.trainers.compute import Compute, Losses
from sdic_train.trainers.noise import new_noises
from sdic_train.trainers.pictures import batch_pictures, scaled, sheet_of, shown_rows

SUPERVISED = ("fit", "edges", "features", "perceptual", "attributes")  # losses that compare with the render of the same person
SHEET = 16  # pictures on a sample sheet


@dataclass(frozen=True)
class GeneratorRecipe:
    """Weights and rates; the defaults are StyleGAN2's. A loss with weight 0 is not computed.

    The losses of `SUPERVISED` need a labelled set: its coordinates are then the first of z, and the mapping starts from these alone.
    """

    size: int = 64  # the picture size trained now, 8 to R: the generator grows over several runs
    rate: float = 2e-3
    discriminator_rate: float = 2e-3
    mapping_factor: float = 1.0  # the mapping's rate on top of its equalized 0.01
    momentum: float = 0.0  # Adam's first beta for the generator
    warm_up: int = 0  # steps over which the rates rise
    decay: float = 0.0  # last share of the steps over which the rates fall to a twentieth
    adversarial: float = 1.0
    fit: float = 0.0  # mean absolute difference of the pictures
    edges: float = 0.0  # mean absolute difference of the differences of neighbouring pixels
    features: float = 0.0  # mean absolute difference of the discriminator's features, each scaled to unit mean
    perceptual: float = 0.0  # distance of a portrait reader's features
    attributes: float = 0.0  # mean squared difference of what the reader reads
    r1: float = 10.0
    r1_every: int = 16
    path: float = 2.0  # weight of the path length regularisation
    path_every: int = 4
    mixing: float = 0.9  # probability that a latent code is made of two
    average_pictures: float = 10_000.0  # half-life of the weights' moving average
    mirror: bool = False  # mirror half of the pictures; unlabelled sets only
    seed: int = 0


class GeneratorTrainer(Trainer):
    """Generator, its moving average and the discriminator."""

    kind = "generator"
    recorded = False
    kept = ("generator", "average", "discriminator", "generator_optimizer", "discriminator_optimizer")
    losses = ("generator", "fit", "edges", "adversarial", "features", "perceptual", "attributes", "path", "discriminator", "r1")

    def __init__(
        self,
        config: ModelConfig,
        recipe: GeneratorRecipe,
        pictures: PictureSet,
        compute: Compute,
        steps: int,
        discriminator_channels: dict[int, int] | None = None,
        reader: PortraitReader | None = None,
    ) -> None:
        super().__init__(config, recipe, pictures, compute, steps)
        used = [name for name in SUPERVISED if getattr(recipe, name)]
        if used and pictures.coordinates is None:
            raise ArgumentError(f"the loss {used[0]} needs labelled pictures (the portraits); use --set {used[0]}=0 for a folder")
        if (recipe.perceptual or recipe.attributes) and reader is None:
            raise ArgumentError(
                "the losses perceptual and attributes need a portrait reader; name one with --reader, or set their weights to 0"
            )
        self.reader = None if reader is None else reader.to(compute.device).eval().requires_grad_(False)
        if used and recipe.mixing:
            raise ArgumentError(f"style mixing ({recipe.mixing}) contradicts the losses that compare with a render; set mixing to 0")
        if not 8 <= recipe.size <= config.resolution or recipe.size & (recipe.size - 1):
            raise ArgumentError(
                f"the training size {recipe.size} does not fit a generator of {config.resolution}; use a power of two from 8 to it"
            )
        self.coordinates = torch.from_numpy(pictures.coordinates) if used and pictures.coordinates is not None else None  # starts of z
        torch.manual_seed(recipe.seed)
        self.generator = Generator(config)
        self.discriminator = Discriminator(recipe.size, discriminator_channels or config.channels)
        if self.coordinates is not None:
            condition_mapping(self.generator, self.coordinates.shape[1])
        widen(self.generator).to(compute.device)
        widen(self.discriminator).to(compute.device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.path_mean = torch.zeros((), device=compute.device)
        mapping = list(self.generator.style.parameters())
        others = [weight for name, weight in self.generator.named_parameters() if not name.startswith("style.")]
        self.rates = (recipe.rate, recipe.rate * recipe.mapping_factor)
        groups, betas = [{"params": others}, {"params": mapping}], (recipe.momentum, 0.99)
        self.generator_optimizer = torch.optim.Adam(groups, lr=recipe.rate, betas=betas)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=recipe.discriminator_rate, betas=(0.0, 0.99))

    def grow_from(self, state: dict[str, Any]) -> None:
        """Starts from the averaged generator of another run and its discriminator's blocks of the same sizes, with fresh optimizers. Raises
        ArgumentError for the state of another kind of run, or of another generator."""
        if not {"average", "discriminator"} <= state.keys():
            raise ArgumentError("the run to grow from trained no generator; name the folder of a run of `sdic-train generator` with --from")
        for name, own in self.generator.state_dict().items():
            given = state["average"].get(name)
            if given is None or given.shape != own.shape:
                found = "nothing" if given is None else list(given.shape)
                raise ArgumentError(
                    f"the run to grow from has a generator of other sizes ({name} is {found} instead of {list(own.shape)}); "
                    "give the --sizes that it was trained with"
                )
        self.generator.load_state_dict(state["average"])
        self.average.load_state_dict(state["average"])
        own = self.discriminator.state_dict()
        self.discriminator.load_state_dict({**own, **aligned(state["discriminator"], own)})

    def train_step(self, losses: Losses) -> None:
        recipe, compute, supervised = self.recipe, self.compute, self.coordinates is not None
        self.begin(self.generator_optimizer, *self.rates)
        self.begin(self.discriminator_optimizer, recipe.discriminator_rate)
        mirror, rows = recipe.mirror and not supervised, shown_rows(self.config, recipe.size)
        real, coordinates = batch_pictures(self.pictures, compute.batch, recipe.size, self._random(0), mirror, rows=rows)
        z, second, crossing, noises = self._chances(coordinates if supervised else None)
        fakes = []
        self.discriminator.requires_grad_(False)
        for wanted, first, other, cross, *own in compute.parts(real, z, second, crossing, *([] if supervised else noises)):
            wanted = wide(wanted)
            with compute.autocast():
                fake = self.generator.picture_at(self._latent(first, other, cross), recipe.size, own or noises).float()
                terms = self._generator_terms(fake, wanted)
            total = self.weighted(terms)
            compute.backward(total)
            losses.add(generator=total, **terms)
            fakes.append(fake.detach())
        if recipe.path and self.step % recipe.path_every == 0:
            losses.add(path=self._path_length(z, noises))
        self.update(self.generator_optimizer, self.generator)
        self._follow()
        if recipe.adversarial:
            self._advance_discriminator(real, fakes, losses)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "size": self.recipe.size, "path_mean": self.path_mean}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.path_mean = state["path_mean"].to(self.compute.device)

    @torch.no_grad()
    def sheet(self) -> Any:
        """Generated pictures; above each the render of the same person where the set is labelled."""
        z = torch.randn(SHEET, self.config.style_width, generator=torch.Generator().manual_seed(1))
        index, rows = np.arange(SHEET) % len(self.pictures), []
        if self.coordinates is not None:
            z[:, : self.coordinates.shape[1]] = self.coordinates[index, : z.shape[1]]
            rows.append(scaled(self.pictures, index, self.recipe.size, rows=shown_rows(self.config, self.recipe.size)))
        rows.append(self.average.picture_at(self._rows(self.average.mapping(z.to(self.compute.device))), self.recipe.size))
        return sheet_of(*(row[part : part + SHEET // 2] for part in (0, SHEET // 2) for row in rows))

    def save(self, path: Path) -> None:
        from sdic_train.checkpoints.load import mean_rows, save_checkpoint

        trained = {"trained": f"generator, {self.step} steps at {self.recipe.size}"}
        save_checkpoint(path, self.config, mean_rows(self.average), trained, generator=self.average)

    def _rows(self, w: Tensor) -> Tensor:
        """Mapped codes [N, C] as latent codes [N, L, C]."""
        return w[:, None].repeat(1, self.config.rows, 1)

    def _random(self, stream: int) -> torch.Generator:
        return random_of(self.recipe.seed, self.step * 8 + stream)

    def _chances(self, coordinates: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
        """z, a second z and the row from which it takes over (for mixing), and the step's noise maps: of each picture, or where they are
        fitted to renders, which have none, of the batch."""
        random, batch, width = self._random(1), self.compute.batch, self.config.style_width
        z = torch.randn(batch, width, generator=random)
        if coordinates is not None:
            z[:, : coordinates.shape[1]] = coordinates[:, :width]
        noises = new_noises(self.generator, random, batch if coordinates is None else 1, self.recipe.size if coordinates is None else None)
        if not self.recipe.mixing:
            return z, None, None, noises
        rows = torch.randint(1, self.config.rows, (batch,), generator=random)
        mixed = torch.rand(batch, generator=random) < self.recipe.mixing
        return z, torch.randn(batch, width, generator=random), torch.where(mixed, rows, self.config.rows), noises

    def _latent(self, z: Tensor, second: Tensor | None, crossing: Tensor | None) -> Tensor:
        latent = self._rows(self.generator.mapping(z))
        if second is None or crossing is None:
            return latent
        behind = torch.arange(self.config.rows, device=z.device)[None, :, None] >= crossing[:, None, None]
        return torch.where(behind, self.generator.mapping(second)[:, None], latent)

    def _generator_terms(self, fake: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        recipe, terms = self.recipe, dict[str, Tensor]()
        if recipe.fit:
            terms["fit"] = F.l1_loss(fake, wanted)
        if recipe.edges:
            terms["edges"] = edge_difference(fake, wanted)
        if self.reader is not None and (recipe.perceptual or recipe.attributes):
            with torch.no_grad():
                aims = self.reader.features(wanted)
            found = self.reader.features(fake)
            terms["perceptual"] = feature_distance(found, aims).mean()
            terms["attributes"] = F.mse_loss(self.reader.read(found[-1]).float(), self.reader.read(aims[-1]).float())
        if not (recipe.adversarial or recipe.features):
            return terms
        found = self.discriminator.features(fake)
        if recipe.adversarial:
            terms["adversarial"] = F.softplus(-self.discriminator.score(found[-1]).float()).mean()
        if recipe.features:
            with torch.no_grad():
                aims = self.discriminator.features(wanted)
            terms["features"] = feature_difference(found, aims)
        return terms

    def _path_length(self, z: Tensor, noises: list[Tensor]) -> Tensor:
        """StyleGAN2's regularisation: a step in w should change the picture by the same amount everywhere. On half of the batch, of which
        each process takes its share, in as many parts as it cuts its pictures into."""
        compute, size, count = self.compute, self.recipe.size, max(1, len(z) // 2)
        probe = torch.randn(count, 3, size, size, generator=self._random(2))
        own = torch.arange(count)[compute.rank :: compute.processes]
        parts = [rows for rows in own.chunk(compute.accumulate) if len(rows)]
        kept = len(parts) == 1  # the graph of the lengths, whose mean has to be known before their loss

        def lengths(rows: Tensor, graph: bool) -> Tensor:
            own = noises if self.coordinates is not None else [noise[rows.to(noise.device)] for noise in noises]
            return self._path_lengths(z[rows].to(compute.device), probe[rows].to(compute.device) / size, own, graph)

        found, loss = [lengths(rows, kept) for rows in parts], torch.zeros((), device=compute.device)
        mean = sum((each.detach().sum() for each in found), loss) * (compute.processes / count)
        mean = mean if compute.accelerator is None else compute.accelerator.reduce(mean, reduction="mean")
        self.path_mean = self.path_mean.lerp(mean, 0.01)
        for index, rows in enumerate(parts):
            each = found[index] if kept else lengths(rows, True)
            part = (each - self.path_mean).square().sum() * (compute.processes / count)
            (self.recipe.path * self.recipe.path_every * part).backward()
            loss = loss + part.detach()
        return loss * compute.accumulate

    def _path_lengths(self, z: Tensor, probe: Tensor, noises: list[Tensor], graph: bool) -> Tensor:
        """How far the pictures of z [N, C] move along `probe` for a step in w; [N]. With `graph` the lengths have a gradient."""
        latent = self._rows(self.generator.mapping(z))
        picture = self.generator.picture_at(latent, self.recipe.size, noises)
        slope = torch.autograd.grad((picture * probe).sum(), latent, create_graph=graph)[0]
        return slope.square().sum(2).mean(1).sqrt()

    def _advance_discriminator(self, real: Tensor, fakes: Sequence[Tensor], losses: Losses) -> None:
        recipe, compute = self.recipe, self.compute
        self.discriminator.requires_grad_(True)
        for (wanted,), fake in zip(compute.parts(real), fakes, strict=True):
            wanted = wide(wanted)
            with compute.autocast():
                scores = self.discriminator(wanted).float(), self.discriminator(wide(fake)).float()
            total = F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()
            losses.add(discriminator=total)
            if recipe.r1 and self.step % recipe.r1_every == 0:
                penalty = self._r1(wanted)
                losses.add(r1=penalty)
                total = total + recipe.r1 / 2 * recipe.r1_every * penalty
            compute.backward(total)
        self.update(self.discriminator_optimizer, self.discriminator)

    def _r1(self, real: Tensor) -> Tensor:
        probe = real.detach().requires_grad_(True)
        with self.compute.autocast():
            score = self.discriminator(probe).float().sum()
        return torch.autograd.grad(score, probe, create_graph=True)[0].square().sum((1, 2, 3)).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        """The moving average; at first its half-life is a tenth of the pictures seen, so that it forgets the start."""
        batch = self.compute.batch
        half_life = min(self.recipe.average_pictures, 0.1 * (self.step + 1) * batch)
        keep = 0.5 ** (batch / half_life) if half_life else 0.0
        for mean, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)


def condition_mapping(generator: Generator, coordinates: int) -> None:
    """Lets the mapping start from the first `coordinates` of z only, with the variance that all of z would give."""
    weight = generator.style[1].get_parameter("weight")
    with torch.no_grad():
        weight[:, coordinates:] = 0
        weight[:, :coordinates] *= max(1.0, weight.shape[1] / coordinates) ** 0.5


def edge_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences of two [N, 3, H, W], the sum over both axes."""
    difference = a - b
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


def feature_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over levels and samples of the mean absolute difference, each sample's divided by the mean magnitude of its `wanted`."""
    pairs = [(a.float().flatten(1), b.float().flatten(1)) for a, b in zip(found, wanted, strict=True)]
    return torch.stack([((a - b).abs().mean(1) / (b.abs().mean(1) + 1e-8)).mean() for a, b in pairs]).mean()


def aligned(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `state` under the names that the same picture sizes have in `own`; those of another shape are omitted."""
    blocks, more = ({int(name.split(".")[1]) for name in names if name.startswith("convs.")} for names in (state, own))
    shift = max(more) - max(blocks)
    found = {}
    for name, value in state.items():
        if name.startswith("convs.") and not name.startswith("convs.0."):
            _, block, rest = name.split(".", 2)
            name = f"convs.{int(block) + shift}.{rest}"
        if name in own and own[name].shape == value.shape:
            found[name] = value
    return found
