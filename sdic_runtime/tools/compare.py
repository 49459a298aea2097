"""Two backends on the same picture: how far apart they are in every stage and end to end, and which stage is to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.backends.options import open_backend
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES

if TYPE_CHECKING:
    import numpy as np

    from sdic_runtime.backends.registry import Backend
    from sdic_runtime.bundle.bundle import Bundle

PICTURE_TENSORS = frozenset({"picture", "reconstruction"})  # what a person sees: clamped to [-1, 1] before PSNR
PICTURE_RANGE = 2.0


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from its reference."""

    where: str  # a stage's name, or "inversion" or "edit" for the whole chain
    tensor: str
    largest: float  # largest absolute difference
    ratio: float  # the largest difference over the standard deviation of the reference
    psnr: float  # decibels, against the reference's range; pictures are clamped to [-1, 1] first
    cosine: float  # of the two tensors as vectors

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity and no NaN: those become None."""
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in asdict(self).items()}


def difference(where: str, tensor: str, value: np.ndarray, reference: np.ndarray) -> Difference:
    """Measure `value` against `reference`, arrays of one shape; a value that is not finite is infinitely far away."""
    import numpy as np

    if value.shape != reference.shape:
        raise SdicError(
            f"{where} gave {tensor} with shape {list(value.shape)} where {list(reference.shape)} was expected; "
            "the backends hold different models"
        )
    got, want = value.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if not np.isfinite(got).all():
        return Difference(where, tensor, float("inf"), float("inf"), float("-inf"), float("nan"))
    largest = float(np.abs(got - want).max())
    lengths = float(np.linalg.norm(got) * np.linalg.norm(want))
    cosine = min(1.0, float(got @ want) / lengths) if lengths else float(largest == 0)
    return Difference(where, tensor, largest, over(largest, float(want.std())), psnr(got, want, tensor in PICTURE_TENSORS), cosine)


def psnr(value: np.ndarray, reference: np.ndarray, is_picture: bool) -> float:
    """Peak signal-to-noise ratio in decibels; infinite for equal arrays."""
    import numpy as np

    if is_picture:
        value, reference, peak = np.clip(value, -1, 1), np.clip(reference, -1, 1), PICTURE_RANGE
    else:
        peak = float(reference.max() - reference.min())
    error = float(np.mean((value - reference) ** 2))
    if error == 0:
        return float("inf")
    return 10 * float(np.log10(peak * peak / error)) if peak else float("-inf")


def over(largest: float, deviation: float) -> float:
    """The largest difference over the deviation; 0 for equal arrays, infinite for an unequal constant."""
    if largest == 0:
        return 0.0
    return largest / deviation if deviation else float("inf")


@dataclass(frozen=True)
class Call:
    """One run of one stage, with copies of its tensors on the host."""

    stage: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


@dataclass
class Recording:
    """A backend that keeps a copy of everything that passes through each stage."""

    inner: Backend
    calls: list[Call] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def description(self) -> str:
        return self.inner.description

    def upload(self, array: np.ndarray) -> Any:
        return self.inner.upload(array)

    def download(self, tensor: Any) -> np.ndarray:
        return self.inner.download(tensor)

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        results = self.inner.run(stage, inputs, outputs)
        self.calls.append(Call(stage, self.copies(inputs), self.copies(results)))
        return results

    def copies(self, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: self.inner.download(tensor) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Swapped:
    """A backend in which one stage runs on another backend: shows whether that stage alone causes a difference."""

    inner: Backend
    other: Backend
    stage: str

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise SdicError(f'there is no stage "{self.stage}"; the stages are {", ".join(STAGES)}')

    @property
    def name(self) -> str:
        return f"{self.inner.name} with {self.stage} on {self.other.name}"

    @property
    def description(self) -> str:
        return f"{self.inner.description}, {self.stage} on {self.other.description}"

    def upload(self, array: np.ndarray) -> Any:
        return self.inner.upload(array)

    def download(self, tensor: Any) -> np.ndarray:
        return self.inner.download(tensor)

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        if stage != self.stage:
            return self.inner.run(stage, inputs, outputs)
        moved = {name: self.other.upload(self.inner.download(tensor)) for name, tensor in inputs.items()}
        results = self.other.run(stage, moved, outputs)
        return {name: self.inner.upload(self.other.download(tensor)) for name, tensor in results.items()}


@dataclass(frozen=True)
class Comparison:
    """All differences between two backends on one picture, and whether they are small enough."""

    backend: str  # description of the backend that was examined
    against: str  # description of the one that was taken as right
    tolerance: float  # largest difference over standard deviation that passes
    differences: tuple[Difference, ...]

    @property
    def worst(self) -> Difference:
        return max(self.differences, key=lambda item: item.ratio)

    @property
    def excessive(self) -> tuple[Difference, ...]:
        """The differences above the tolerance; the stages come first, in the order of the chain."""
        return tuple(item for item in self.differences if not item.ratio <= self.tolerance)

    @property
    def passed(self) -> bool:
        return not self.excessive

    def as_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "against": self.against,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "differences": [item.as_dict() for item in self.differences],
        }


def compare_backends(
    bundle_path: Path | None,
    picture: Path,
    backend: str,
    against: str,
    swap: str | None = None,
    precision: str | None = None,
    against_precision: str | None = None,
    checkpoint: Path | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Load both backends on one bundle and compare them on `picture`.

    backend, against  names, with options after a colon ("onnxruntime:threads=1"); `against` is taken as right
    checkpoint        the weights for a backend that reads a checkpoint
    swap              a stage: the chain runs on `against` with only this stage on `backend`
    tolerance         largest difference over standard deviation that passes; the bundle's own when None
    Raises SdicError for whatever keeps either backend from running.
    """
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.pictures import prepare

    bundle = Bundle.open(bundle_path)
    if tolerance is None:
        tolerance = bundle_tolerance(bundle, (precision, against_precision))
    elif not tolerance >= 0:
        raise SdicError(f"the tolerance is {tolerance}; give a number of at least 0")
    if swap is not None and swap not in STAGES:
        raise SdicError(f'there is no stage "{swap}"; the stages are {", ".join(STAGES)}')
    image = prepare(picture, bundle.sizes, bundle.manifest.visible_rows)
    weights = str(checkpoint) if checkpoint is not None else None
    examined = open_backend(backend, bundle, precision, weights)
    reference = open_backend(against, bundle, against_precision, weights)
    whole = examined if swap is None else Swapped(reference, examined, swap)
    stages = tuple(STAGES) if swap is None else (swap,)
    differences = (*stage_differences(examined, reference, image, stages), *chain_differences(bundle, whole, reference, image))
    return Comparison(whole.description, reference.description, tolerance, differences)


