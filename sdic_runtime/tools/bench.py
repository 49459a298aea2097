"""Measures backends, each in a process of its own, so that neither memory nor warm caches of one colour the numbers of another.

`python -m sdic_runtime.tools.bench` reads one `Plan` as JSON from standard input and writes one measurement as JSON to standard output.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sdic_runtime.backends.base import Backend, Tensor
from sdic_runtime.cpus import available_cpus
from sdic_runtime.edits import Direction
from sdic_runtime.errors import BackendError, OutOfMemoryError, SdicError
from sdic_runtime.program import IMAGE, INVERT
from sdic_runtime.program import run as run_program

if TYPE_CHECKING:
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline

PERCENTILES = (50, 90, 99)
SEED = 11  # of the noise picture: the time of these networks does not depend on what a picture shows


class Plan(msgspec.Struct, frozen=True):
    """What to measure on one backend."""

    bundle: str | None
    backend: str  # a backend's name, with options after a colon: "torch:compile=true"
    precision: str | None
    checkpoint: str | None  # the weights for a backend that reads a checkpoint
    batches: tuple[int, ...]
    runs: int
    warm_up: int
    rows: tuple[int, ...] = ()  # also edits that leave the style rows before each of these alone


def timing(seconds: Sequence[float], batch: int) -> dict[str, Any]:
    """Wall-clock seconds of repeated calls: linear percentiles, throughput from the whole time, and the calls themselves."""
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, PERCENTILES))
    total, runs = float(np.sum(seconds)), len(seconds)
    means = {"mean": total / runs, "runs": runs, "pictures_per_second": batch * runs / total}
    return {"p50": p50, "p90": p90, "p99": p99, **means, "seconds": tuple(seconds)}


class Timed:
    """The stages of a backend; adds up how long each takes, and waits for the device after each, so that the time is the stage's own."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        start = time.perf_counter()
        results = self.backend.run(stage, inputs, outputs)
        self.backend.synchronize()
        self.seconds[stage] += time.perf_counter() - start
        return results


