"""The proof of a bundle, repeated: schema, hashes, and the golden tensors on any backend, or PyTorch anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_export.check import TOLERANCES, cpu_label
from sdic_export.golden import ALONE, MADE_BY, Golden, make_golden, read_golden, run_chain
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import SdicError
from sdic_runtime.tools.compare import Difference, difference

if TYPE_CHECKING:
    from sdic_runtime.backends.registry import Backend

GOLDEN, CHECKPOINT = "golden tensors", "checkpoint"


@dataclass(frozen=True)
class Check:
    """One tensor of the chain on one batch, held against what PyTorch gave."""

    against: str  # GOLDEN or CHECKPOINT
    batch: int
    difference: Difference
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference.ratio <= self.tolerance  # False for NaN

    def as_dict(self) -> dict[str, Any]:
        measured = {**self.difference.as_dict(), "tolerance": self.tolerance, "passed": self.passed}
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
        return max(self.checks, key=lambda check: check.difference.ratio / check.tolerance)


def verify(
    path: Path,
    backend: str = "onnxruntime",
    precision: str | None = None,
    checkpoint: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Verification:
    """Prove the bundle in the folder `path`: manifest, hashes of all files, and every tensor of an inversion and of an edit in both forms
    of Eq. 6, for one picture and for a batch, against the golden tensors; with `checkpoint` also against what PyTorch computes now.

    The chain runs through, so what a stage is given is what the stages before it made: the first stage that is off is the one to blame.
    Where the backend runs graphs arranged for processors, the stages' own graphs are proven first, by a chain of their own.
    `options` go to the backend. Raises SdicError when the bundle is damaged or cannot be run; values that are off are in the result.
    """
    bundle = Bundle.open(path)
    bundle.check()
    if bundle.manifest.golden is None:
        raise SdicError(f"the bundle {path} holds no golden tensors to be checked against; build it again with: sdic-export build")
    golden = read_golden(bundle.file(bundle.manifest.golden))
    options = {"precision": precision, **(options or {})}
    runs = [_run(bundle, backend, options, golden)]
    if runs[0].cpu_stages:
        runs.insert(0, _run(bundle, backend, {**options, "cpu_graphs": False}, golden))
    expected = {GOLDEN: golden}
    if checkpoint is not None:
        expected[CHECKPOINT] = _from_checkpoint(bundle, checkpoint, golden)
    checks = [
        Check(against, len(tensors["latent"]), run.labelled(found), run.tolerance)
        for against, truth in expected.items()
        for run in runs
        for part, tensors in run.results
        for found in compare_with(truth, tensors, part)
    ]
    return Verification(str(path), "; ".join(run.description for run in runs), len(bundle.manifest.files), checks)


@dataclass(frozen=True)
class _Run:
    """What one backend gave for the golden pictures."""

    description: str
    cpu_stages: Sequence[str]  # those, and "stage:output", that it runs on graphs arranged for processors
    partials: Sequence[str]  # "stage:output" that has a graph of its own which is not arranged
    tolerance: float
    results: Sequence[tuple[slice, Mapping[str, np.ndarray]]]

    def labelled(self, found: Difference) -> Difference:
        """With the name of the graph for processors that made the tensor, where it was one."""
        alone = f"{found.where}:{ALONE.get(found.tensor)}"
        graph = alone if alone in (*self.cpu_stages, *self.partials) else found.where
        return replace(found, where=cpu_label(graph)) if graph in self.cpu_stages else found


def _run(bundle: Bundle, backend: str, options: Mapping[str, Any], golden: Golden) -> _Run:
    from sdic_runtime.backends.registry import load_backend

    runner = load_backend(backend, bundle, **options)
    tolerance = _tolerance(bundle, runner, options["precision"])
    return _Run(runner.description, getattr(runner, "cpu_stages", ()), list(bundle.manifest.partials), tolerance, run_all(runner, golden))


def run_all(backend: Backend, golden: Golden) -> list[tuple[slice, dict[str, np.ndarray]]]:
    """The chain on the last golden picture alone and on all of them: which pictures, and their tensors thinned as the golden ones are."""
    results = []
    for part in _parts(golden):
        tensors = run_chain(backend, golden.tensors["image"][part], golden.tensors["direction"], golden.strength)
        results.append((part, {name: golden.thinned(name, array) for name, array in tensors.items()}))
    return results


def compare_with(golden: Golden, tensors: Mapping[str, np.ndarray], part: slice) -> list[Difference]:
    """Every tensor of the chain on the pictures `part`, held against the golden one, in the order in which they are made."""
    return [difference(stage, name, tensors[name], golden.tensors[name][part]) for name, stage in MADE_BY.items()]


def _parts(golden: Golden) -> list[slice]:
    count = len(golden.tensors["image"])
    return [slice(count - 1, count)] + ([slice(0, count)] if count > 1 else [])


def _tolerance(bundle: Bundle, backend: Backend, precision: str | None) -> float:
    used = getattr(backend, "precision", None) or bundle.precision(precision)
    return bundle.manifest.tolerances.get(used, TOLERANCES["fp32"])


def _from_checkpoint(bundle: Bundle, checkpoint: Path, golden: Golden) -> Golden:
    """The golden tensors as PyTorch computes them now from `checkpoint`, with weights rounded as in the bundle."""
    from sdic_export.build import reference_for, stage_modules_for
    from sdic_export.graphs.exporter import require_packages

    require_packages("sdic-export verify --checkpoint")
    from sdic_train.checkpoints.load import load_sdic

    model = load_sdic(checkpoint, bundle.manifest.domain)
    if model.config.sizes != bundle.sizes:
        raise SdicError(
            f"{checkpoint} is of another model: its sizes are {model.config.sizes.as_dict()}, the bundle's are {bundle.sizes.as_dict()}"
        )
    weights = bundle.manifest.checkpoint.get("weights", "float32")
    reference = reference_for(model, stage_modules_for(model, weights), weights)
    tensors = run_chain(reference, golden.tensors["image"], golden.tensors["direction"], golden.strength)
    return make_golden(tensors, golden.tensors["image"], golden.tensors["direction"])
