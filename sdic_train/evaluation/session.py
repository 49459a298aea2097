"""One evaluation: models opened in turn, measured, and those that fail named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.directions import load_directions
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError, SdicError
from sdic_runtime.pipeline import BASELINE, Pipeline
from sdic_train.checkpoints.load import read_checkpoint
from sdic_train.checkpoints.recognise import method_of
from sdic_train.evaluation.evaluate import Pictures, default_strengths, edit_rows, inversion_row, only_directions
from sdic_train.evaluation.measures import Judges
from sdic_train.evaluation.models import BASELINES, NAMES, Baseline, EditFirst, Evaluated
from sdic_train.evaluation.report import Report
from sdic_train.evaluation.tuned import EditPlan, Plan, Tuned, tuned_rows
from sdic_train.losses.lpips import SMALLEST
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.sdic.model import SDIC
from sdic_train.pipelines import Weights, pipeline_of
from sdic_train.portraits.portraits import ATTRIBUTES

TUNED = "pti"  # the method of rows whose generator was tuned


@dataclass(frozen=True)
class Entry:
    """A model to evaluate, not opened yet. `label`: the name of its row. `working`: the size that it works at, 0 where it does not open.
    `others`, `method`: of a checkpoint, see `pipelines.Weights`. `tuned`: its generator is tuned to every picture, as the session plans;
    `resolution`: what it generates, which those pictures should have, and `visible`: the rows of that which are judged. `ours`: a
    checkpoint that was trained here, which the terms of a method's released weights are not about."""

    path: Path
    label: str = ""
    method: str | None = None
    others: tuple[Path, ...] = ()
    working: int = 0
    tuned: bool = False
    resolution: int = 0
    visible: tuple[int, int] = (0, 0)
    ours: bool = False

    @property
    def wanted(self) -> int:
        """The size at which it can use pictures."""
        return self.resolution if self.tuned else self.working

    @property
    def is_bundle(self) -> bool:
        return self.path.is_dir()

    def looked_at(self) -> Entry:
        """With its method and working size. Raises SdicError."""
        if self.is_bundle:
            if self.tuned:
                raise ArgumentError(f"{self.path} is a bundle, whose generator cannot be tuned; give --tune the checkpoint")
            manifest = Bundle.open(self.path).manifest
            sizes, visible = manifest.sizes, manifest.visible_rows
            return replace(self, method=manifest.method, working=sizes["S"], resolution=sizes["R"], visible=visible)
        checkpoint = read_checkpoint(self.path, sure=self.method is None)
        config, method = checkpoint.config, self.method or method_of(checkpoint.kind)
        known = replace(self, method=method, working=config.working, ours=checkpoint.ours)
        return replace(known, resolution=config.resolution, visible=config.visible_rows)

    def check_width(self, width: int) -> None:
        """Raise ArgumentError where a picture of `width` pixels is too small to be judged, without the bars of a letterboxed domain."""
        if not self.working:
            return
        first, end = (row * width // self.resolution for row in self.visible)
        if end - first < SMALLEST:
            least = ceil(SMALLEST * self.resolution / (self.visible[1] - self.visible[0]))
            seen = f"judged at {width} pixels, pictures of {self.label} have {end - first} rows without bars"
            raise ArgumentError(f"{seen}, and the measures need {SMALLEST}; use --width {least} or more")


def entry(text: str) -> Entry:
    """The model that a command line names: a path, or NAME=PATH."""
    name, sign, path = text.partition("=")
    named = bool(sign and name) and "/" not in name and not Path(text).exists()
    return Entry(Path(path), name) if named else Entry(Path(text))


def looked_at(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with methods, working sizes and distinct labels: the method's name, with that of the file where it is there twice. What
    does not open keeps its path as its label, and says why when it is measured. Raises SdicError where none opens, or labels are given
    twice."""
    found, faults = list[Entry](), list[SdicError]()
    for each in entries:
        try:
            found.append(each.looked_at())
        except SdicError as error:
            faults.append(error)
            found.append(each)
    if len(faults) == len(entries):
        raise faults[0]
    names = [each.label or (_named(each) if each.working and each.method else str(each.path)) for each in found]
    counts = Counter(names)
    labels = [name if counts[name] == 1 else f"{name} ({each.path.name})" for name, each in zip(names, found, strict=True)]
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise ArgumentError(f'two models would be called "{twice}"; name them with NAME=PATH')
    return [replace(each, label=label) for each, label in zip(found, labels, strict=True)]


def _named(entry: Entry) -> str:
    method = TUNED if entry.tuned else entry.method or ""
    return NAMES.get(method, method)


@dataclass(frozen=True)
class Edits:
    """Which edits are measured: along the directions in `folder`, or else each bundle's own, `strength` times what each suggests."""

    reader: PortraitReader
    folder: Path | None
    strength: float

    def directions(self, pipeline: Pipeline | None) -> dict[str, Direction]:
        """The constant directions of a portrait's attributes. Raises SdicError where there is none."""
        if self.folder is not None:
            found = only_directions(load_directions(self.folder))
        else:
            found = only_directions(pipeline.directions) if pipeline is not None else {}
        found = {name: direction for name, direction in found.items() if name in ATTRIBUTES}
        if not found:
            where, how = self.folder or "the bundle", "make some with `sdic-train directions`"
            raise ArgumentError(f"{where} holds no direction of a portrait's attribute; {how}")
        return found

    def strengths(self, directions: dict[str, Direction]) -> dict[str, float]:
        return {name: self.strength * value for name, value in default_strengths(directions).items()}


@dataclass(frozen=True)
class Session:
    """What holds for all models. `backend`: of bundles. `device`: of checkpoints. `baseline`: also a row of what the method starts from.
    `plan`: of the entries that are tuned."""

    pictures: Pictures
    judges: Judges
    edits: Edits | None = None
    edit_first: bool = False
    baseline: bool = False
    backend: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    batch: int = 8
    plan: Plan = field(default_factory=Plan)

    def measure(self, entry: Entry, report: Report) -> None:
        """Add the rows of one model to the report. Raises SdicError."""
        if entry.tuned:
            self._measure_tuned(entry, report)
            return
        with self.opened(entry, report.width) as model:
            pipeline, rows = model.pipeline, {entry.label: model}
            method, where = pipeline.bundle.manifest.method, pipeline.backend.description
            if self.baseline and BASELINE in pipeline.bundle.manifest.programs:
                start = BASELINES.get(method)
                start = start if start and start not in report.inversion else f"{entry.label}, baseline"
                rows = {start: Baseline(pipeline, report.width), **rows}
            found = {label: inversion_row(each, self.pictures, self.judges, report.timing, self.batch) for label, each in rows.items()}
            if self.edits is not None:
                directions = self.edits.directions(pipeline)
                strengths = self.edits.strengths(directions)
                report.edits[entry.label] = edit_rows(
                    model, self.pictures, directions, strengths, self.edits.reader, report.timing, self.batch
                )
            for label, row in found.items():
                report.inversion[label], report.where[label] = row, where
                report.methods[label] = method if label == entry.label else BASELINES.get(method, "")

    def _measure_tuned(self, entry: Entry, report: Report) -> None:
        """The row of one checkpoint whose generator is tuned to each of the first pictures."""
        code, network = Weights(entry.path, entry.others, entry.method).read()
        with pipeline_of(code, network, entry.path, self.device) as pipeline:
            edits = None
            if self.edits is not None:
                directions = self.edits.directions(pipeline)
                edits = EditPlan(directions, self.edits.strengths(directions), self.edits.reader)
            model = Tuned(pipeline, report.width, network, self.plan)
            rows = tuned_rows(model, self.pictures, self.judges, edits, entry.label)
            where = pipeline.backend.description
        label = entry.label if rows.pictures == len(self.pictures) else f"{entry.label}, {rows.pictures} pictures"
        report.inversion[label], report.methods[label], report.where[label] = rows.inversion, TUNED, where
        if rows.edits:
            report.edits[label] = rows.edits
        report.tuned[label] = {"pictures": rows.pictures, "steps": rows.steps, "pivot": NAMES.get(code.name, code.name)}

    @contextmanager
    def opened(self, entry: Entry, width: int) -> Iterator[Evaluated]:
        """The model, closed behind the block. Raises SdicError."""
        if entry.is_bundle:
            if self.edit_first:
                raise ArgumentError("--edit-first needs a checkpoint: a bundle compensates first")
            with Pipeline.load(entry.path, backend=self.backend, threads=self.threads) as pipeline:
                yield Evaluated(pipeline, width)
            return
        code, model = Weights(entry.path, entry.others, entry.method).read()
        if self.edit_first and not isinstance(model, SDIC):
            raise ArgumentError(f"--edit-first is an ablation of SDIC, and {entry.path} is of {code.name}; omit it")
        with pipeline_of(code, model, entry.path, self.device) as pipeline:
            yield EditFirst(pipeline, width, model) if self.edit_first else Evaluated(pipeline, width)
