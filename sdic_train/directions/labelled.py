"""InterFaceGAN on a user's own labelled pictures, and how far along a direction a model follows.

A model, a checkpoint or a bundle, gives the code of a picture, and the code that it finds again in an edited picture. That follows the edit
until the picture saturates or breaks: there the useful strengths of the direction end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import CODE_AXES, IMAGE, INVERT, run
from sdic_train.directions.latent import Boundary
from sdic_train.networks.stylegan2 import downsample
from sdic_train.pipelines import only

Codes = NDArray[np.float32]
FOLLOWED = 0.5  # of what a step of strength brought so far, which the next one must bring
NOTHING = 0.05  # share of a strength that is found again, below which the model does not follow at all
STEPS_PER_DISTANCE = 4  # strengths tried per distance between the two sides
LONGEST = 3  # distances between the two sides
MEASURED = 8  # pictures
SPACES = ("w", "w+")


class Coder(Protocol):
    """What finds codes."""

    def read(self, paths: Sequence[Path]) -> Codes:
        """The codes of pictures, [n, L, C]. Raises PictureError."""

    def found_again(self, path: Path, direction: Direction, strengths: Sequence[float]) -> Codes:
        """The codes [strengths, L, C] that are found in the edited pictures of one picture."""


@dataclass
class PipelineCoder:
    """A bundle, or a checkpoint's networks, as a pipeline."""

    pipeline: Pipeline

    def read(self, paths: Sequence[Path]) -> Codes:
        return self._codes(np.concatenate([self.pipeline.prepare(path) for path in paths]))

    def found_again(self, path: Path, direction: Direction, strengths: Sequence[float]) -> Codes:
        pixels = self.pipeline.edit(self.pipeline.invert(path), direction, strengths).pixels
        small = downsample(torch.from_numpy(np.array(pixels)).clamp(-1, 1), self.pipeline.sizes["S"])
        return np.concatenate([self._codes(picture[None]) for picture in small.numpy()])

    def _codes(self, image: Codes) -> Codes:
        """The code that directions move, without the steps of an inversion that it does not need."""
        backend, method = self.pipeline.backend, self.pipeline.bundle.manifest
        move = next(form for form in method.moves.values() if "direction" in form.kinds)
        code = next(name for name in method.keeps if name in move.codes and method.tensors[name] == CODE_AXES)
        made = run(only(method.programs[INVERT], [code]), backend, {IMAGE: backend.upload(image)})
        return np.asarray(backend.download(made[code]))


def open_coder(model: Path, backend: str = "auto", threads: int | None = None) -> Coder:
    """The coder of a checkpoint, or of the bundle in a folder. Raises SdicError."""
    if model.is_dir():
        return PipelineCoder(Pipeline.load(model, backend=backend, threads=threads))
    from sdic_train.pipelines import Weights, pipeline_of

    return PipelineCoder(pipeline_of(*Weights(model).read(), model))


def codes_of(coder: Coder, paths: Sequence[Path], batch: int = 8) -> Iterator[Codes]:
    """The codes of pictures, a batch at a time."""
    for start in range(0, len(paths), batch):
        yield coder.read(paths[start : start + batch])


def flat(codes: Codes, space: str) -> Codes:
    """Codes [n, L, C] as what the machine separates: in "w" the mean of the rows, [n, C]; in "w+" all rows, [n, L * C]."""
    if space not in SPACES:
        raise ArgumentError(f'the space is "{space}"; use {" or ".join(SPACES)}')
    return np.asarray(codes.mean(1) if space == "w" else codes.reshape(len(codes), -1))


def as_rows(boundary: Boundary, rows: int) -> Boundary:
    """A boundary of flat codes in "w+" with a direction [L, C]."""
    return replace(boundary, direction=replace(boundary.direction, vector=boundary.direction.vector.reshape(rows, -1)))


@dataclass(frozen=True)
class Reach:
    """How far a model follows a direction. `shares`: strength -> the mean share of it that is found again. `measured`: False where not even
    the smallest step is followed on some side, so that the range there is only a guess."""

    strength_range: tuple[float, float]
    shares: dict[float, float]
    measured: bool


def measure_reach(coder: Coder, boundary: Boundary, paths: Sequence[Path], space: str) -> Reach:
    """The useful strengths of a direction, on up to 8 of the pictures `paths`.

    Strengths grow on each side in steps of a quarter of the distance between the two sides, to three such distances. The range ends before
    the first step that brings less than half of what the steps before it brought at their best mean.
    """
    step = boundary.separation / STEPS_PER_DISTANCE
    positive = [step * number for number in range(1, LONGEST * STEPS_PER_DISTANCE + 1)]
    strengths = [0.0, *positive, *(-strength for strength in positive)]
    normal = boundary.direction.vector.reshape(-1)
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, min(MEASURED, len(paths))).astype(int)]
    moved = np.zeros(len(strengths))
    for path in chosen:
        along = flat(coder.found_again(path, boundary.direction, strengths), space) @ normal
        moved += (along - along[0]) / len(chosen)
    shares = {strength: float(distance / strength) for strength, distance in zip(strengths[1:], moved[1:], strict=True)}
    ends = [_end([shares[side * strength] for strength in positive], positive, side) for side in (-1, 1)]
    guess = boundary.separation
    low, high = (round(end or sign * guess, 2) for end, sign in zip(ends, (-1, 1), strict=True))
    return Reach((low, high), shares, all(ends))


def _end(shares: Sequence[float], strengths: Sequence[float], side: int) -> float:
    """The last of the growing `strengths` that is followed, with the sign of `side`; 0 where none is."""
    best = before = end = 0.0
    for share, strength in zip(shares, strengths, strict=True):
        brought, best = (share * strength - before) / strengths[0], max(best, share)
        if best < NOTHING or not brought >= FOLLOWED * best:
            break
        before, end = share * strength, side * strength
    return end
