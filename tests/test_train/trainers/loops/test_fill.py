"""Trainings that fill a given time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdic_runtime.errors import ArgumentError
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.base import Trainer
from sdic_train.trainers.compute import Losses
from sdic_train.trainers.loops.fill import PACE, FillOptions, fill
from sdic_train.trainers.loops.pace import UNKNOWN, Pace
from sdic_train.trainers.loops.run import LOG, RECIPE, RESULT, STATE, read_log


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [0.02, 0.3, 9.0])
def test_the_steps_of_a_steady_run_fill_its_time(seconds: float) -> None:
    clock = Clock()
    pace, step, steps = Pace(clock.now + 240, clock=clock), 0, UNKNOWN
    while step < steps and not pace.over:
        clock.now += seconds
        step += 1
        if pace.due(step):
            steps = pace.plan(step)
    assert 240 - 2 * seconds - 6 - 1e-6 <= clock.now - 1000 <= 240 + seconds - 6
    assert abs(pace.plans[0].steps - step) <= 1 and pace.plans[0].seconds_per_step == pytest.approx(seconds)
    assert pace.plans[0].elapsed < 240 * 0.3 and len(pace.plans) <= 11


def test_a_run_that_becomes_slower_has_fewer_steps_and_still_ends_in_time() -> None:
    clock = Clock()
    pace, step, steps = Pace(clock.now + 100, clock=clock), 0, UNKNOWN
    while step < steps and not pace.over:
        clock.now += 0.1 if clock.now < 1050 else 0.2
        step += 1
        if pace.due(step):
            steps = pace.plan(step)
    assert pace.plans[0].steps > 900 and 700 < step < 760
    assert clock.now <= 1100


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_what_happens_once_leaves_no_time_unused(told: bool) -> None:
    """Such as the averages of batch norms, which took as long as fifty steps at step 250 of 500."""
    clock = Clock()
    pace, step, steps, once = Pace(clock.now + 104, clock=clock), 0, UNKNOWN, 0.0
    while step < steps and not pace.over:
        if step == 250:
            clock.now += 11.0
            once = 11.0 if told else 0.0
        clock.now += 0.2
        step += 1
        if pace.due(step):
            steps = pace.plan(step, once)
    assert 1104 - 12 <= clock.now <= 1104
    if told:
        assert {round(plan.seconds_per_step, 6) for plan in pace.plans} == {0.2}
        assert clock.now >= 1104 - 0.05 * 104 - 0.5


@dataclass(frozen=True)
class Recipe:
    rate: float = 1.0
    warm_up: int = 2
    decay: float = 0.5
    seed: int = 0


class Sleeper(Trainer):
    """A step takes ten milliseconds, and its loss is the rate."""

    kind, losses, kept = "sleeper", ("rate",), ("weight",)

    def __init__(self, compute: Any) -> None:
        super().__init__(None, Recipe(), PictureSet(np.zeros((1, 4, 4, 3), np.uint8)), compute, 5)
        self.weight = torch.nn.Linear(1, 1)
        self.read = 0

    def advance(self, read: bool = True) -> dict[str, float]:
        self.read += read
        return super().advance(read)

    def train_step(self, losses: Losses) -> None:
        time.sleep(0.01)
        losses.add(rate=torch.tensor(self.scheduled(1.0)))

    def save(self, path: Path) -> None:
        path.write_text(str(self.step))


def test_rates_have_fallen_when_the_time_is_over(make_compute: Callable[..., Any], tmp_path: Path) -> None:
    trainer, until = Sleeper(make_compute(1)), time.time() + 2.0
    fill(trainer, FillOptions(tmp_path, until, read_every=5))
    assert until - 0.5 < time.time() < until + 0.5
    told, rates = json.loads((tmp_path / PACE).read_text()), read_log(tmp_path / LOG)["rate"]
    assert told["steps"] == trainer.step > 50 and told["batch"] == 1 and told["device"] == "cpu"
    assert len(rates) == trainer.read == trainer.step // 5
    assert rates[len(rates) // 4] == 1.0 and rates[-1] < 0.2
    assert all(later < earlier + 0.1 for earlier, later in pairwise(rates))  # a little more where a plan has more steps than the last
    assert (tmp_path / RESULT).read_text() == str(trainer.step)
    assert json.loads((tmp_path / RECIPE).read_text())["steps"] == trainer.step


def test_a_run_is_resumed_and_goes_on_from_its_step(make_compute: Callable[..., Any], tmp_path: Path) -> None:
    first = Sleeper(make_compute(1))
    fill(first, FillOptions(tmp_path, time.time() + 0.5))
    again = Sleeper(make_compute(1))
    fill(again, FillOptions(tmp_path, time.time() + 0.5))
    assert again.step > first.step and (tmp_path / STATE).exists()
    assert json.loads((tmp_path / PACE).read_text())["steps"] == again.step
    assert read_log(tmp_path / LOG)["step"] == [float(step) for step in range(1, again.step + 1)]


def test_a_trainer_tells_what_it_does_once(make_compute: Callable[..., Any], tmp_path: Path) -> None:
    trainer = Sleeper(make_compute(1))
    step = trainer.train_step

    def settle_at_fifty(losses: Losses) -> None:
        if trainer.step == 50:
            with trainer.one_off():
                time.sleep(0.6)
        step(losses)

    trainer.train_step = settle_at_fifty  # type: ignore[method-assign]
    fill(trainer, FillOptions(tmp_path, time.time() + 2.0, read_every=5))
    assert 0.6 <= trainer.once < 0.9
    assert max(plan["seconds_per_step"] for plan in json.loads((tmp_path / PACE).read_text())["plans"]) < 0.04


def test_a_result_is_there_when_a_run_fails_behind_its_first_measurement(make_compute: Callable[..., Any], tmp_path: Path) -> None:
    trainer = Sleeper(make_compute(1))
    advance = trainer.advance

    def fail_at_hundred(read: bool = True) -> dict[str, float]:
        if trainer.step == 100:
            return {"rate": float("nan")}
        return advance(read)

    trainer.advance = fail_at_hundred  # type: ignore[method-assign]
    with pytest.raises(ArgumentError, match='"rate" became nan at step 100'):
        fill(trainer, FillOptions(tmp_path, time.time() + 3.0))
    assert 0 < int((tmp_path / RESULT).read_text()) <= 100


@pytest.mark.parametrize("resume", [True, False])
def test_a_time_that_is_over_trains_nothing_and_leaves_what_is_there(
    resume: bool, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ArgumentError, match=r"^--until 1 is over \(\d+ now\), with no time for a step; give a later time$"):
        fill(Sleeper(make_compute(1)), FillOptions(folder, 1.0, resume=resume))
    assert not folder.exists()
    first = Sleeper(make_compute(1))
    fill(first, FillOptions(folder, time.time() + 0.3))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if resume:  # a run whose time is over has its result
        fill(Sleeper(make_compute(1)), FillOptions(folder, 1.0))
        assert json.loads((folder / PACE).read_text())["steps"] == first.step == int((folder / RESULT).read_text())
    else:
        with pytest.raises(ArgumentError, match="--until 1 is over"):
            fill(Sleeper(make_compute(1)), FillOptions(folder, 1.0, resume=False))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_has_a_step_even_where_its_time_ends_before_it(
    make_compute: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = iter([False])
    monkeypatch.setattr(Pace, "over", property(lambda _: next(over, True)))
    trainer = Sleeper(make_compute(1))
    fill(trainer, FillOptions(tmp_path, time.time() + 1.0))
    assert trainer.step == 1 and (tmp_path / RESULT).read_text() == "1"


def test_several_processes_are_refused(make_compute: Callable[..., Any], tmp_path: Path) -> None:
    trainer = Sleeper(make_compute(1))
    trainer.compute.processes = 2
    with pytest.raises(ArgumentError, match="--until is for one process"):
        fill(trainer, FillOptions(tmp_path, time.time() + 1.0))
