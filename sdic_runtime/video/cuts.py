"""Where one shot ends and the next begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from sdic_runtime.video.reader import Frame

SIDE = 64, 36  # pixels of the small picture that is compared
LEAST = 18.0  # of 255: the mean difference of two small pictures that may be a cut
SHARPER = 3.0  # how many times the differences before it a cut's is, at least
BEFORE = 4  # differences that are looked back at


def marked(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame with whether a shot begins with it; one frame is read ahead.

    A shot begins where the small picture differs by much more than the ones before did from each other. A flash does too, but after it
    the next frame is like the last one before it: no shot begins with either.
    """
    earlier: deque[float] = deque(maxlen=BEFORE)
    pictures: deque[np.ndarray] = deque(maxlen=2)  # of `waiting` and of the frame before it
    waiting: Frame | None = None
    step, flash = 0.0, False  # the difference between these two; whether the frame before `waiting` was a flash
    for frame in frames:
        small = _small(frame)
        if waiting is not None:
            jumps = _jumps(step, earlier) and not flash
            flash = jumps and _difference(small, pictures[0]) < step / SHARPER
            yield waiting, waiting.index == 0 or (jumps and not flash)
            earlier.append(step)
            step = _difference(small, pictures[-1])
        pictures.append(small)
        waiting = frame
    if waiting is not None:
        yield waiting, waiting.index == 0 or (_jumps(step, earlier) and not flash)


def _jumps(step: float, earlier: deque[float]) -> bool:
    return step > LEAST and step > SHARPER * max(sorted(earlier)[: -1 if len(earlier) == BEFORE else None], default=0)


def _small(frame: Frame) -> np.ndarray:
    return frame.picture.reformat(*SIDE, format="rgb24", interpolation="AREA").to_ndarray().astype(np.int16)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())
