"""Batches on Ray Data: one worker process with a pipeline of its own per share of the machine or the cluster."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sdic_runtime.batch.job import Job, Outcome, Task, Worker
from sdic_runtime.errors import MissingExtraError, SdicError

OBJECT_STORE_BYTES = 128 << 20  # only names and outcomes pass through it
# Read by Ray when it is imported or started: no telemetry, no bars of its own, nothing about its accelerators.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass(frozen=True)
class Cluster:
    """Where to run and with how many workers. `threads`: CPU threads (and CPUs taken) per worker."""

    address: str | None = None  # of a running Ray cluster; None starts Ray on this machine for the run
    workers: int | None = None  # as many as the CPUs allow when None
    threads: int | None = None  # the CPUs shared among the workers when None, and 1 when both are None
    gpus: float = 0.0  # per worker

    def shares(self, cpus: int) -> tuple[int, int]:
        """Workers and threads per worker on `cpus` CPUs."""
        threads = self.threads or (max(1, cpus // self.workers) if self.workers else 1)
        return self.workers or max(1, cpus // threads), threads


def execute(job: Job, tasks: Sequence[Task], cluster: Cluster) -> Iterator[Outcome]:
    """Do `tasks` on Ray, outcomes in the order in which they are ready. Raises SdicError."""
    with _started(cluster) as ray:
        workers, threads = _fitting(cluster, ray)
        workers = min(workers, len(tasks))
        group = job.batch
        items = [{"source": task.source, "stem": task.stem} for task in tasks]
        blocks = -(-len(items) // group)
        dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Mapper,
            fn_constructor_args=(replace(job, threads=threads),),
            batch_size=group,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
            num_gpus=cluster.gpus or None,
        )
        try:
            for row in dataset.iter_rows():
                if row["problem"]:
                    raise SdicError(row["problem"])
                yield Outcome(Task(row["source"], row["stem"]), int(row["size"]), int(row["modified"]), row["error"])
        except ray.exceptions.RayError as error:
            raise SdicError(f"the workers stopped: {_cause(error)}; what is done is kept, start again with the same command") from error


class _Mapper:
    """A worker behind the interface of Ray Data."""

    def __init__(self, job: Job) -> None:
        self._problem = ""
        try:
            self._worker = Worker(job)
        except SdicError as error:  # Ray would start the worker again and again, and tell everybody
            self._problem = str(error)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        tasks = [Task(str(source), str(stem)) for source, stem in zip(rows["source"], rows["stem"], strict=True)]
        outcomes = [Outcome(task) for task in tasks] if self._problem else self._worker(tasks)
        return {
            "source": [task.source for task in tasks],
            "stem": [task.stem for task in tasks],
            "size": [outcome.size for outcome in outcomes],
            "modified": [outcome.modified for outcome in outcomes],
            "error": [outcome.error for outcome in outcomes],
            "problem": [self._problem] * len(tasks),
        }


@contextmanager
def _started(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to `cluster.address` or started on this machine, and left alone afterwards."""
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "sdic-run batch") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    folder = tempfile.mkdtemp(prefix="sdic-ray-") if cluster.address is None else None
    try:
        try:
            with _standard_error_muted():
                if cluster.address is None:
                    cpus = max(os.cpu_count() or 1, (cluster.workers or 1) * (cluster.threads or 1))
                    ray.init(
                        address="local",
                        num_cpus=cpus,
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        _temp_dir=folder,
                        **quiet,
                    )
                else:
                    ray.init(address=cluster.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = f"at {cluster.address}" if cluster.address else "on this machine"
            raise SdicError(f"Ray could not be reached {where}: {_line(error)}; check --address, or leave it out") from error
        _hush(ray)
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _standard_error_muted() -> Iterator[None]:
    """Nothing on the process's standard error: Ray's native part greets there, whatever it is told."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _hush(ray: Any) -> None:
    """No bars, and no lines about how a dataset is executed."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _fitting(cluster: Cluster, ray: Any) -> tuple[int, int]:
    """Workers and threads that fit; Ray would wait for ever for what is not there."""
    there = ray.cluster_resources()
    workers, threads = cluster.shares(int(there.get("CPU", 1)))
    if cluster.gpus * workers > there.get("GPU", 0):
        raise SdicError(
            f"{workers} worker(s) with {cluster.gpus:g} GPU(s) each were asked for, and Ray has {there.get('GPU', 0):g}; "
            "use a smaller --workers or --gpus"
        )
    if threads * workers > there.get("CPU", 0):
        raise SdicError(
            f"{workers} worker(s) with {threads} CPU(s) each were asked for, and Ray has {there.get('CPU', 0):g}; "
            "use a smaller --workers or --threads"
        )
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
