"""A second precision for the stages of a bundle: written by a policy, each stage proven, then the whole chain."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_export.golden import MADE_BY, example_direction, read_golden, run_chain, smooth_pictures, stage_inputs
from sdic_export.graphs.exporter import export_partial
from sdic_export.half.check import StageProof, as_rounding_graph, judge_chain, judge_stage, measure_stage, session
from sdic_export.half.precision import Policy, load_policy, write_half
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.bundle.bundle import Bundle, file_entries, write_manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES
from sdic_runtime.tools.compare import Difference, difference

if TYPE_CHECKING:
    import numpy as np

SINGLE = "fp32"
ROOM = 2.0  # a backend that sums in another order may be this much further off than the proof measured


@dataclass(frozen=True)
class HalfStages:
    """All stages in one half precision: files relative to the bundle, and what was proven."""

    precision: str
    stages: Mapping[str, str]  # stage -> file
    partials: Mapping[str, str]  # "stage:output" -> file
    proofs: Sequence[StageProof]
    chain: Sequence[Difference]  # every tensor of the chain against float32, in the order in which they are made
    tolerance: float  # for the manifest

    @property
    def picture(self) -> Difference:
        """The worst picture of the chain."""
        return min((item for item in self.chain if item.tensor.endswith("picture")), key=lambda item: item.psnr)


@dataclass
class HalfProgress:
    """What is told while it runs; each function may be replaced."""

    begin: Callable[[str], None] = field(default=lambda what: None)
    done: Callable[[StageProof, float, int], None] = field(default=lambda proof, seconds, size: None)


def add_half(
    folder: Path,
    stages: Mapping[str, str],
    partials: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
    direction: np.ndarray,
    policy: str | os.PathLike[str] | Policy = "fp16",
    progress: HalfProgress | None = None,
) -> HalfStages:
    """Write the float32 `stages` and `partials` of the bundle in `folder` again in the precision of `policy`, and prove them.

    `tensors`: `image` and everything that `golden.run_chain` gave for it and `direction`. Raises SdicError that names the stage and the
    layer when a limit of the policy is missed; the files written until then stay in `folder`, which the caller throws away.
    """
    policy, progress = load_policy(policy), progress or HalfProgress()
    files = {name: _moved(file, policy.name) for name, file in stages.items()}
    proofs = []
    for name, stage in STAGES.items():
        progress.begin(f"proving {name} in {policy.name}")
        start = time.perf_counter()
        write_half(folder / stages[name], folder / files[name], name, policy)
        proof = measure_stage(folder / stages[name], folder / files[name], stage, stage_inputs(name, tensors), policy)
        proofs.append(judge_stage(proof, policy))
        size = sum(path.stat().st_size for path in (folder / files[name]).parent.glob(f"{Path(files[name]).name}*"))
        progress.done(proof, time.perf_counter() - start, size)
    cut = {key: _moved(file, policy.name) for key, file in partials.items()}
    for key, file in cut.items():
        stage_name, _, output = key.partition(":")
        export_partial(folder / files[stage_name], output, folder / file)
    progress.begin(f"proving the whole chain in {policy.name}")
    results = run_chain(RoundedStages({name: folder / file for name, file in files.items()}, policy.type), tensors["image"], direction)
    chain = [difference(made_by, name, results[name], tensors[name]) for name, made_by in MADE_BY.items()]
    judge_chain([item for item in chain if item.tensor.endswith("picture")], policy)
    return HalfStages(policy.name, files, cut, proofs, chain, _tolerance(chain))


class RoundedStages:
    """A backend that runs half-precision files on ONNX Runtime's CPU with the rounding of `as_rounding_graph`, one stage in memory."""

    name = "rounded"

    def __init__(self, files: Mapping[str, Path], kind: str, threads: int = 0) -> None:
        self.files, self.kind, self.threads = files, kind, threads
        self._loaded: tuple[str, Any] = ("", None)

    @property
    def description(self) -> str:
        return f"ONNX Runtime, CPU, float32 rounded to {self.kind}"

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        if self._loaded[0] != stage:
            self._loaded = (stage, self._session(stage))
        return dict(zip(outputs, self._loaded[1].run(list(outputs), dict(inputs)), strict=True))

    def _session(self, stage: str) -> Any:
        import onnx

        path = self.files[stage]
        return session(as_rounding_graph(onnx.load(path, load_external_data=False), self.kind), path.parent, self.threads)


def _moved(file: str, precision: str) -> str:
    """onnx/fp32/e4e.onnx -> onnx/fp16/e4e.onnx."""
    path = Path(file)
    return (path.parent.with_name(precision) / path.name).as_posix()


def _tolerance(chain: Sequence[Difference]) -> float:
    """The tolerance of the precision: what was measured with some room, rounded up to two digits."""
    worst = ROOM * max(max(item.ratio for item in chain), 1e-6)
    digit = 10.0 ** (math.floor(math.log10(worst)) - 1)
    return round(math.ceil(worst / digit) * digit, 12)


def add_precision(folder: Path, policy: str | os.PathLike[str] | Policy = "fp16", progress: HalfProgress | None = None) -> HalfStages:
    """Add the precision of `policy` to the bundle in `folder`, from its float32 graphs and golden pictures alone: no checkpoint is needed.

    The manifest is written last; when a proof fails the bundle is as it was. Raises SdicError.
    """
    policy = load_policy(policy)
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    bundle.check(manifest.stage_files(bundle.precision(SINGLE)))
    target = folder / Path(_moved(manifest.stages["e4e"][SINGLE], policy.name)).parent
    if policy.name in manifest.precisions or target.exists():
        raise SdicError(f"{folder} already has {policy.name} graphs in {target}; build the bundle again to replace them")
    image, direction = _calibration(bundle)
    runner = OnnxRuntime(bundle, SINGLE, None, "cpu", tf32=False, cpu_graphs=False)
    tensors = {"image": image, **run_chain(runner, image, direction)}
    del runner
    stages, partials = ({name: choices[SINGLE] for name, choices in table.items()} for table in (manifest.stages, manifest.partials))
    try:
        made = add_half(folder, stages, partials, tensors, direction, policy, progress)
        names = [path.relative_to(folder).as_posix() for path in target.iterdir()]
        write_manifest(
            folder,
            replace(
                manifest,
                stages=_with(manifest.stages, made.stages, policy.name),
                partials=_with(manifest.partials, made.partials, policy.name),
                tolerances={**manifest.tolerances, policy.name: made.tolerance},
                files={**manifest.files, **file_entries(folder, names)},
            ),
        )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return made


def _calibration(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The golden pictures and direction of the bundle, or synthetic ones."""
    if bundle.manifest.golden is None:
        return smooth_pictures(bundle.sizes.working), example_direction(bundle.sizes)
    tensors = read_golden(bundle.file(bundle.manifest.golden)).tensors
    return tensors["image"], tensors["direction"]


def _with(table: Mapping[str, Mapping[str, str]], files: Mapping[str, str], precision: str) -> dict[str, dict[str, str]]:
    return {name: {**choices, precision: files[name]} for name, choices in table.items()}
