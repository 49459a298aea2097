"""What is measured frame by frame, without its noise: weighted by time, so that variable frame rates count as they are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdic_runtime.edits import check_number
from sdic_runtime.errors import ArgumentError

REACH = 3.0  # deviations of the weights' bell that count
LONGEST = 2.0  # seconds
CODE_REACH = 4  # frames before and after whose codes count, at most: as many inversions are held


@dataclass(frozen=True)
class Smoothing:
    """How far in time, in seconds (the deviation of a bell), things are averaged; 0: not at all. `codes`: the codes, and all else that an
    edit takes of an inversion."""

    landmarks: float = 0.1
    codes: float = 0.04

    def __post_init__(self) -> None:
        for name in ("landmarks", "codes"):
            value = check_number(getattr(self, name), f"the smoothing of {name}")
            if not 0 <= value <= LONGEST:
                raise ArgumentError(f"the smoothing of {name} is {value:g}; give 0 to {LONGEST:g} seconds")

    @property
    def code_reach(self) -> int:
        return CODE_REACH if self.codes else 0


def smoothed(times: np.ndarray, values: np.ndarray, deviation: float) -> np.ndarray:
    """`values` [N, ...], measured at `times` [N] (seconds, growing), after a local fit of parabolas: a motion of constant acceleration
    stays as it is, also at both ends (Savitzky and Golay 1964, with the weights of a bell)."""
    if deviation <= 0 or len(times) < 4:
        return values
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    result = np.empty_like(flat)
    starts = np.searchsorted(times, times - REACH * deviation)
    ends = np.searchsorted(times, times + REACH * deviation, side="right")
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        start, end = _at_least(start, end, len(times))
        away = (times[start:end] - times[index]) / deviation
        root = np.exp(-(away**2) / 4)  # of the weight
        powers = np.stack([root, root * away, root * away**2], 1)
        result[index] = np.linalg.lstsq(powers, root[:, None] * flat[start:end], rcond=None)[0][0]
    return result.reshape(np.shape(values))


def _at_least(start: int, end: int, count: int, least: int = 4) -> tuple[int, int]:
    """A range of `least` or more: a parabola needs three points, and one more to smooth anything."""
    missing = max(least - (end - start), 0)
    start = max(start - (missing + 1) // 2, 0)
    end = min(max(end, start + least), count)
    return max(min(start, end - least), 0), end


def weights(times: np.ndarray, at: float, deviation: float) -> np.ndarray:
    """The weights of what was measured at `times` for an average at the time `at`, float32 [N] with the sum 1."""
    bell = np.exp(-(((times - at) / max(deviation, 1e-9)) ** 2) / 2)
    return (bell / bell.sum()).astype(np.float32)
