"""Pivotal tuning as a row of the table: for every picture the generator is tuned, measured, and put back. What was measured is kept."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_runtime.files import replacing
from sdic_runtime.pictures import fit
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.progress import progress
from sdic_runtime.sheets import save_picture
from sdic_train.evaluation.evaluate import SECONDS, Pictures, Timing, edit_rows, inversion_row
from sdic_train.evaluation.fid import frechet_distance
from sdic_train.evaluation.measures import Judges
from sdic_train.evaluation.models import Evaluated, Pixels
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.trainers.tuning import Tuning, TuningRecipe, pivots_of

ONCE = Timing(1, 0)


@dataclass(frozen=True)
class Plan:
    """How generators are tuned: to the first `count` pictures, for at most `steps` each. `perceptual`: of the loss. `folder`: where what
    was measured is kept, so that a run that was stopped goes on; None: nowhere."""

    count: int = 32
    steps: int = 350
    recipe: TuningRecipe = field(default_factory=TuningRecipe)
    perceptual: nn.Module | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Found:
    """A picture's tuning. `target` [1, 3, R, R]; `latent` [1, L, C]: the pivot; `seconds`: from the picture to its inversion."""

    target: Pixels
    latent: NDArray[np.float32]
    pixels: Pixels
    steps: int
    seconds: float


class Tuned(Evaluated):
    """A model whose generator is tuned to one picture at a time, around its encoder's code; the last picture's tuning lasts until another
    picture comes. Raises ArgumentError for a model without an encoder that gives a code."""

    def __init__(self, pipeline: Pipeline, width: int, model: Any, plan: Plan) -> None:
        super().__init__(pipeline, width)
        self.model, self.plan = model, plan
        self.weights = {name: tensor.clone() for name, tensor in model.generator.state_dict().items()}
        self.device = next(model.generator.parameters()).device
        self.found: Found | None = None

    def image(self, pictures: Pictures) -> tuple[Pixels, Pixels]:  # type: ignore[override]
        """What the encoder sees, and what the generator is tuned to: the same picture at the generator's size."""
        from PIL import Image

        manifest = self.pipeline.bundle.manifest
        sizes = {**self.pipeline.sizes, "S": self.pipeline.sizes["R"]}
        whole = [fit(Image.fromarray(picture), sizes, manifest.visible_rows, manifest.input.resampling) for picture in pictures]
        return super().image(pictures), np.concatenate(whole)

    def invert(self, image: tuple[Pixels, Pixels]) -> Found:  # type: ignore[override]
        encoded, target = image
        if self.found is None or not np.array_equal(self.found.target, target):
            self.found = self._tune(encoded, target)
        return self.found

    def _tune(self, encoded: Pixels, target: Pixels) -> Found:
        start, generator = time.perf_counter(), self.model.generator
        generator.load_state_dict(self.weights)
        try:
            latent = pivots_of(self.model, torch.from_numpy(encoded).to(self.device))
        except ArgumentError as error:
            what = self.pipeline.bundle.path
            raise ArgumentError(f"{what} has no encoder whose code a generator could be tuned around; tune one of e4e or pSp") from error
        average = getattr(self.model, "latent_avg", None)
        goal = torch.from_numpy(target).to(self.device)
        taken = len(list(Tuning(generator, latent, goal, self.plan.recipe, self.plan.perceptual, average).steps(self.plan.steps)))
        pixels = self._generated(latent)
        return Found(target, latent.cpu().numpy(), pixels, taken, time.perf_counter() - start)

    def picture(self, inverted: Found) -> Tensor:
        return self.shown(inverted.pixels)

    def edit(self, inverted: Found, direction: Direction, strength: float) -> Pixels:
        direction.check(self.pipeline.sizes)
        moved = inverted.latent + np.float32(strength) * direction.offset(inverted.latent)
        return self._generated(torch.from_numpy(moved.astype(np.float32)).to(self.device))

    @torch.no_grad()
    def _generated(self, latent: Tensor) -> Pixels:
        pixels: Pixels = self.model.generator(latent).cpu().numpy()
        return pixels


@dataclass(frozen=True)
class EditPlan:
    """The edits that are measured, as `evaluate.edit_rows` takes them."""

    directions: Mapping[str, Direction]
    strengths: Mapping[str, float]
    reader: PortraitReader


