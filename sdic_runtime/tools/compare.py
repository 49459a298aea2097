"""Two backends on the same picture: how far apart they are in every stage and end to end, and which stage is to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.backends.base import Backend, Tensor
from sdic_runtime.errors import ArgumentError, BackendError
from sdic_runtime.program import IMAGE, INVERT, PICTURE, run
from sdic_runtime.tools.wrapper import Wrapper

if TYPE_CHECKING:
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.edit_orders import EditOrder
    from sdic_runtime.edits import EditLike
    from sdic_runtime.pictures import PictureLike

PICTURE_RANGE = 2.0


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from its reference."""

    where: str  # a stage's name, or "inversion" or "edit" for a whole program
    tensor: str
    largest: float  # largest absolute difference
    ratio: float  # the largest difference over the standard deviation of the reference, or its size where all values are equal
    psnr: float  # decibels, against the reference's range; the picture is clamped to [-1, 1] first
    cosine: float  # of the two tensors as vectors

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity and no NaN: those become None."""
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in asdict(self).items()}


def difference(where: str, tensor: str, value: np.ndarray, reference: np.ndarray) -> Difference:
    """Measure `value` against `reference`, arrays of one shape; a value that is not finite is infinitely far away."""
    if value.shape != reference.shape:
        raise BackendError(
            f"{where} gave {tensor} with shape {list(value.shape)} where {list(reference.shape)} was expected; "
            "the backends hold different models"
        )
    got, want = value.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if not np.isfinite(got).all():
        return Difference(where, tensor, math.inf, math.inf, -math.inf, math.nan)
    largest = float(np.abs(got - want).max())
    ratio = largest / (float(want.std()) or float(np.abs(want).max()) or 1.0)
    lengths = float(np.linalg.norm(got) * np.linalg.norm(want))
    cosine = min(1.0, float(got @ want) / lengths) if lengths else float(largest == 0)
    return Difference(where, tensor, largest, ratio, _psnr(got, want, tensor == PICTURE), cosine)


def _psnr(value: np.ndarray, reference: np.ndarray, is_picture: bool) -> float:
    """Peak signal-to-noise ratio in decibels; infinite for equal arrays."""
    if is_picture:
        value, reference = np.clip(value, -1, 1), np.clip(reference, -1, 1)
    peak = PICTURE_RANGE if is_picture else float(reference.max() - reference.min())
    error = float(np.mean((value - reference) ** 2))
    if error == 0:
        return math.inf
    return 10 * float(np.log10(peak * peak / error)) if peak else -math.inf


class Compared:
    """The stages of `reference`, of which those called `stages` also run on `examined`, with the same inputs."""

    def __init__(self, examined: Backend, reference: Backend, stages: Sequence[str]) -> None:
        self.examined, self.reference, self.stages = examined, reference, stages
        self.worst: dict[tuple[str, str], Difference] = {}  # of the runs of a stage, by stage and tensor

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        results = self.reference.run(stage, inputs, outputs)
        if stage in self.stages:
            for name, value in _run_on(self.examined, self.reference, stage, inputs, outputs).items():
                found = difference(stage, name, value, self.reference.download(results[name]))
                self.worst[stage, name] = max(found, self.worst.get((stage, name), found), key=lambda item: item.ratio)
        return results


def _run_on(other: Backend, home: Backend, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a stage on `other` with tensors of `home`; its outputs on the host."""
    moved = {name: other.upload(home.download(tensor)) for name, tensor in inputs.items()}
    return {name: other.download(tensor) for name, tensor in other.run(stage, moved, outputs).items()}


class Swapped(Wrapper):
    """A backend in which one stage runs on another backend: shows whether that stage alone causes a difference."""

    def __init__(self, inner: Backend, other: Backend, stage: str) -> None:
        super().__init__(inner)
        self.other, self.stage = other, stage

    @property
    def description(self) -> str:
        return f"{self.inner.description}, {self.stage} on {self.other.description}"

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        if stage != self.stage:
            return self.inner.run(stage, inputs, outputs)
        return {name: self.upload(array) for name, array in _run_on(self.other, self.inner, stage, inputs, outputs).items()}


