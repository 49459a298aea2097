"""The temporal metric: how much a face flickers, before and after.

The face is cut out of three frames in a row by its smoothed square, so that its own motion through the picture does not count. Flicker is
the mean absolute second difference |before - 2 * now + after| of brightness over the face, in steps of 255: what changes evenly counts
nothing, what jumps to and fro counts twice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces.mask import face_mask, square_mask
from sdic_runtime.video.tracks import Place

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128  # pixels of the square that is compared


@dataclass
class Flicker:
    """Sums over faces and frames: `source`, `edited`: of the second differences' means; `count`: of frames that have both neighbours."""

    source: float = 0.0
    edited: float = 0.0
    count: int = 0

    def add(self, other: Flicker) -> None:
        self.source += other.source
        self.edited += other.edited
        self.count += other.count

    @property
    def means(self) -> tuple[float, float]:
        """Of the source and of the result, in steps of 255."""
        return self.source / max(self.count, 1), self.edited / max(self.count, 1)

    @property
    def ratio(self) -> float | None:
        """Edited over source; None where the source does not change at all, or nothing was measured."""
        return self.edited / self.source if self.source > 0 else None


@dataclass
class Meter:
    """Measures a row of frames; what lies before and after it does not count."""

    sums: Flicker = field(default_factory=Flicker)
    _seen: dict[int, deque[tuple[int, np.ndarray]]] = field(default_factory=dict)  # track -> the last frames and their two squares

    def add(self, index: int, place: Place, before: Image, after: Image) -> None:
        """A face in frame `index`: the frame `before` and `after` the edit."""
        pair = np.stack([np.asarray(place.square.cut(frame, SIDE).convert("L"), np.float32) for frame in (before, after)])
        last = self._seen.setdefault(place.track, deque(maxlen=2))
        if [at for at, _ in last] == [index - 2, index - 1]:
            mask = square_mask() if place.outline is None else face_mask(place.square, place.outline)
            weight = np.asarray(mask.resize((SIDE, SIDE)), np.float32)
            second = np.abs(last[0][1] - 2 * last[1][1] + pair)
            source, edited = (second * weight).sum((1, 2)) / max(float(weight.sum()), 1e-9)
            self.sums.add(Flicker(float(source), float(edited), 1))
        last.append((index, pair))