@dataclass
class TunedRows:
    """What `tuned_rows` found: the row of inversions, the rows of edits, and the steps that a picture took on average."""

    inversion: dict[str, float]
    edits: dict[str, dict[str, float]]
    steps: float
    pictures: int


def tuned_rows(model: Tuned, pictures: Pictures, judges: Judges, edits: EditPlan | None, name: str) -> TunedRows:
    """The model's rows on the first pictures. Times are medians over them; that of an inversion is the encoding and the tuning. With the
    plan's folder, what was measured of a picture with the same weights, networks and settings is read there, under `name`, and not measured
    again. Raises SdicError."""
    chosen, folder = pictures[: model.plan.count], None
    if model.plan.folder is not None:
        folder = model.plan.folder / "".join(letter if letter.isalnum() else "_" for letter in name)
        folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(model, judges, edits)
    records, shown = list[dict[str, Any]](), list[Tensor]()
    for index, picture in enumerate(progress(chosen, f"tuning for {name}")):
        record, inverted = _measured(model, picture[None], judges, edits, None if folder is None else folder / f"{index:03d}", settings)
        records.append(record)
        shown.append(inverted)
    row = _means([record["inversion"] for record in records])
    if judges.features is not None and len(chosen) > 1:
        targets = [judges.features(model.target(picture[None])) for picture in chosen]
        row["FID"] = frechet_distance(np.concatenate([judges.features(each) for each in shown]), np.concatenate(targets))
    each = {attribute: _means([record["edits"][attribute] for record in records]) for attribute in records[0]["edits"]}
    return TunedRows(row, each, statistics.fmean(record["steps"] for record in records), len(chosen))


def _measured(
    model: Tuned, picture: Pictures, judges: Judges, edits: EditPlan | None, path: Path | None, settings: str
) -> tuple[dict[str, Any], Tensor]:
    """The measures of one picture, kept at `path`.json, and its inversion, which `path`.png shows, in steps of 1 / 255."""
    key = hashlib.sha256(settings.encode() + picture.tobytes()).hexdigest()
    if path is not None and (kept := _kept(path, key)) is not None:
        return kept
    row = inversion_row(model, picture, judges, ONCE)
    assert model.found is not None
    row[SECONDS] = model.found.seconds
    rows = {} if edits is None else edit_rows(model, picture, edits.directions, edits.strengths, edits.reader, ONCE)
    record = {"key": key, "steps": model.found.steps, "inversion": row, "edits": rows}
    shown = ((model.picture(model.found) + 1) * 127.5).round().to(torch.uint8)
    if path is not None:
        _keep(path, record, shown[0])
    return record, shown.float() / 127.5 - 1


def _kept(path: Path, key: str) -> tuple[dict[str, Any], Tensor] | None:
    """What was kept with this key, and nothing for a file that another run, or a fault of the disk, left there."""
    from PIL import Image

    try:
        record = json.loads(path.with_suffix(".json").read_text())
        pixels = np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    return record, torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1


def _keep(path: Path, record: Mapping[str, Any], shown: Tensor) -> None:
    """The picture first: a record is there only where its picture is."""
    from PIL import Image

    save_picture(Image.fromarray(shown.permute(1, 2, 0).numpy()), path.with_suffix(".png"))
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _settings(model: Tuned, judges: Judges, edits: EditPlan | None) -> str:
    """A text that differs where anything differs that measures depend on, but for the picture."""
    networks = [model.model, model.plan.perceptual, judges.identity, judges.perceptual, edits and edits.reader]
    parts = [repr((model.plan.recipe, model.plan.steps, model.width, [_digest(network) for network in networks])), repr(judges.device)]
    if edits is not None:
        each = [(name, edits.strengths[name], way.rows, way.vector.tobytes()) for name, way in edits.directions.items()]
        parts.append(hashlib.sha256(repr(each).encode()).hexdigest())
    return " ".join(parts)


def _digest(network: object) -> str:
    """Of the weights of a network; of anything else its name."""
    if not isinstance(network, nn.Module):
        return getattr(network, "__qualname__", repr(network))
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Column -> mean; of times the median."""
    return {name: (statistics.median if name == SECONDS else statistics.fmean)(row[name] for row in rows) for name in rows[0]}
