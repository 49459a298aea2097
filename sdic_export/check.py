"""An exported stage checked against PyTorch on ONNX Runtime: names, shapes, values, for several batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdic_export.golden import Example
from sdic_runtime.backends.bands import Bands, for_one
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.errors import BackendError, BundleError, SdicError
from sdic_runtime.program import BATCH, Method, Stage
from sdic_runtime.tools.compare import Difference, difference

TOLERANCES = {STANDARD: 2e-4}  # precision -> the largest difference allowed, over the expected tensor's standard deviation
FLOAT = "tensor(float)"


def label(key: str, variant: str, precisions: Iterable[str] = (STANDARD,)) -> str:
    """How a graph ("stage" or "stage:output") is called where its numbers are told: with its variant where that is no precision."""
    return key if variant in precisions else f"{key} ({variant})"


def check_stage(
    graphs: Sequence[Path], name: str, outputs: Sequence[str], method: Method, example: Example, tolerance: float = TOLERANCES[STANDARD]
) -> Difference:
    """Run a stage on the last picture of `example` alone and on all of them; the largest difference of its `outputs`.

    `graphs` are the files of the stage: one, or its bands of rows from top to bottom. `name` is what `label` gives.
    Raises BundleError that names the stage, the tensor and by how much, when the graph is not that stage or a value is off.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # give the memory back after each run
    stage = Stage(tuple(example.inputs), tuple(outputs))
    try:
        sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in graphs]
        for session in sessions:
            _check_borders(session, name, stage, method, banded=len(sessions) > 1 or for_one(session))
        runner = Bands(name, stage, method, sessions, workers=1) if len(sessions) > 1 or for_one(sessions[0]) else sessions[0]
        found: list[Difference] = []
        for part in (slice(-1, None), slice(None)):
            results = runner.run(list(outputs), {name: np.ascontiguousarray(array[part]) for name, array in example.inputs.items()})
            found += [
                difference(name, tensor, result, example.outputs[tensor][part]) for tensor, result in zip(outputs, results, strict=True)
            ]
    except SdicError:
        raise
    except Exception as error:  # ONNX Runtime has a kind of exception per status code, with no common base
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise BackendError(f'the stage "{name}" does not run on ONNX Runtime: {" ".join(str(error).split())[:300]}') from error
    return judged(found, tolerance)


def by_ratio(item: Difference) -> float:
    """For `max`: a ratio that is no number is the largest."""
    return math.inf if math.isnan(item.ratio) else item.ratio


def by_psnr(item: Difference) -> float:
    """For `min`: decibels that are no number are the fewest."""
    return -math.inf if math.isnan(item.psnr) else item.psnr


def judged(found: Iterable[Difference], tolerance: float) -> Difference:
    """The largest of the differences. Raises BundleError when it is above the tolerance."""
    worst = max(found, key=by_ratio)
    if not worst.ratio <= tolerance:
        raise BundleError(
            f'"{worst.tensor}" of {worst.where} is off by {worst.ratio:.1e} of its standard deviation (largest difference '
            f"{worst.largest:.1e}), and {tolerance:.1e} is allowed"
        )
    return worst


def _check_borders(session: Any, name: str, stage: Stage, method: Method, banded: bool) -> None:
    """The graph has the names, shapes and types of the stage table, in its order; for the shapes of bands see `Bands`."""
    for names, infos in ((stage.inputs, session.get_inputs()), (stage.outputs, session.get_outputs())):
        want = [(tensor, [BATCH, *method.shape(tensor, 1)[1:]], FLOAT) for tensor in names]
        have = [(info.name, list(info.shape), info.type) for info in infos]
        wrong = [item[::2] for item in have] != [item[::2] for item in want] if banded else have != want
        if wrong:
            raise BundleError(f'the stage "{name}" was exported with {_listed(have)} where the stage table has {_listed(want)}')


def _listed(tensors: Iterable[tuple[str, list[Any], str]]) -> str:
    return ", ".join(f"{name} {shape} {kind}" for name, shape, kind in tensors)
