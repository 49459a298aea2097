"""The paper's Table 1 for any model or bundle: e4e beside SDIC, and edits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_runtime.pipeline import BASELINE, Pipeline
from sdic_runtime.program import IMAGE, INVERT, PICTURE, Program, Step, run
from sdic_train.losses.pixels import l2, psnr, ssim
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import downsample
from sdic_train.portraits.portraits import PARAMETERS

Distance = Callable[[Tensor, Tensor], Tensor]
Change = tuple[Direction, float]  # a direction and its strength
# Kind of a parameter -> the distance between the means of its two sides, as a share of its range.
BETWEEN_SIDES = {"uniform": 0.5, "bell": 0.375, "sides": 0.7, "switch": 1.0, "rare": 0.9}


class Inverter(Protocol):
    """What is evaluated: all pictures [n, 3, S, S] float32 in [-1, 1]."""

    def e4e(self, image: Tensor) -> Tensor:
        """The reconstruction from the encoder's code alone."""

    def sdic(self, image: Tensor) -> Tensor:
        """The inversion."""

    def edits(self, image: Tensor, changes: Sequence[Change]) -> tuple[Tensor, list[Tensor]]:
        """The inversion, and what each change makes of it."""


@dataclass
class ModelInverter:
    """A PyTorch model; pictures are brought to the working size as the release does.

    `edit_first` edits the encoder's code and then compensates, the paper's ablation, instead of compensating and then editing.
    """

    model: SDIC
    edit_first: bool = False

    @torch.no_grad()
    def e4e(self, image: Tensor) -> Tensor:
        return self._small(self.model.generator(self.model.encode(image)))

    @torch.no_grad()
    def sdic(self, image: Tensor) -> Tensor:
        return self._small(self.model(image))

    @torch.no_grad()
    def edits(self, image: Tensor, changes: Sequence[Change]) -> tuple[Tensor, list[Tensor]]:
        found = self.model.invert(image)
        codes = found.latent.cpu().numpy()
        offsets = (torch.from_numpy(strength * direction.offset(codes)) for direction, strength in changes)
        deltas = [offset.to(image.device).expand_as(found.latent) for offset in offsets]
        if self.edit_first:
            return self._small(found.picture), [self._small(self._compensated(image, found.latent + delta)) for delta in deltas]
        return self._small(found.picture), [self._small(self.model.edit(found, delta)) for delta in deltas]

    def _compensated(self, image: Tensor, latent: Tensor) -> Tensor:
        """The picture of an edited code with the discrepancy between the unedited input and the edited reconstruction put back."""
        generator = self.model.generator
        feature, rgb = generator.head(latent)
        discrepancy = self.model.dipn(image, generator.preview(feature, rgb, latent))
        enhanced, residual = self.model.dicn(discrepancy, feature, latent)
        return generator.tail(feature, generator.head(enhanced)[1], enhanced, residual)

    def _small(self, picture: Tensor) -> Tensor:
        return downsample(picture.clamp(-1, 1), self.model.config.working)


@dataclass
class PipelineInverter:
    """A bundle on any backend."""

    pipeline: Pipeline

    def e4e(self, image: Tensor) -> Tensor:
        backend, manifest = self.pipeline.backend, self.pipeline.bundle.manifest
        baseline = manifest.programs.get(BASELINE)
        if baseline is None:
            raise ArgumentError(f'the bundle "{manifest.name}" has no program "{BASELINE}" to compare its inversions with')
        tensors = {IMAGE: backend.upload(image.numpy())}
        tensors |= run(only(manifest.programs[INVERT], set(baseline.takes) - set(baseline.zeros)), backend, tensors)
        tensors |= {name: backend.upload(np.zeros(manifest.shape(name, len(image)), np.float32)) for name in baseline.zeros}
        picture = backend.run_program(BASELINE, {name: tensors[name] for name in baseline.takes})[PICTURE]
        return self._small(backend.download(picture))

    def sdic(self, image: Tensor) -> Tensor:
        return self._small(self.pipeline.invert(image.numpy()).pixels)

    def edits(self, image: Tensor, changes: Sequence[Change]) -> tuple[Tensor, list[Tensor]]:
        inversion = self.pipeline.invert(image.numpy())
        edited = [self.pipeline.edit(inversion, direction, strength=strength) for direction, strength in changes]
        return self._small(inversion.pixels), [self._small(result.pixels) for result in edited]

    def _small(self, pixels: NDArray[np.float32]) -> Tensor:
        return downsample(torch.from_numpy(np.array(pixels)).clamp(-1, 1), self.pipeline.sizes["S"])


