"""A stage in bands of rows: graphs that each compute some rows of every output, for one picture, and run side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np

from sdic_runtime.errors import BundleError
from sdic_runtime.program import Method, Stage

BATCH = 0
ROWS = 2  # the axis of an output that the bands divide
REBUILD = "build it again with: sdic-export build"


def for_one(session: Any) -> bool:
    """Whether a graph is for one picture at a time, because the weights of its layers are a picture's own."""
    return any(info.shape and info.shape[BATCH] == 1 for info in session.get_inputs())


def run_each(session: Any, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph that is `for_one` picture once for every picture of `inputs`."""
    count = len(next(iter(inputs.values())))
    runs = [session.run(list(outputs), {name: array[index : index + 1] for name, array in inputs.items()}) for index in range(count)]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


class Bands:
    """The ONNX Runtime sessions of a stage's bands, top to bottom, behind the `run` of a single session.

    Every band of every picture is a task. The calling thread takes tasks until none is left, helped by up to `workers` - 1 threads that
    all runs share: calls from several threads never wait for each other's tasks. The threads end with this object. A
    graph `for_one` picture is one band.
    Raises BundleError when the sessions are not for one picture each or their rows do not add up to those of `stage`.
    """

    def __init__(self, name: str, stage: Stage, method: Method, sessions: Sequence[Any], workers: int) -> None:
        self._sessions, self._method = list(sessions), method
        self._rows = _rows(name, stage, method, sessions)
        self._helpers = workers - 1
        self._pool = ThreadPoolExecutor(self._helpers, "sdic-bands") if self._helpers else None

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The tensors `outputs` of the stage for N pictures, in that order. Raises ValueError when the inputs differ in N."""
        pictures = {len(array) for array in inputs.values()}
        if len(pictures) != 1:
            raise ValueError(f"the inputs are for {' and '.join(map(str, sorted(pictures)))} pictures")
        count = pictures.pop()
        results = {name: np.empty(self._method.shape(name, count), np.float32) for name in outputs}
        tasks = deque((picture, band) for picture in range(count) for band in range(len(self._sessions)))
        helpers = []
        if self._pool is not None:
            helpers = [self._pool.submit(self._work, tasks, inputs, results) for _ in range(min(self._helpers, len(tasks) - 1))]
        try:
            self._work(tasks, inputs, results)
            for helper in helpers:
                if not helper.cancel():  # those that have not begun would find nothing to do
                    helper.result()
        finally:
            tasks.clear()
        return list(results.values())

    def _work(self, tasks: deque[tuple[int, int]], inputs: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
        """Take tasks and do them until none is left, or one fails."""
        while True:
            try:
                picture, band = tasks.popleft()
            except IndexError:
                return
            one = slice(picture, picture + 1)
            try:
                values = self._sessions[band].run(list(results), {name: array[one] for name, array in inputs.items()})
                for (name, result), value in zip(results.items(), values, strict=True):
                    result[one, :, self._rows[name][band]] = value
            except BaseException:
                tasks.clear()
                raise


def _rows(stage_name: str, stage: Stage, method: Method, sessions: Sequence[Any]) -> dict[str, list[slice]]:
    """Output -> the rows of each band, after the shapes of all tensors were checked."""
    for info in (info for session in sessions for info in session.get_inputs()):
        if list(info.shape) != (expected := list(method.shape(info.name, 1))):
            found = f'a band of the stage "{stage_name}" takes {info.name} as {list(info.shape)}'
            raise BundleError(f"{found} where the stage has {expected} for one picture; {REBUILD}")
    rows = {}
    for name in stage.outputs:
        whole = list(method.shape(name, 1))
        shapes = [list(info.shape) for session in sessions for info in session.get_outputs() if info.name == name]
        heights = [shape[ROWS] if len(shape) == len(whole) and isinstance(shape[ROWS], int) else 0 for shape in shapes]
        around = [shape[:ROWS] + shape[ROWS + 1 :] == whole[:ROWS] + whole[ROWS + 1 :] for shape in shapes]
        if not all(around) or min(heights) < 1 or sum(heights) != whole[ROWS]:
            found = f'the bands of the stage "{stage_name}" give {name} as {", ".join(map(str, shapes))}'
            raise BundleError(f"{found}, which do not add up to the rows of {whole}; {REBUILD}")
        rows[name] = [slice(end - height, end) for height, end in zip(heights, accumulate(heights), strict=True)]
    return rows