def peak_memory() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not tell."""
    # Not getrusage on Linux: its figure survives exec, so a child would report the peak of the process that started it.
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE):
            return int(found[1]) * 1024
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def timed(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(plan: Plan) -> dict[str, Any]:
    """Load the backend in this process and measure it; seconds and bytes, ready for JSON. Load time counts from an interpreter that has
    imported nothing of the backend yet, so it includes the imports."""
    start = time.perf_counter()
    from sdic_runtime.backends.registry import find_backend
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.pipeline import Pipeline

    bundle = Bundle.open(plan.bundle, remember=True)
    choice = find_backend(plan.backend, bundle, {"checkpoint": plan.checkpoint}, precision=plan.precision)
    pipeline = Pipeline(bundle, choice.load(bundle), exact=choice.exact)
    load_seconds = time.perf_counter() - start
    noise = np.random.default_rng(SEED)
    try:
        pictures = {batch: noise.uniform(-1, 1, bundle.manifest.shape(IMAGE, batch)).astype(np.float32) for batch in plan.batches}
    except MemoryError as error:
        raise OutOfMemoryError(f"not enough memory for {max(plan.batches)} pictures at once; use a smaller --batch") from error
    first_call = timed(lambda: pipeline.invert(pictures[plan.batches[0]], plan.batches[0]).pixels)
    batches = [measure_batch(pipeline, plan, batch, pictures[batch]) for batch in plan.batches]
    what = {"backend": plan.backend, "description": pipeline.backend.description, "bundle": bundle.manifest.name}
    how = {"runs": plan.runs, "warm_up": plan.warm_up, "cpu_cores": available_cpus()}
    start_up = {"load_seconds": load_seconds, "first_call_seconds": first_call}
    memory = {"peak_memory_bytes": peak_memory(), "gpu_memory_bytes": pipeline.backend.gpu_memory}
    return {**what, **how, **start_up, "batches": batches, **memory, "notices": pipeline.unreduced}


def measure_batch(pipeline: Pipeline, plan: Plan, batch: int, pictures: np.ndarray) -> dict[str, Any]:
    """Inversion, edit of a stored inversion in its default form, and each stage of an inversion, for `pictures` [batch, 3, S, S], which are
    computed all at once."""
    inversion = pipeline.invert(pictures, batch)
    direction = np.random.default_rng(SEED).standard_normal((1, pipeline.sizes["C"])).astype(np.float32)
    direction /= np.linalg.norm(direction)
    calls: dict[str, Callable[[], object]] = {"inversion": lambda: pipeline.invert(pictures, batch).pixels}
    if any("direction" in move.kinds for move in pipeline.moves.values()):
        calls["edit"] = lambda: pipeline.edit(inversion, direction, strength=1.0, batch=batch).pixels
    for row in plan.rows:
        calls[edit_from(row)] = partial(edit_rows, pipeline, inversion, direction, row)
        for _ in range(2):  # from the second on an edit begins at its first row
            calls[edit_from(row)]()
    timings = {what: timing(repeated(call, plan), batch) for what, call in calls.items()}
    passes = stage_seconds(pipeline.backend, pictures, plan)
    return {"batch": batch, **timings, "stages": {stage: timing([each[stage] for each in passes], batch) for stage in passes[0]}}


def edit_from(row: int) -> str:
    """How an edit of the style rows from `row` on is called among the timings."""
    return f"edit from row {row}"


def edit_rows(pipeline: Pipeline, inversion: Inversion, direction: np.ndarray, row: int) -> np.ndarray:
    """The pictures [N, 3, R, R] of an edit of the style rows from `row` on."""
    rows = Direction(direction, rows=(row, pipeline.sizes["L"]))
    return pipeline.edit(inversion, rows, strength=1.0, batch=len(inversion)).pixels


def repeated(call: Callable[[], object], plan: Plan) -> list[float]:
    """Wall-clock seconds of the measured calls, after the warm-up."""
    for _ in range(plan.warm_up):
        call()
    return [timed(call) for _ in range(plan.runs)]


def stage_seconds(backend: Backend, pictures: np.ndarray, plan: Plan) -> list[dict[str, float]]:
    """For each measured inversion the seconds by stage; a stage that runs twice in an inversion counts with both."""
    passes, image = [], backend.upload(pictures)
    for _ in range(plan.warm_up + plan.runs):
        timed_stages = Timed(backend)
        run_program(backend.method.programs[INVERT], timed_stages, {IMAGE: image})
        passes.append(dict(timed_stages.seconds))
    return passes[plan.warm_up :]


def child() -> int:
    """Read a plan from standard input, measure, and write the result or the error sentence to standard output."""
    try:
        answer = measure(msgspec.json.decode(sys.stdin.read(), type=Plan))
    except SdicError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def measure_apart(plan: Plan) -> dict[str, Any]:
    """`measure` in a new process. Raises BackendError with that process's sentence when it fails."""
    here = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    command, given = [sys.executable, "-m", "sdic_runtime.tools.bench"], msgspec.json.encode(plan).decode()
    process = subprocess.run(command, input=given, capture_output=True, text=True, check=False, env=environment)
    lines = process.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (process.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise BackendError(f"the process measuring {plan.backend} ended with code {process.returncode}: {last}") from None
    if "error" in answer:
        raise BackendError(answer["error"])
    return answer


def called(batch: Mapping[str, Any]) -> list[str]:
    """The whole calls that were measured of a batch."""
    return [what for what in batch if what not in ("batch", "stages")]


def pooled(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measurements of one plan in several rounds as one: all calls together, the middle load and first call, the most memory."""

    def together(timings: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
        return timing([seconds for each in timings for seconds in each["seconds"]], batch)

    batches = []
    for parts in zip(*(each["batches"] for each in rounds), strict=True):
        size, stages = parts[0]["batch"], [part["stages"] for part in parts]
        calls = {what: together([part[what] for part in parts], size) for what in called(parts[0])}
        batches.append({"batch": size, **calls, "stages": {stage: together([each[stage] for each in stages], size) for stage in stages[0]}})
    middle = {name: float(np.median([each[name] for each in rounds])) for name in ("load_seconds", "first_call_seconds")}
    most = {name: max(each[name] or 0 for each in rounds) or None for name in ("peak_memory_bytes", "gpu_memory_bytes")}
    return {**rounds[0], **middle, "rounds": len(rounds), "batches": batches, **most}


if __name__ == "__main__":
    raise SystemExit(child())