@dataclass(frozen=True)
class Comparison:
    """All differences between two backends on one picture, and whether they are small enough."""

    backend: str  # description of the backend that was examined
    against: str  # description of the one that was taken as right
    tolerance: float  # largest difference over standard deviation that passes
    differences: tuple[Difference, ...]

    @property
    def excessive(self) -> list[Difference]:
        """The differences above the tolerance; the stages come first, in the order in which they run."""
        return [item for item in self.differences if not item.ratio <= self.tolerance]

    @property
    def passed(self) -> bool:
        return not self.excessive

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "passed": self.passed, "differences": [item.as_dict() for item in self.differences]}


def compare_backends(
    bundle_path: Path | None,
    picture: PictureLike,
    backend: str,
    against: str,
    swap: str | None = None,
    precision: str | None = None,
    against_precision: str | None = None,
    checkpoint: Path | None = None,
    tolerance: float | None = None,
    order: EditOrder | None = None,
) -> Comparison:
    """Load both backends on one bundle and compare them on `picture`.

    backend, against  names, with options after a colon ("onnxruntime:threads=1"); `against` is taken as right
    checkpoint        the weights for a backend that reads a checkpoint
    swap              a stage: programs run on `against` with only this stage on `backend`
    tolerance         largest difference over standard deviation that passes; the bundle's own for what runs when None
    order             the edit to compare; the bundle's first direction at strength 1 when None
    Raises SdicError for whatever keeps either backend from running.
    """
    from sdic_runtime.backends.registry import load_backend
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.pictures import prepare

    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    if tolerance is not None and not tolerance >= 0:
        raise ArgumentError(f"the tolerance is {tolerance}; give a number of at least 0")
    if swap is not None and swap not in manifest.stages:
        raise ArgumentError(f'there is no stage "{swap}"; the stages are {", ".join(manifest.stages)}')
    edit = order.edit(bundle) if order is not None else _first_direction(bundle)
    image = prepare(picture, manifest.sizes, manifest.visible_rows, manifest.input.resampling)
    wishes = {"checkpoint": str(checkpoint) if checkpoint is not None else None}
    examined = load_backend(backend, bundle, wishes, precision=precision)
    reference = load_backend(against, bundle, wishes, precision=against_precision)
    if tolerance is None:
        tolerance = _tolerance(bundle, examined, reference)
    whole = examined if swap is None else Swapped(reference, examined, swap)
    got, want = (_inversion_and_edit(bundle, each, image, edit) for each in (whole, reference))
    stages = Compared(examined, reference, tuple(manifest.stages) if swap is None else (swap,))
    run(manifest.programs[INVERT], stages, {IMAGE: reference.upload(image)})
    differences = (*stages.worst.values(), *(difference(*key, got[key], want[key]) for key in want))
    return Comparison(whole.description, reference.description, tolerance, differences)


def _tolerance(bundle: Bundle, *backends: Backend) -> float:
    """The bundle's tolerance for the least exact of `backends`. Raises ArgumentError where it gives none for one of them."""
    allowed = bundle.manifest.tolerances
    missing = next((backend.precision for backend in backends if backend.precision not in allowed), None)
    if missing is not None:
        raise ArgumentError(f'the bundle gives no tolerance for precision "{missing}"; name one with --tolerance')
    return max(allowed[backend.precision] for backend in backends)


def _inversion_and_edit(bundle: Bundle, backend: Backend, image: np.ndarray, edit: EditLike | None) -> dict[tuple[str, str], np.ndarray]:
    """Every tensor that the inversion makes, and the picture of `edit` in its default form, as host arrays by (what, tensor)."""
    from sdic_runtime.pipeline import Pipeline

    pipeline = Pipeline(bundle, backend)
    inversion = pipeline.invert(image)
    arrays = {("inversion", name): held.host() for name, held in inversion.tensors.items() if name != IMAGE}
    return arrays if edit is None else {**arrays, ("edit", PICTURE): pipeline.edit(inversion, edit).pixels}


def _first_direction(bundle: Bundle) -> EditLike | None:
    """The bundle's first direction, where it can be edited along one."""
    from sdic_runtime.directions import load_direction
    from sdic_runtime.edits import Direction

    editable = any("direction" in move.kinds for move in bundle.manifest.moves.values())
    found = (load_direction(bundle.file(file)) for file in bundle.manifest.directions.values()) if editable else ()
    return next((direction for direction in found if isinstance(direction, Direction)), None)
