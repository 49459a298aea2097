"""The queue before the pipeline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from sdic_runtime.studio.worker import BusyError, StaleError, Work, Worker, finished


class Held:
    """Work that waits until it may go on, and notes what it was given."""

    def __init__(self, batch: int = 1) -> None:
        self.go, self.seen = threading.Event(), []  # type: ignore[var-annotated]
        self.work = Work(self.call, batch)

    def call(self, payloads: Sequence[Any]) -> Sequence[Any]:
        self.go.wait(10)
        self.seen.append(list(payloads))
        return [ValueError(payload) if payload == "bad" else payload * 2 for payload in payloads]


def with_worker(test: Callable[[Worker], Awaitable[None]], waiting: int = 8) -> None:
    async def whole() -> None:
        worker = Worker(waiting)
        task = asyncio.create_task(worker.run())
        try:
            await asyncio.wait_for(test(worker), 60)  # it waits in loops, which a fault would keep for ever
        finally:
            task.cancel()

    asyncio.run(whole())


async def begun(worker: Worker) -> None:
    """The first job is being computed."""
    while not worker._busy:
        await asyncio.sleep(0.001)


def test_the_newest_of_a_slot_wins() -> None:
    held = Held()

    async def test(worker: Worker) -> None:
        first = worker.submit(held.work, 1)
        await begun(worker)
        stale, other, newest = (worker.submit(held.work, number, slot) for number, slot in ((2, "a"), (3, "b"), (4, "a")))
        held.go.set()
        assert [await answer for answer in (first, other, newest)] == [2, 6, 8]
        with pytest.raises(StaleError, match="a newer request"):
            await stale

    with_worker(test)
    assert held.seen == [[1], [4], [3]]  # it takes the place of the stale one


def test_what_waits_for_the_same_work_is_one_batch_and_errors_are_their_own() -> None:
    held, single = Held(batch=3), Held()

    async def test(worker: Worker) -> None:
        single.go.set()
        first = worker.submit(held.work, 0)
        await begun(worker)
        answers = [worker.submit(held.work, payload) for payload in (1, "bad", 3, 4)]
        between = worker.submit(single.work, 9)
        held.go.set()
        assert await first == 0 and await answers[0] == 2 and await answers[2] == 6 and await answers[3] == 8
        with pytest.raises(ValueError, match="bad"):
            await answers[1]
        assert await between == 18
        await finished([worker], 1)
        assert len(worker) == 0

    with_worker(test)
    assert held.seen == [[0], [1, "bad", 3], [4]]


def test_too_much_is_refused_and_what_nobody_waits_for_is_not_run() -> None:
    held = Held()

    async def test(worker: Worker) -> None:
        first = worker.submit(held.work, 1)
        await begun(worker)
        second, third = worker.submit(held.work, 2), worker.submit(held.work, 3)
        with pytest.raises(BusyError, match="2 requests are waiting already; try again in a moment"):
            worker.submit(held.work, 4)
        second.cancel()
        fourth = worker.submit(held.work, 4)  # there is room again
        held.go.set()
        assert [await answer for answer in (first, third, fourth)] == [2, 6, 8]

    with_worker(test, waiting=2)
    assert held.seen == [[1], [3], [4]]


def test_work_that_raises_answers_all_and_the_next_goes_on() -> None:
    def fail(payloads: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("the device is gone")

    async def test(worker: Worker) -> None:
        work = Work(fail, 2)
        for answer in [worker.submit(work, 1), worker.submit(work, 2)]:
            with pytest.raises(RuntimeError, match="the device is gone"):
                await answer
        held = Held()
        held.go.set()
        assert await worker.submit(held.work, 5) == 10

    with_worker(test)


def test_what_is_done_with_results_lets_the_next_work_begin() -> None:
    writing = threading.Event()
    written: list[int] = []

    def write(result: Any) -> str:
        writing.wait(10)
        written.append(result)
        if result == 6:
            raise ValueError("no room")
        return f"file {result}"

    async def test(worker: Worker) -> None:
        computed: list[int] = []

        def compute(payloads: Sequence[Any]) -> Sequence[Any]:
            computed.extend(payloads)
            return [2 * payload for payload in payloads]

        work = Work(compute, then=write)
        answers = [worker.submit(work, number) for number in (1, 2, 3)]
        gone = worker.submit(work, 4)
        last = worker.submit(work, 5)
        while computed != [1, 2, 3, 4, 5]:
            await asyncio.sleep(0.001)
        assert written == [] and len(worker) == 5
        gone.cancel()
        writing.set()
        assert [await answer for answer in (answers[0], answers[1], last)] == ["file 2", "file 4", "file 10"]
        with pytest.raises(ValueError, match="no room"):
            await answers[2]
        await finished([worker], 1)
        assert len(worker) == 0

    with_worker(test)
    assert written == [2, 4, 6, 10]  # in their order, without what nobody waits for


def test_the_newest_of_a_slot_wins_among_results_too() -> None:
    writing = threading.Event()

    def write(result: Any) -> Any:
        writing.wait(10)
        return result

    async def test(worker: Worker) -> None:
        work = Work(lambda payloads: payloads, then=write)
        answers = []
        for number, slot in ((1, "a"), (2, "a"), (3, "b"), (4, "a")):
            answers.append(worker.submit(work, number, slot))
            while len(worker._finishing) < number:
                await asyncio.sleep(0.001)
        with pytest.raises(BusyError, match="4 requests are waiting"):
            worker.submit(work, 5)
        writing.set()
        assert [await answers[index] for index in (0, 2, 3)] == [1, 3, 4]  # the first was being written already
        with pytest.raises(StaleError, match="a newer request"):
            await answers[1]

    with_worker(test, waiting=4)


def test_what_a_slider_shows_is_at_most_two_renders_old() -> None:
    rendered: list[int] = []

    def render(payloads: Sequence[Any]) -> Sequence[Any]:
        time.sleep(0.05)  # slower than the slider
        rendered.append(payloads[0])
        return payloads

    async def test(worker: Worker) -> None:
        work, shown, most = Work(render, then=lambda value: value), [], 0

        async def ask(value: int) -> None:
            before = len(rendered)
            with suppress(StaleError):
                shown.append(await worker.submit(work, value, "smile"))
                assert rendered.index(value) + 1 - before <= 2

        asked = []
        for value in range(45):
            asked.append(asyncio.create_task(ask(value)))
            await asyncio.sleep(1 / 30)
            most = max(most, len(worker))
        await asyncio.gather(*asked)
        assert shown == sorted(shown) and shown[-1] == 44 and len(shown) < 45
        assert most <= 3, "one waits, one is rendered and one is written"

    with_worker(test)
