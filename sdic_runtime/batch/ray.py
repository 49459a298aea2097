"""Batches on Ray Data: a worker with a pipeline of its own per share of a cluster."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdic_runtime.batch.job import Job, Outcome, Task, Worker, shares
from sdic_runtime.errors import BackendError, MissingExtraError, SdicError
from sdic_runtime.leftovers import held
from sdic_runtime.progress import quiet_decoders

# Read by Ray when it is imported or started: no telemetry, no bars of its own, GPUs stay visible to workers that take none.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

PLACED = ("RAY_ADDRESS", "RAY_TMPDIR")  # settings of Ray that say where it runs, or where it keeps its files
TOLD = ("notices", "ran")  # of an outcome: several texts, which travel as lines of one
LONGEST = 10  # letters of a folder, below which the sockets of Ray have names that the system takes


def execute(
    job: Job, tasks: Sequence[Task], workers: int | None = None, threads: int | None = None, gpus: float = 0.0, address: str | None = None
) -> Iterator[Outcome]:
    """Do `tasks` on Ray, outcomes in the order in which they are ready. Raises SdicError. `gpus`: that each worker takes. `address`: of a
    running cluster; when None that of Ray's own settings, or Ray on this machine."""
    with _own_folder(address) as settings:
        yield from _execute(job, tasks, workers, threads, gpus, address, settings)


@contextmanager
def _own_folder(address: str | None) -> Iterator[dict[str, Any]]:
    """Where Ray on this machine keeps its logs and sockets, as a setting of it: a folder that vanishes with the run, or after a kill with
    the next one. Ray's own would stay."""
    folder = next((each for each in (tempfile.gettempdir(), "/tmp") if len(each) <= LONGEST and os.access(each, os.W_OK)), None)
    if address is not None or folder is None or any(name in os.environ for name in PLACED):
        yield {}
        return
    with held(Path(folder), os.mkdir) as path:
        yield {"_temp_dir": str(path)}


def _execute(
    job: Job, tasks: Sequence[Task], workers: int | None, threads: int | None, gpus: float, address: str | None, settings: dict[str, Any]
) -> Iterator[Outcome]:
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "sdic-run batch --executor ray") from error
    main, ends = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise BackendError(f"Ray could not be reached at {address or 'this machine'}: {_line(error)}; check --address") from error
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        ray.shutdown()
        signal.signal(signal.SIGTERM, ends)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, ends)  # Ray would answer it with a dump of its own
    try:
        workers, threads = _fitting(ray.cluster_resources(), workers, threads, gpus)
        items = [{"source": task.source, "stem": task.stem} for task in tasks]
        dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // job.batch)).map_batches(
            _Mapper,
            fn_constructor_args=(replace(job, threads=threads),),
            batch_size=job.batch,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
            num_cpus=threads,
            num_gpus=gpus or None,
        )
        for row in dataset.iter_rows():
            if row["problem"]:
                raise BackendError(row["problem"])
            told = [tuple(row[name].splitlines()) for name in TOLD]
            yield Outcome(Task(row["source"], row["stem"]), int(row["size"]), int(row["modified"]), row["error"], *told)
    except ray.exceptions.RayError as error:
        raise BackendError(f"the workers stopped: {_cause(error)}; what is done is kept, start again with the same command") from error
    finally:
        ray.shutdown()


class _Mapper:
    """A worker behind the interface of Ray Data."""

    def __init__(self, job: Job) -> None:
        self._problem = ""
        quiet_decoders()
        try:
            self._worker = Worker(job)
        except SdicError as error:  # Ray would start the worker again and again, and tell everybody
            self._problem = str(error)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        tasks = [Task(str(source), str(stem)) for source, stem in zip(rows["source"], rows["stem"], strict=True)]
        outcomes = [Outcome(task) for task in tasks] if self._problem else self._worker(tasks)
        found: dict[str, list[Any]] = {name: [getattr(outcome, name) for outcome in outcomes] for name in ("size", "modified", "error")}
        found |= {name: ["\n".join(getattr(outcome, name)) for outcome in outcomes] for name in TOLD}
        return {**{name: list(column) for name, column in rows.items()}, **found, "problem": [self._problem] * len(tasks)}


def _fitting(there: dict[str, float], workers: int | None, threads: int | None, gpus: float) -> tuple[int, int]:
    """Workers and threads that fit; Ray would wait for ever for what is not there. Raises BackendError."""
    workers, threads = shares(int(there.get("CPU", 1)), workers, threads)
    for kind, each in (("GPU", gpus), ("CPU", threads)):
        if each * workers > there.get(kind, 0):
            asked, remedy = f"{workers} worker(s) with {each:g} {kind}(s) each", f"--workers or --{'gpus' if kind == 'GPU' else 'threads'}"
            raise BackendError(f"{asked} were asked for, and Ray has {there.get(kind, 0):g}; use a smaller {remedy}")
    return workers, threads


def _cause(error: Exception) -> str:
    """The innermost reason in Ray's nested errors, as one line."""
    inner: BaseException = error
    while (cause := getattr(inner, "cause", None) or inner.__cause__) is not None and cause is not inner:
        inner = cause
    return _line(inner)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
