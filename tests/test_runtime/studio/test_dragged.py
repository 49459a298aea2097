"""A slider that is dragged: the service computes its newest value, and no queue grows."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from studio_server import Server, httpx, png, start, waiting

from sdic_runtime.bundle.bundle import DEMO_FOLDER


@dataclass(frozen=True)
class Answer:
    """When a slider's value was sent and answered, and whether with a picture (or because a newer value took its place)."""

    sent: float
    came: float
    shown: bool


def drag(server: Server, inversion: str, seconds: float) -> tuple[list[Answer], int, float]:
    """A slider that sends 30 values a second without waiting for answers; the most that waited in the service meanwhile; and the seconds
    that the slowest answer took for which nothing is computed."""

    def send(index: int) -> Answer:
        time.sleep(max(0.0, begun + index / 30 - time.perf_counter()))
        sent = time.perf_counter()
        edit = {"edits": [{"name": "smile", "strength": index / count}], "slot": "smile", "format": "jpeg"}
        answer = client.post(f"{server.url}/api/inversions/{inversion}/edit", json=edit)
        assert answer.status_code in (200, 409), answer.text
        return Answer(sent, time.perf_counter(), answer.status_code == 200)

    most, slowest, count, begun = 0, 0.0, int(30 * seconds), time.perf_counter() + 0.2
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(32) as threads:
        asked = [threads.submit(send, index) for index in range(count)]
        while not all(one.done() for one in asked):
            start = time.perf_counter()
            most = max(most, waiting(server, client))
            slowest = max(slowest, time.perf_counter() - start)
            time.sleep(0.02)
        return [one.result() for one in asked], most, slowest


def growth(answers: list[Answer]) -> float:
    """How many more answers were waited for in the second half, in the mean, than in the first one."""
    open_at = [sum(other.sent < answer.sent < other.came for other in answers) for answer in answers]
    half = len(open_at) // 2
    return float(np.mean(open_at[half:]) - np.mean(open_at[:half]))


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20, marks=pytest.mark.full)])
def test_a_dragged_slider_ends_on_its_last_value_and_queues_nothing(seconds: float, tmp_path: Path) -> None:
    quiet, server = os.getloadavg()[0] < 1, start(DEMO_FOLDER, tmp_path / "log")
    while httpx.get(server.url + "/ready").status_code != 200:
        time.sleep(0.05)
    picture = httpx.post(server.url + "/api/pictures", content=png(128, 128)).json()["picture"]
    inversion = httpx.post(f"{server.url}/api/pictures/{picture}/invert", json={}, timeout=60).json()["inversion"]
    drag(server, inversion, 0.5)  # the first edits load what they need
    answers, most, slowest = drag(server, inversion, seconds)
    for _ in range(2):  # other work on the machine delays this process too; a queue in the service grows every time
        if growth(answers) > 2:
            answers, most, slowest = drag(server, inversion, seconds)
    assert waiting(server) == 0
    server.process.terminate()
    assert server.process.wait(30) in (0, -15) and "Traceback" not in (tmp_path / "log").read_text()
    shown = sorted((answer for answer in answers if answer.shown), key=lambda answer: answer.came)
    ages, renders = ([1e3 * (answer.came - answer.sent) for answer in shown], [1e3 * (b.came - a.came) for a, b in pairwise(shown)])
    print(f"{len(shown)} of {len(answers)} values shown, one in {np.median(renders):.0f} ms, {np.median(ages):.0f} ms old", end="")
    print(f", the oldest {max(ages):.0f} ms{'' if quiet else ', on a machine with other work'}")
    assert answers[-1].shown, "the last value is what stays on the screen"
    assert most <= 4, "one waits, one is computed, and of their pictures one waits and one is written"
    # Two renders before a picture was there, and no earlier, its value was sent: while one was computed, this one waited.
    slack = 2 * max(slowest, 0.1)
    late = [two.came - new.sent for two, new in zip(shown, shown[2:], strict=False) if new.sent < two.came - slack]
    assert not late, f"{len(late)} of {len(shown)} pictures are older than two renders"
    assert growth(answers) <= 2, "no queue grows"
