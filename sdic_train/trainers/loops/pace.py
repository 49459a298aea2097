"""Trainings that fill a given time: how many steps fit follows from the pace that is measured on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

UNKNOWN = 10**9  # steps of a run whose pace is not measured yet: its rates do not fall
FIRST_STEPS = 20  # that are not measured, unless they take long: a device settles in them
CALIBRATION = 12.0  # seconds of the first measurement, or this share of the time where that is less
CALIBRATION_SHARE = 0.08
PLANS = 10  # per run: the pace of the others on a shared device changes
LEFT_SHARE = 0.05  # of the time: a run with more left when its planned steps are done goes on
RESERVE, RESERVE_SHARE = 6.0, 0.05  # seconds, or the share of the time, that are kept for writing the result


@dataclass(frozen=True)
class Plan:
    """`elapsed` seconds after the start, at `step`, of `seconds_per_step` since the last plan: the run will have `steps`."""

    elapsed: float
    step: int
    seconds_per_step: float
    steps: int


@dataclass
class Pace:
    """Of one run from now `until` a time in seconds since 1970. `clock`: gives such seconds."""

    until: float
    first: int = 0  # the step that the run begins with
    clock: Callable[[], float] = time.time
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.clock()
        self.whole = max(0.0, self.until - self.start)
        self.end = self.until - min(RESERVE, RESERVE_SHARE * self.whole)
        self._mark: tuple[float, int, float] | None = None
        self._next = math.inf

    @property
    def over(self) -> bool:
        """Whether it is time to write the result."""
        return self.clock() >= self.end

    def due(self, step: int) -> bool:
        """Whether the steps are to be counted anew at `step`; the device must have computed everything then."""
        if self._mark is None:
            late = self.clock() >= self.start + CALIBRATION_SHARE * self.whole
            return step - self.first >= FIRST_STEPS or late
        early = bool(self.plans) and step >= self.plans[-1].steps and self.end - self.clock() > LEFT_SHARE * self.whole
        return early or self.clock() >= self._next

    def plan(self, step: int, once: float = 0.0) -> int:
        """The number of steps of the run, from the pace since the last call; `UNKNOWN` at the first call. `once`: the seconds that the run
        has spent so far on what does not come again; they are no part of the pace."""
        now = self.clock()
        if self._mark is None:
            self._mark, self._next = (now, step, once), now + min(CALIBRATION, CALIBRATION_SHARE * self.whole)
            return UNKNOWN
        since, before, once_before = self._mark
        if step > before:
            seconds = max(now - since - (once - once_before), 1e-9) / (step - before)
            steps = step + max(0, int((self.end - now) / seconds))
            self.plans.append(Plan(round(now - self.start, 2), step, seconds, steps))
            self._mark = now, step, once
        self._next = now + self.whole / PLANS
        return self.plans[-1].steps if self.plans else UNKNOWN

    def describe(self, step: int) -> dict[str, Any]:
        """What is known at the end of the run, as plain values."""
        seconds = self.clock() - self.start
        mean = seconds / (step - self.first) if step > self.first else None
        plans = [asdict(plan) for plan in self.plans]
        return {"steps": step, "seconds": round(seconds, 2), "seconds_per_step": mean, "whole": round(self.whole, 2), "plans": plans}
