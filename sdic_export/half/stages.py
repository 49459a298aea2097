"""A second precision for the stages of a bundle: written by a policy, each stage checked, then the whole chain."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sdic_export.changes import Change, changing
from sdic_export.check import by_ratio
from sdic_export.golden import Chain, example_direction, makers, pictures, read_golden, run_all, run_chain, smooth_pictures
from sdic_export.graphs.exporter import beside, export_alone, stored_bytes, weights_of
from sdic_export.half.check import StageCheck, as_rounding_graph, judge_chain, judge_stage, measure_stage, session
from sdic_export.half.cuda.form import CUDA_FORM
from sdic_export.half.precision import Policy, load_policy, write_half
from sdic_runtime.backends.bands import for_one, run_each
from sdic_runtime.backends.base import Backend
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CUDA, files_in, graph_keys, parts
from sdic_runtime.bundle.manifest import HALF, STANDARD, Manifest
from sdic_runtime.errors import BundleError, FileError
from sdic_runtime.files import reason
from sdic_runtime.leftovers import held, is_temporary
from sdic_runtime.program import IMAGE, Method
from sdic_runtime.tools.compare import Difference, difference

if TYPE_CHECKING:
    import numpy as np

Graphs: TypeAlias = dict[str, dict[str, tuple[str, ...]]]  # as in `Manifest.graphs`

CUDA = "cuda"  # how the files of graphs for CUDA are called: dicn.cuda.onnx
GRAPH_FILE = re.compile(r"\.onnx(\.data)?$")
ROOM = 2.0  # a backend that sums in another order may be this much further off than what was measured


@dataclass(frozen=True)
class HalfStages:
    """All graphs in one half precision: files relative to the bundle, and what was checked."""

    precision: str
    graphs: Mapping[str, str]  # "stage" or "stage:output" -> file
    cuda: Mapping[str, str]  # those that ONNX Runtime runs with channels last on CUDA -> their file, the same or another
    checks: Sequence[StageCheck]
    chain: Sequence[Difference]  # every golden value against float32, in the order in which they are made
    picture: Difference  # the worst picture among them
    tolerance: float  # for the manifest

    @property
    def told(self) -> dict[str, float]:
        """`Manifest.psnr` of it; that of bf16 is about OpenVINO, which rounds in another way."""
        return {HALF: round(self.picture.psnr, 2)} if self.precision == HALF else {}

    def added_to(self, graphs: Graphs) -> Graphs:
        """`Manifest.graphs` with these."""
        return with_variant(with_variant(graphs, self.precision, self.graphs), ONNXRUNTIME_CUDA, self.cuda)


@dataclass
class HalfProgress:
    """What is told while it runs; each function may be replaced."""

    begin: Callable[[str], None] = field(default=lambda what: None)
    done: Callable[[StageCheck, float, int], None] = field(default=lambda check, seconds, size: None)


def add_half(
    folder: Path,
    method: Method,
    graphs: Mapping[str, str],
    single: Chain,
    policy: str | os.PathLike[str] | Policy = "fp16",
    progress: HalfProgress | None = None,
    place: str | None = None,
) -> HalfStages:
    """Write the float32 `graphs` of the bundle in `folder`, "stage" or "stage:output" -> file, in the precision of `policy`, and check them
    against `single`, the chain in float32. They lie in a folder beside that of the float32 graphs, called as the precision, or `place`.

    Raises SdicError that names the stage and the layer when a limit of the policy is missed; the files written until then stay in
    `folder`, which the caller throws away.
    """
    policy, progress = load_policy(policy).check(method.stages), progress or HalfProgress()
    files = {key: _moved(file, place or policy.name) for key, file in graphs.items()}
    cuda: dict[str, str] = {}
    checks = []
    for name in method.stages:
        progress.begin(f"checking {name} in {policy.name}")
        start = time.perf_counter()
        write_half(folder / graphs[name], folder / files[name], name, policy)
        cuda |= _cuda(folder, name, graphs[name], files[name], policy) if policy.name == HALF else {}
        made = dict.fromkeys((files[name], cuda.get(name, files[name])))
        found = [measure_stage(folder / graphs[name], folder / file, name, single.examples[name].inputs, policy) for file in made]
        checks.append(min((judge_stage(check, policy) for check in found), key=lambda check: check.psnr))
        size = stored_bytes(folder, [files[name]])
        progress.done(checks[-1], time.perf_counter() - start, size)
    for key, file in files.items():
        stage, output = parts(key)
        if output:
            export_alone(folder / files[stage], output, folder / file)
            if stage in cuda:
                cuda[key] = file if cuda[stage] == files[stage] else beside(file, CUDA)
                export_alone(folder / cuda[stage], output, folder / cuda[key])
    progress.begin(f"checking the whole chain in {policy.name}")
    chains = []
    for chosen in ({}, cuda) if any(cuda[name] != files[name] for name in method.stages if name in cuda) else ({},):
        rounded = RoundedStages(method, {name: folder / {**files, **chosen}[name] for name in method.stages}, policy.type)
        values = run_chain(rounded, single.image, single.direction)
        chains.append([difference(step.stage, name, values[name], single.values[name]) for name, step in makers(method).items()])
    chain = [max(same, key=by_ratio) for same in zip(*chains, strict=True)]
    picture = judge_chain([item for item in chain if item.tensor in pictures(method)], policy)
    return HalfStages(policy.name, files, cuda, checks, chain, picture, tolerance_for(chain))


def _cuda(folder: Path, stage: str, single: str, half: str, policy: Policy) -> dict[str, str]:
    """The stage -> the file of its graph with channels last, where that pays: `half` itself where nothing has to be rearranged."""
    file = beside(half, CUDA)
    if not write_half(folder / single, folder / file, stage, policy, CUDA_FORM, [folder / half]):
        return {}
    if _operators(folder / file) == _operators(folder / half):
        for path in (folder / file, folder / f"{file}.data"):
            path.unlink(missing_ok=True)
        return {stage: half}
    return {stage: file}


class RoundedStages(Backend):
    """A backend that runs half-precision files on ONNX Runtime's CPU with the rounding of `as_rounding_graph`, one stage in memory."""

    name = "rounded"

    def __init__(self, method: Method, files: Mapping[str, Path], kind: str, threads: int = 0) -> None:
        super().__init__(method)
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
        graph = self._loaded[1]
        results = run_each(graph, outputs, inputs) if for_one(graph) else graph.run(list(outputs), dict(inputs))
        return dict(zip(outputs, results, strict=True))

    def _session(self, stage: str) -> Any:
        import onnx

        path = self.files[stage]
        return session(as_rounding_graph(onnx.load(path, load_external_data=False), self.kind), path.parent, self.threads)


