"""Batches in processes of this machine, each with a pipeline of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context

from sdic_runtime.batch.job import MOST_ATTEMPTS, Attempts, Job, Outcome, Task, Worker, shares
from sdic_runtime.cpus import available_cpus
from sdic_runtime.errors import BackendError, SdicError
from sdic_runtime.processes import deaf, serve_parent
from sdic_runtime.progress import quiet_decoders

AHEAD = 2  # groups per worker that are handed out: one that runs, one that waits

_worker: Worker | SdicError | None = None  # of this process


def execute(job: Job, tasks: Sequence[Task], workers: int | None = None, threads: int | None = None) -> Iterator[Outcome]:
    """Do `tasks` in worker processes, outcomes in the order in which they are ready. Raises SdicError. Where a worker dies, all start anew,
    and the pictures that were at work are tried alone; see `Worker`."""
    workers, threads = shares(available_cpus(), workers, threads)
    groups = deque(tasks[start : start + job.batch] for start in range(0, len(tasks), job.batch))
    attempts, begun, deaths = Attempts(job.out), dict[str, int](), 0
    while groups:
        left = yield from _round(replace(job, threads=threads), groups, min(workers, len(groups)))
        groups.extendleft([task] for group in reversed(left) for task in reversed(group))
        counts = {task.source: attempts.of(task) for group in left for task in group}
        deaths = deaths + 1 if all(count <= begun.get(source, 0) for source, count in counts.items()) else 0
        begun |= counts
        if deaths == MOST_ATTEMPTS:
            raise BackendError("the workers die before they begin a picture, perhaps because memory runs out; use fewer --workers")


def _round(job: Job, groups: deque[Sequence[Task]], workers: int) -> Generator[Outcome, None, list[Sequence[Task]]]:
    """Do groups until none is left or a worker dies; returns those that were at work then."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (job,))
    running: dict[Future[list[Outcome]], Sequence[Task]] = {}
    left: list[Sequence[Task]] = []
    try:
        while running or (groups and not left):
            while groups and not left and len(running) < AHEAD * workers:
                group = groups.popleft()
                try:
                    with deaf():
                        running[pool.submit(_do, group)] = group
                except BrokenProcessPool:  # a worker has died since the last look
                    left.append(group)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                group = running.pop(future)
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    left.append(group)
    finally:
        pool.shutdown(cancel_futures=True)
    return left


def _start(job: Job) -> None:
    """Make this process a worker, which ends with the process that started it; Ctrl-C is for that one alone."""
    global _worker
    serve_parent()
    quiet_decoders()
    try:
        _worker = Worker(job)
    except SdicError as error:
        _worker = error


def _do(tasks: Sequence[Task]) -> list[Outcome]:
    if not isinstance(_worker, Worker):
        raise _worker or BackendError("the worker was not started")
    return _worker(tasks)