def only(program: Program, tensors: Iterable[str]) -> Program:
    """The steps of `program` that those of `tensors` which it gives need: so that their time alone is measured."""
    gives = {name: program.gives[name] for name in tensors if name in program.gives}
    steps: list[Step] = []
    wanted = set(gives.values())
    for step in reversed(program.steps):
        if wanted & set(step.outputs.values()):
            steps.insert(0, step)
            wanted |= set(step.inputs.values())
    return msgspec.structs.replace(program, steps=tuple(steps), gives=gives)


def table(
    inverter: Inverter, images: Tensor, identity: Distance | None, perceptual: Distance | None, batch: int = 8
) -> dict[str, dict[str, float]]:
    """Method -> metric -> mean over the pictures. Metrics: ID (cosine similarity), SSIM, PSNR (dB), LPIPS, L2 (on [-1, 1]), seconds per
    picture (encoder included, after one call that is not counted)."""
    rows: dict[str, dict[str, float]] = {}
    for name, method in (("e4e", inverter.e4e), ("SDIC", inverter.sdic)):
        method(images[:1])
        parts, seconds = list[dict[str, Tensor]](), 0.0
        for image in images.split(batch):
            start = _now(image)
            picture = method(image)
            seconds += _now(image) - start
            parts.append(_metrics(picture, image, identity, perceptual))
        means = {metric: float(torch.cat([part[metric].cpu() for part in parts]).mean()) for metric in parts[0]}
        rows[name] = {**means, "seconds": seconds / len(images)}
    return rows


def edit_table(
    inverter: Inverter,
    images: Tensor,
    directions: Mapping[str, Direction],
    strengths: Mapping[str, float],
    reader: PortraitReader,
    batch: int = 8,
) -> dict[str, dict[str, float]]:
    """Attribute -> what its edit does to portraits that lack it, or have it (then the strength is negative).

    `moved`     the change of the attribute as a share of the distance between its two sides' means
    `others`    the mean absolute change of the other attributes, on the same scale
    `identity`  cosine similarity with the unedited inversion
    """
    attributes = {entry.name: (place, entry) for place, entry in enumerate(PARAMETERS) if entry.threshold is not None}
    columns = [place for place, _ in attributes.values()]
    spans = torch.tensor([BETWEEN_SIDES[entry.kind] * (entry.high - entry.low) for _, entry in attributes.values()])
    names = [name for name in directions if name in attributes]
    changes = [(directions[name], sign * strengths[name]) for name in names for sign in (1, -1)]
    parts: dict[str, dict[str, list[Tensor]]] = {name: {"moved": [], "others": [], "identity": []} for name in names}
    for image in images.split(batch):
        with torch.no_grad():
            before, results = inverter.edits(image, changes)
            values, person = reader(before), reader.identity(before)
            for index, name in enumerate(names):
                place, entry = attributes[name]
                own, rising = columns.index(place), values[:, place] <= (entry.threshold or 0.0)
                after = torch.where(rising[:, None, None, None], results[2 * index], results[2 * index + 1])
                change = (reader(after) - values)[:, columns] / spans
                parts[name]["moved"].append(torch.where(rising, change[:, own], -change[:, own]))
                parts[name]["others"].append(torch.cat([change[:, :own], change[:, own + 1 :]], 1).abs().mean(1))
                parts[name]["identity"].append((person * reader.identity(after)).sum(1))
    means = {name: {measure: float(torch.cat(found).mean()) for measure, found in measures.items()} for name, measures in parts.items()}
    return {name: {"strength": strengths[name], **measures} for name, measures in means.items()}


def markdown(rows: Mapping[str, Mapping[str, float]], first: str) -> str:
    """A Markdown table with one row per entry."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {first} | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    lines += [f"| {name} | {' | '.join(f'{values[column]:.4g}' for column in columns)} |" for name, values in rows.items()]
    return "\n".join(lines)


def _metrics(picture: Tensor, image: Tensor, identity: Distance | None, perceptual: Distance | None) -> dict[str, Tensor]:
    with torch.no_grad():
        found = {} if identity is None else {"ID": 1 - identity(picture, image)}
        found |= {"SSIM": ssim(picture, image), "PSNR": psnr(picture, image), "L2": l2(picture, image)}
        return found if perceptual is None else {**found, "LPIPS": perceptual(picture, image)}


def _now(image: Tensor) -> float:
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return time.perf_counter()


def default_strengths(directions: Mapping[str, Direction]) -> dict[str, float]:
    """Two thirds of each suggested range: the distance between the two sides' means."""
    return {name: (direction.strength_range[1] / 1.5 if direction.strength_range else 3.0) for name, direction in directions.items()}


def only_directions(edits: Mapping[str, object], names: Sequence[str] | None = None) -> dict[str, Direction]:
    """The constant directions among `edits`, all or those in `names`."""
    return {name: edit for name, edit in edits.items() if isinstance(edit, Direction) and (names is None or name in names)}
