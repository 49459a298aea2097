"""A bundle is verified: schema, hashes, and the golden tensors on any backend, or what PyTorch computes now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdic_export.check import TOLERANCES, by_psnr, by_ratio, label
from sdic_export.golden import Golden, make_golden, makers, read_golden, run_chain
from sdic_export.golden import pictures as seen_pictures
from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import STANDARD, Manifest
from sdic_runtime.errors import BundleError, CheckpointError
from sdic_runtime.program import IMAGE
from sdic_runtime.program import run as run_program
from sdic_runtime.tools.compare import Difference, difference
from sdic_runtime.tools.wrapper import Wrapper

PSNR_ROOM = 3.0  # decibels: a backend that rounds elsewhere may have so much more noise
GOLDEN, CHECKPOINT = "golden tensors", "checkpoint"


@dataclass(frozen=True)
class Check:
    """One golden value on one batch, compared with what PyTorch gave."""

    against: str  # GOLDEN or CHECKPOINT
    stage: str
    batch: int
    difference: Difference
    tolerance: float
    least: float = -math.inf  # decibels that a picture needs

    @property
    def passed(self) -> bool:
        return self.difference.ratio <= self.tolerance and self.difference.psnr >= self.least  # False for NaN

    def as_dict(self) -> dict[str, Any]:
        least = self.least if math.isfinite(self.least) else None
        measured = {**self.difference.as_dict(), "tolerance": self.tolerance, "least_psnr": least, "passed": self.passed}
        return {"against": self.against, "batch": self.batch, **measured}


@dataclass(frozen=True)
class Verification:
    """Everything that was checked of a bundle."""

    bundle: str
    backend: str
    files: int
    checks: Sequence[Check]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def worst(self) -> Check:
        return max(self.checks, key=_severity)

    @property
    def telling(self) -> list[Check]:
        """The worst check of every stage, and all that failed, in the order in which they were made."""
        stages = {check.stage for check in self.checks}
        worst = [max((check for check in self.checks if check.stage == stage), key=_severity) for stage in stages]
        return [check for check in self.checks if not check.passed or any(check is item for item in worst)]


def _severity(check: Check) -> float:
    """How far it is off, over what is allowed; decibels count where they are too few."""
    off, missing = by_ratio(check.difference) / check.tolerance, min(check.least - by_psnr(check.difference), 600.0)
    return max(off, 10 ** (missing / 20)) if missing > 0 else off


def least_psnr(manifest: Manifest, precision: str, tensor: str, golden: int, pictures: int) -> float:
    """The decibels that a golden picture needs in a reduced precision: those that the manifest says of the worst one over all `golden`
    pictures, less some room. The noise of all may lie in the `pictures` that are looked at."""
    if precision not in manifest.psnr or tensor not in seen_pictures(manifest):
        return -math.inf
    return manifest.psnr[precision] - PSNR_ROOM - 10 * math.log10(golden / pictures)


def verify(
    path: Path,
    backend: str = "onnxruntime",
    precision: str | None = None,
    checkpoint: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Verification:
    """Verify the bundle in the folder `path`: manifest, hashes of all files, and every value of an inversion and the picture of an edit by
    every move, for one picture and for a batch, against the golden tensors; with `checkpoint` also against what PyTorch computes now. In a
    reduced precision the pictures also need the decibels that were measured of them, less some room.

    The chain runs through, so what a stage is given is what the stages before it made: the first stage that is off is the one to blame.
    Where the backend runs other variants than the standard graphs, these are checked first, by a chain of their own, and parts of stages
    last.
    `backend`: a name, with options after a colon; `options` go to it too.
    Raises SdicError when the bundle is damaged or cannot be run; values that are off are in the result.
    """
    from sdic_runtime.backends.registry import load_backend

    bundle = Bundle.open(path)
    bundle.check()
    if bundle.manifest.golden is None:
        raise BundleError(f"the bundle {path} holds no golden tensors to be checked against; build it again with: sdic-export build")
    golden = read_golden(bundle.file(bundle.manifest.golden), bundle.manifest)
    runner = load_backend(backend, bundle, precision=precision, **(options or {}))
    runners = [found for found in (runner.standard(), runner) if found is not None]
    runners += [InParts(found) for found in runners if found.skips and found.method.cuts and all(map(found.runs, found.method.parts))]
    results = [(found, run_parts(found, golden)) for found in runners]
    expected = {GOLDEN: golden}
    if checkpoint is not None:
        expected[CHECKPOINT] = _from_checkpoint(bundle, checkpoint, golden)
    manifest, count = bundle.manifest, len(golden.tensors[IMAGE])
    checks = [
        Check(
            against,
            stage,
            part.stop - part.start,
            found,
            manifest.tolerances.get(runner.precision, TOLERANCES[STANDARD]),
            least_psnr(manifest, runner.precision, found.tensor, count, part.stop - part.start),
        )
        for against, truth in expected.items()
        for runner, parts in results
        for part, values in parts
        for stage, found in compare_with(truth, values, part, runner)
    ]
    return Verification(str(path), "; ".join(dict.fromkeys(found.description for found in runners)), len(bundle.manifest.files), checks)


class InParts(Wrapper):
    """A backend that runs the parts of a stage, where it has them, in place of the whole."""

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        if stage not in self.method.cuts:
            return self.inner.run(stage, inputs, outputs)
        made = run_program(self.method.chain(stage), self.inner, inputs)
        return {name: made[name] for name in outputs}

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        if stage not in self.method.cuts:
            return self.inner.variant(stage, outputs)
        last = self.method.cuts[stage].steps[-1]
        return f"{stage} in parts", self.inner.variant(last.stage, tuple(last.outputs))[1]


def run_parts(backend: Backend, golden: Golden) -> list[tuple[slice, dict[str, np.ndarray]]]:
    """The chain on the last golden picture alone and on all of them: which pictures, and their values thinned as the golden ones are."""
    count, results = len(golden.tensors[IMAGE]), []
    for part in [slice(count - 1, count)] + ([slice(0, count)] if count > 1 else []):
        values = run_chain(backend, golden.tensors[IMAGE][part], golden.tensors["direction"], golden.strength)
        results.append((part, {name: golden.thinned(name, array) for name, array in values.items()}))
    return results


def compare_with(golden: Golden, values: Mapping[str, np.ndarray], part: slice, backend: Backend) -> list[tuple[str, Difference]]:
    """Every value of the chain on the pictures `part` compared with the golden one, in the order in which they are made, with its stage;
    the differences name the graph that `backend` ran."""
    found = []
    for name, step in makers(backend.method).items():
        if isinstance(backend, InParts) and step.stage not in backend.method.cuts:
            continue  # the same graphs as without parts
        where = label(*backend.variant(step.stage, tuple(step.outputs)), (backend.precision, STANDARD))
        found.append((step.stage, difference(where, name, values[name], golden.tensors[name][part])))
    return found


def _from_checkpoint(bundle: Bundle, checkpoint: Path, golden: Golden) -> Golden:
    """The golden tensors as PyTorch computes them now from `checkpoint`, with weights rounded as in the bundle."""
    from sdic_export.build import reference_for, stage_modules_for
    from sdic_export.graphs.exporter import require_packages

    require_packages("sdic-export verify --checkpoint")
    from sdic_export.methods import export_of
    from sdic_train.backend import recorded_others

    manifest = bundle.manifest
    export = export_of(manifest)
    model: Any = export.code.read(checkpoint, manifest.domain, recorded_others(bundle))
    sizes = export.code.tables(model.config).sizes
    if sizes != manifest.sizes:
        raise CheckpointError(f"{checkpoint} is of another model: its sizes are {sizes}, the bundle's are {manifest.sizes}")
    weights = manifest.checkpoint.get("weights", "float32")
    reference = reference_for(manifest, model, stage_modules_for(export, model, weights), weights)
    image, direction = golden.tensors[IMAGE], golden.tensors["direction"]
    return make_golden(run_chain(reference, image, direction, golden.strength), image, direction)
