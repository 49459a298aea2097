"""One thread runs the pipelines; requests wait for it in a queue that is short, and in which the newest of a slider wins.

What is to be done with a result, such as the file of a picture, has a thread of its own, so that the models go on meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sdic_runtime.errors import SdicError


class BusyError(SdicError):
    """Too much waits already."""


class StaleError(SdicError):
    """A newer request of the same slot came before this one was computed."""


@dataclass(frozen=True)
class Work:
    """What the thread calls: `call` takes the payloads of up to `batch` jobs that wait for the same work, and gives a result or an error
    for each. `then`: what the other thread makes of each result."""

    call: Callable[[Sequence[Any]], Sequence[Any]]
    batch: int = 1
    then: Callable[[Any], Any] | None = None


@dataclass(frozen=True, eq=False)
class Job:
    work: Work
    payload: Any
    slot: str | None
    answer: asyncio.Future[Any]


class Worker:
    """The queue, and what empties it. All methods are for the thread of the event loop."""

    def __init__(self, waiting: int) -> None:
        self._most, self._there = waiting, asyncio.Event()
        self._jobs: list[Job] = []
        self._busy = False
        self._finishing: dict[Job, asyncio.Task[None]] = {}  # in the order in which they were computed
        self._turn = asyncio.Lock()  # who waits longest for it gets it

    def __len__(self) -> int:
        return len(self._jobs) + self._busy + len(self._finishing)

    def submit(self, work: Work, payload: Any, slot: str | None = None) -> asyncio.Future[Any]:
        """The answer to come. A job of the same `slot` that still waits is answered with StaleError, and this one takes its place; a job
        whose answer was cancelled is never run. Raises BusyError."""
        self._jobs = [job for job in self._jobs if not job.answer.done()]
        new = Job(work, payload, slot, asyncio.get_running_loop().create_future())
        for index, job in enumerate(self._jobs):
            if slot is not None and job.slot == slot:
                job.answer.set_exception(StaleError("a newer request of this slider took its place"))
                self._jobs[index] = new
                return new.answer
        if len(self._jobs) + len(self._finishing) >= self._most:
            raise BusyError(f"{self._most} requests are waiting already; try again in a moment")
        self._jobs.append(new)
        self._there.set()
        return new.answer

    async def run(self) -> None:
        """Answer jobs until cancelled."""
        while True:
            await self._there.wait()
            group = self._taken()
            if not group:
                continue
            self._busy = True
            results = await asyncio.to_thread(_called, group[0].work, [job.payload for job in group])
            self._busy = False
            for job, result in zip(group, results, strict=True):
                if job.work.then is None or isinstance(result, BaseException):
                    _answer(job, result)
                else:
                    self._finishing[job] = asyncio.create_task(self._finish(job, job.work.then, result))

    async def _finish(self, job: Job, then: Callable[[Any], Any], result: Any) -> None:
        """Answer a job with what `then` makes of its result, one after the other; the newest of a slot wins here too."""
        async with self._turn:
            later = [other.slot for other in self._finishing if other is not job and not other.answer.done()]
            if job.slot is not None and job.slot in later:
                _answer(job, StaleError("a newer request of this slider took its place"))
            elif not job.answer.done():
                (made,) = await asyncio.to_thread(_called, Work(lambda results: [then(results[0])]), [result])
                _answer(job, made)
            del self._finishing[job]

    def _taken(self) -> list[Job]:
        """The job that waits longest, and others of the same work as far as they are computed at once."""
        waiting = [job for job in self._jobs if not job.answer.done()]
        group = [job for job in waiting if job.work is waiting[0].work][: waiting[0].work.batch] if waiting else []
        self._jobs = [job for job in waiting if job not in group]
        if not self._jobs:
            self._there.clear()
        return group


async def finished(workers: Sequence[Worker], seconds: float) -> None:
    """Wait until nothing waits with any of them, at most so long."""
    end = time.monotonic() + seconds
    while any(map(len, workers)) and time.monotonic() < end:
        await asyncio.sleep(0.02)


def _answer(job: Job, result: Any) -> None:
    """Give a job its result, or its error, where somebody waits for it still."""
    if not job.answer.done():
        job.answer.set_exception(result) if isinstance(result, BaseException) else job.answer.set_result(result)


def _called(work: Work, payloads: Sequence[Any]) -> Sequence[Any]:
    """Every job gets an answer, and no error ends the thread."""
    try:
        return work.call(payloads)
    except Exception as error:
        return [error] * len(payloads)