def bundle_tolerance(bundle: Bundle, precisions: Sequence[str | None]) -> float:
    """The widest tolerance that the bundle gives for these precisions."""
    names = [precision or bundle.manifest.default_precision for precision in precisions]
    missing = next((name for name in names if name not in bundle.manifest.tolerances), None)
    if missing is not None:
        raise SdicError(f'the bundle gives no tolerance for precision "{missing}"; name one with --tolerance')
    return max(bundle.manifest.tolerances[name] for name in names)


def stage_differences(examined: Backend, reference: Backend, image: np.ndarray, stages: Sequence[str]) -> list[Difference]:
    """Each stage on the inputs that the reference had; the worse of two runs where the chain runs a stage twice."""
    from sdic_runtime import chain

    recording = Recording(reference)
    chain.invert(recording, recording.upload(image))
    worst: dict[tuple[str, str], Difference] = {}
    for call in recording.calls:
        if call.stage not in stages:
            continue
        results = examined.run(call.stage, {name: examined.upload(array) for name, array in call.inputs.items()}, list(call.outputs))
        for name, expected in call.outputs.items():
            found = difference(call.stage, name, examined.download(results[name]), expected)
            worst[call.stage, name] = max(found, worst.get((call.stage, name), found), key=lambda item: item.ratio)
    return list(worst.values())


def chain_differences(bundle: Bundle, examined: Backend, reference: Backend, image: np.ndarray) -> list[Difference]:
    """The whole inversion, and the first direction of the bundle at strength 1 as an edit of it."""
    got, want = (inversion_and_edit(bundle, backend, image) for backend in (examined, reference))
    return [difference(*key, got[key], want[key]) for key in want]


def inversion_and_edit(bundle: Bundle, backend: Backend, image: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Every tensor of the inversion and the picture of an edit, as host arrays by (what, tensor)."""
    from sdic_runtime import chain
    from sdic_runtime.edits import Direction, edited, load_direction

    tensors = chain.invert(backend, backend.upload(image))
    arrays = {("inversion", name): backend.download(tensor) for name, tensor in tensors.items()}
    directions = (load_direction(bundle.file(file)) for file in bundle.manifest.directions.values())
    direction = next((found for found in directions if isinstance(found, Direction)), None)
    if direction is not None:
        direction.check(bundle.sizes)
        latent, enhanced = (backend.upload(edited(arrays["inversion", name], direction, 1.0)) for name in ("latent", "latent_enhanced"))
        arrays["edit", "picture"] = backend.download(chain.edit(backend, latent, enhanced, tensors["residual"]))
    return arrays
