"""One thread runs the pipelines; requests wait for it in a queue that is short, and in which the newest of a slider wins."""

from __future__ import annotations

import asyncio
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
    for each."""

    call: Callable[[Sequence[Any]], Sequence[Any]]
    batch: int = 1


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

    def __len__(self) -> int:
        return len(self._jobs) + self._busy

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
        if len(self._jobs) >= self._most:
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
                if not job.answer.done():
                    job.answer.set_exception(result) if isinstance(result, BaseException) else job.answer.set_result(result)

    async def finished(self, seconds: float) -> None:
        """Wait until nothing waits, at most so long."""
        for _ in range(int(seconds / 0.02)):
            if not len(self):
                return
            await asyncio.sleep(0.02)

    def _taken(self) -> list[Job]:
        """The job that waits longest, and others of the same work as far as they are computed at once."""
        waiting = [job for job in self._jobs if not job.answer.done()]
        group = [job for job in waiting if job.work is waiting[0].work][: waiting[0].work.batch] if waiting else []
        self._jobs = [job for job in waiting if job not in group]
        if not self._jobs:
            self._there.clear()
        return group


def _called(work: Work, payloads: Sequence[Any]) -> Sequence[Any]:
    """Every job gets an answer, and no error ends the thread."""
    try:
        return work.call(payloads)
    except Exception as error:
        return [error] * len(payloads)
