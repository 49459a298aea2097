"""An exported stage held against PyTorch on ONNX Runtime: names, shapes, values, for several batch sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.backends.bands import Bands
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import TENSORS, Sizes, Stage
from sdic_runtime.tools.compare import Difference, difference

TOLERANCES = {"fp32": 2e-4}  # precision -> the largest difference allowed, over the expected tensor's standard deviation
FLOAT = "tensor(float)"


def cpu_label(stage: str) -> str:
    """How the form of a stage for processors is called where its numbers are told."""
    return f"{stage} (CPU graph)"


def prove_stage(
    graphs: Sequence[Path],
    stage: Stage,
    sizes: Sizes,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    tolerance: float,
) -> Difference:
    """Run a stage on the last picture of `inputs` alone and on all of them; the largest difference to `expected`.

    `graphs` are the files of the stage: one, or its bands of rows from top to bottom.
    Raises SdicError that names the stage, the tensor and by how much, when the graph is not that stage or a value is off.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # give the memory back after each run
    try:
        sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in graphs]
        for session in sessions:
            _check_borders(session, stage, sizes, banded=len(sessions) > 1)
        runner = sessions[0] if len(sessions) == 1 else Bands(stage, sizes, sessions, workers=1)
        found: list[Difference] = []
        for part in (slice(-1, None), slice(None)):
            results = runner.run(list(stage.outputs), {name: np.ascontiguousarray(array[part]) for name, array in inputs.items()})
            found += [
                difference(stage.name, name, result, expected[name][part]) for name, result in zip(stage.outputs, results, strict=True)
            ]
    except SdicError:
        raise
    except Exception as error:  # ONNX Runtime has a kind of exception per status code, with no common base
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise SdicError(f'the stage "{stage.name}" does not run on ONNX Runtime: {" ".join(str(error).split())[:300]}') from error
    return judged(found, tolerance)


def judged(found: Iterable[Difference], tolerance: float) -> Difference:
    """The largest of the differences. Raises SdicError when it is above the tolerance."""
    worst = max(found, key=lambda item: item.ratio)
    if not worst.ratio <= tolerance:
        raise SdicError(failure(worst, tolerance))
    return worst


def failure(worst: Difference, tolerance: float) -> str:
    """One sentence on a difference that is too large."""
    return (
        f'"{worst.tensor}" of {worst.where} is off by {worst.ratio:.1e} of its standard deviation (largest difference '
        f"{worst.largest:.1e}), and {tolerance:.1e} is allowed"
    )


def _check_borders(session: Any, stage: Stage, sizes: Sizes, banded: bool) -> None:
    """The graph has the names, shapes and types of the stage table, in its order; for the shapes of bands see `Bands`."""
    for names, infos in ((stage.inputs, session.get_inputs()), (stage.outputs, session.get_outputs())):
        want = [(name, [TENSORS[name][0], *sizes.shape(name, 1)[1:]], FLOAT) for name in names]
        have = [(info.name, list(info.shape), info.type) for info in infos]
        wrong = [item[::2] for item in have] != [item[::2] for item in want] if banded else have != want
        if wrong:
            raise SdicError(f'the stage "{stage.name}" was exported with {_listed(have)} where the stage table has {_listed(want)}')


def _listed(tensors: Iterable[tuple[str, list[Any], str]]) -> str:
    return ", ".join(f"{name} {shape} {kind}" for name, shape, kind in tensors)
