"""One picture through several bundles, of any methods and sizes: what each makes of it, how close that is, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.decoding.shapes import SQUASH
from sdic_runtime.errors import SdicError
from sdic_runtime.pictures import prepare, working_rows
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.tools.judges import Judge
from sdic_runtime.tools.scores import judged, scores

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdic_runtime.edit_orders import EditOrder
    from sdic_runtime.edits import EditLike
    from sdic_runtime.inversion import Inversion

WARM_UP = 1  # calls before the measured ones


@dataclass(frozen=True)
class Plan:
    """What to do with every bundle. `judges`: column -> network."""

    picture: Image
    orders: Sequence[EditOrder] = ()
    backend: str = "auto"
    precision: str | None = None
    runs: int = 3
    judges: Mapping[str, Judge] = field(default_factory=dict)


@dataclass
class Outcome:
    """What one bundle made of the picture. `seconds`: "inversion" or "edit" -> those of each measured call, one picture per call."""

    label: str
    bundle: Path
    method: str = ""
    description: str = ""  # of the backend
    sizes: Mapping[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    inversion: Image | None = None
    edits: dict[str, Image] = field(default_factory=dict)  # by label
    problems: list[str] = field(default_factory=list)  # sentences
    notices: Sequence[str] = ()  # of its pipeline's precision

    def median(self, what: str) -> float | None:
        """The middle of the measured seconds of "inversion" or "edit"."""
        return statistics.median(self.seconds[what]) if what in self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        medians = {what: self.median(what) for what in self.seconds}
        about = {"label": self.label, "bundle": str(self.bundle), "method": self.method, "backend": self.description}
        numbers = {"scores": self.scores, "median_seconds": medians, "seconds": self.seconds}
        return {**about, "sizes": dict(self.sizes), **numbers, "edits": list(self.edits), "problems": self.problems}


def labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each bundle: its folder's, or its whole path where two folders have the same name."""
    names = [path.name or path.resolve().name for path in paths]
    return [name if Counter(names)[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def judging_width(paths: Iterable[Path]) -> int:
    """The width at which all bundles are judged: the smallest of their working sizes, 0 where none opens."""
    widths = []
    for path in paths:
        try:
            widths.append(Bundle.open(path).manifest.sizes["S"])
        except SdicError:
            continue  # `compare_bundles` says why
    return min(widths, default=0)


def compare_bundles(paths: Sequence[Path], plan: Plan, width: int) -> Iterator[Outcome]:
    """The outcome of each bundle in turn, judged at `width` pixels, one in memory at a time; one that fails says why in its outcome."""
    for label, path in zip(labels(paths), paths, strict=True):
        outcome = Outcome(label, path)
        try:
            with Pipeline.load(path, backend=plan.backend, precision=plan.precision) as pipeline:
                _fill(outcome, pipeline, plan, width)
        except SdicError as error:
            outcome.problems.append(str(error))
        yield outcome


def _fill(outcome: Outcome, pipeline: Pipeline, plan: Plan, width: int) -> None:
    """Invert, judge, edit, and measure. Raises SdicError where there is no inversion."""
    manifest = pipeline.bundle.manifest
    outcome.notices = pipeline.unreduced
    outcome.method, outcome.sizes, outcome.description = manifest.method, manifest.sizes, pipeline.backend.description
    image = pipeline.prepare(plan.picture, SQUASH)
    inversion: Inversion = pipeline.invert(image)
    (outcome.inversion,) = inversion.images
    rows = manifest.visible_rows
    picture, target = judged(inversion.pixels, pipeline.sizes, rows, width), _target(pipeline, plan.picture, width)
    outcome.scores = scores(picture, target) | {column: float(judge(picture, target)[0]) for column, judge in plan.judges.items()}
    outcome.seconds["inversion"] = measured(lambda: pipeline.invert(image).pixels, plan.runs)
    for order in plan.orders:
        try:
            edit = order.edit(pipeline.bundle, pipeline.directions)
            (outcome.edits[order.label],) = pipeline.edit(inversion, edit).images
            if "edit" not in outcome.seconds:
                outcome.seconds["edit"] = measured(partial(_edited, pipeline, inversion, edit), plan.runs)
        except SdicError as error:
            outcome.problems.append(f"{order.label}: {error}")


def _edited(pipeline: Pipeline, inversion: Inversion, edit: EditLike) -> np.ndarray:
    return pipeline.edit(inversion, edit).pixels


def _target(pipeline: Pipeline, picture: Image, width: int) -> np.ndarray:
    """What the inversion should be: the picture at `width` pixels, as the bundle's domain frames it."""
    sizes, manifest = {**pipeline.sizes, "S": width}, pipeline.bundle.manifest
    first, end = working_rows(sizes, manifest.visible_rows)
    return prepare(picture, sizes, manifest.visible_rows, manifest.input.resampling)[:, :, first:end]


def measured(call: Callable[[], object], runs: int) -> list[float]:
    """Wall-clock seconds of `runs` calls, after some that warm up. What `call` returns is on the host, so that a device has finished."""
    seconds = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]
