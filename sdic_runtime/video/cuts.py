"""Where one shot ends and the next begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from sdic_runtime.video.reader import Frame

SIDE = 64, 36  # pixels of the small picture that is compared
LEAST = 18.0  # of 255: the mean difference of two small pictures that may be a cut
SHARPER = 2.5  # how many times the differences before and after it a cut's is, at least
BEFORE = 4  # differences that are looked back at; the largest may be another cut's


def marked(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame with whether a shot begins with it; one frame is read ahead.

    A shot begins where the small picture differs by much more than the frames around do from each other. A flash does not begin one:
    the frame after it is like the one before it.
    """
    steps: deque[float] = deque(maxlen=BEFORE)  # between neighbours, before `waiting`
    pictures: deque[np.ndarray] = deque(maxlen=3)  # the last one is of `waiting`
    waiting: Frame | None = None
    step = 0.0  # from the frame before to `waiting`
    for frame in frames:
        small = _small(frame)
        if waiting is not None:
            following = _difference(small, pictures[-1])
            yield waiting, waiting.index == 0 or _jumps(step, steps, following, pictures)
            steps.append(step)
            step = following
        pictures.append(small)
        waiting = frame
    if waiting is not None:
        yield waiting, waiting.index == 0 or _jumps(step, steps, 0.0, pictures)


def _jumps(step: float, earlier: deque[float], following: float, pictures: deque[np.ndarray]) -> bool:
    around = max([*sorted(earlier)[: -1 if len(earlier) == BEFORE else None], following])
    returns = len(pictures) > 2 and _difference(pictures[-1], pictures[-3]) < step / SHARPER
    return step > max(LEAST, SHARPER * around) and not returns


def _small(frame: Frame) -> np.ndarray:
    return frame.picture.reformat(*SIDE, format="rgb24", interpolation="AREA").to_ndarray().astype(np.int16)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())