def _operators(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]


def _moved(file: str, precision: str) -> str:
    """onnx/fp32/e4e.onnx -> onnx/fp16/e4e.onnx."""
    path = Path(file)
    return (path.parent.with_name(precision) / path.name).as_posix()


def tolerance_for(chain: Sequence[Difference]) -> float:
    """The tolerance of the precision: what was measured with some room, rounded up to two digits."""
    worst = ROOM * max(max(item.ratio for item in chain), 1e-6)
    digit = 10.0 ** (math.floor(math.log10(worst)) - 1)
    return round(math.ceil(worst / digit) * digit, 12)


def add_precision(folder: Path, policy: str | os.PathLike[str] | Policy = "fp16", progress: HalfProgress | None = None) -> HalfStages:
    """Add the precision of `policy` to the bundle in `folder`, from its float32 graphs and golden pictures alone: no checkpoint is needed.

    The graphs are made in a folder of this process and come into the bundle at the end, with a manifest that keeps what others changed
    meanwhile; when a check fails the bundle is as it was. Raises SdicError.
    """
    policy = load_policy(policy)
    bundle = Bundle.open(folder)
    bundle.refuse_links("sdic-export half")
    manifest = bundle.manifest
    bundle.check(files_in(manifest, [bundle.precision(STANDARD)]))
    graphs = {key: manifest.graphs[key][STANDARD][0] for key in graph_keys(manifest, STANDARD)}
    target = (bundle.path / _moved(next(iter(graphs.values())), policy.name)).parent
    _leftovers(manifest, target, bundle.path, policy.name)
    single = run_all(OnnxRuntime(bundle, STANDARD, cpu_graphs=False), *_calibration(bundle))
    try:
        with held(target.parent, os.mkdir) as temporary:
            made = add_half(bundle.path, manifest, graphs, single, policy, progress, temporary.name)
            with changing(folder, manifest) as change:
                made = _placed(change, temporary, target, made)
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {reason(error)}; choose a bundle that you may change") from error
    return made


def _leftovers(manifest: Manifest, target: Path, folder: Path, precision: str) -> list[Path]:
    """What a process that died left at `target`: graphs that no manifest lists. Raises BundleError where there is anything else."""
    there = sorted(target.iterdir()) if target.is_dir() else []
    listed = {path.relative_to(folder).as_posix() for path in there} & manifest.files.keys()
    if precision in manifest.precisions or listed:
        raise BundleError(f"{folder} already has {precision} graphs in {target}; build the bundle again to replace them")
    others = [path for path in there if not (path.is_file() and (GRAPH_FILE.search(path.name) or is_temporary(path.name)))]
    if target.is_symlink() or (target.exists() and not target.is_dir()) or others:
        raise BundleError(f"the {precision} graphs have no place: {others[0] if others else target} is something else; move it away")
    return there


def _placed(change: Change, temporary: Path, target: Path, made: HalfStages) -> HalfStages:
    """Move the graphs that were made in the folder `temporary` to `target`, and write the manifest that lists them."""
    for path in _leftovers(change.manifest, target, change.folder, made.precision):
        path.unlink()
    if target.is_dir():
        target.rmdir()
    graphs, cuda = ({key: _moved(file, target.name) for key, file in files.items()} for files in (made.graphs, made.cuda))
    made, now = replace(made, graphs=graphs, cuda=cuda), change.manifest
    names = [(target / path.name).relative_to(change.folder).as_posix() for path in temporary.iterdir()]
    change.tried.update(names)
    os.rename(temporary, target)
    known = {name: value for name, value in now.psnr.items() if name == made.precision}  # of a backend that computes in it by itself
    change.write(
        names,
        graphs=made.added_to(now.graphs),
        weights={**now.weights, **weights_of(change.folder, {*graphs.values(), *cuda.values()})},
        psnr={**now.psnr, **made.told, **{name: min(value, round(made.picture.psnr, 2)) for name, value in known.items()}},
        tolerances={**now.tolerances, made.precision: max(made.tolerance, now.tolerances.get(made.precision, 0))},
    )
    return made


def with_variant(graphs: Graphs, variant: str, files: Mapping[str, str]) -> Graphs:
    """`Manifest.graphs` with a further variant of those in `files`, "stage" or "stage:output" -> file."""
    return {key: {**variants, **({variant: (files[key],)} if key in files else {})} for key, variants in graphs.items()}


def _calibration(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The golden pictures and direction of the bundle, or synthetic ones."""
    if bundle.manifest.golden is None:
        return smooth_pictures(bundle.manifest.sizes["S"]), example_direction(bundle.manifest.sizes)
    tensors = read_golden(bundle.file(bundle.manifest.golden), bundle.manifest).tensors
    return tensors[IMAGE], tensors["direction"]
