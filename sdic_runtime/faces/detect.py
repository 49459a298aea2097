"""Where faces are: MediaPipe's two detectors, on the whole picture and on ever smaller tiles of it, and turned by quarters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces import networks
from sdic_runtime.faces.levels import Levels, levels_of

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 0.3  # the finest look: the whole picture at this scale, where 20 pixels between the eyes are 6
MOST_PIXELS = 2048  # the long side of the finest look
OVERLAP = 48  # pixels by which tiles overlap, of the side of one
THRESHOLD = 0.5  # a score below it is no face
SAME = 0.3  # intersection over union above which two boxes are one face
BATCH = 16


@dataclass(frozen=True)
class Detector:
    """A detector's input side in pixels, and its anchors: (cells per side, boxes per cell) of each grid."""

    name: str
    side: int
    grids: tuple[tuple[int, int], ...]

    @cache  # noqa: B019 - two detectors, which live as long as the program
    def anchors(self) -> np.ndarray:
        """float32 [boxes, 2]: their centres, 0 to 1."""
        found = []
        for cells, boxes in self.grids:
            places = (np.arange(cells, dtype=np.float32) + np.float32(0.5)) / cells
            found.append(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2).repeat(boxes, 0))
        return np.concatenate(found)


SHORT_RANGE = Detector("short_range", 128, ((16, 2), (8, 6)))  # faces that fill much of the picture
FULL_RANGE = Detector("full_range", 192, ((48, 1),))


@dataclass(frozen=True, eq=False)
class Detection:
    """One face. `points` float64 [6, 2]: the subject's right eye, left eye, nose, mouth, right ear, left ear; `box` float64 [4]: left,
    top, right, bottom; both in pixels of the photograph. `score`: 0 to 1."""

    box: np.ndarray
    points: np.ndarray
    score: float


def detect(photo: Image | Levels) -> list[Detection]:
    """The faces of an RGB picture, best score first. Those that are turned by more than about 45 degrees are found where they are large, or
    where nobody is upright."""
    scales = Scales(levels_of(photo))
    sides = looks(*scales.size)
    found = [*_look(scales, SHORT_RANGE, 0, sides[:1]), *_look(scales, FULL_RANGE, 0, sides)]
    turned = sides[:2] if found else sides
    for turns in (1, 2, 3):
        found += [*_look(scales, SHORT_RANGE, turns, sides[:1]), *_look(scales, FULL_RANGE, turns, turned)]
    return _distinct(found)


def looks(width: int, height: int) -> list[int]:
    """The long sides at which the picture is looked at: one tile, twice that, up to the finest."""
    finest = min(round(SMALLEST * max(width, height)), MOST_PIXELS)
    sides = [FULL_RANGE.side]
    while sides[-1] < finest:
        sides.append(min(2 * sides[-1], finest))
    return sides


class Scales:
    """A photograph at any size, each made once."""

    def __init__(self, levels: Levels) -> None:
        self.levels, self.size = levels, levels.photo.size
        self._made: dict[int, np.ndarray] = {}

    def at(self, side: int) -> np.ndarray:
        """uint8 [H, W, 3] with `side` pixels on the longer side."""
        if side not in self._made:
            width, height = (max(round(length * side / max(self.size)), 1) for length in self.size)
            self._made[side] = np.asarray(self.levels.resized((width, height)))
        return self._made[side]


def _look(scales: Scales, detector: Detector, turns: int, sides: list[int]) -> Iterator[Detection]:
    for side in sides:
        yield from _look_at(scales, detector, turns, side if side > sides[0] else detector.side)


def _look_at(scales: Scales, detector: Detector, turns: int, side: int) -> Iterator[Detection]:
    """Detections in the picture at the long side `side`, turned by quarters, anticlockwise."""
    pixels = scales.at(side)
    size = pixels.shape[1], pixels.shape[0]
    tiles = [(x, y) for y in _starts(size[1], detector.side) for x in _starts(size[0], detector.side)]
    for first in range(0, len(tiles), BATCH):
        batch = tiles[first : first + BATCH]
        inputs = np.stack([np.rot90(_tile(pixels, x, y, detector.side), turns) for x, y in batch])
        boxes, scores = networks.run(detector.name, inputs, low=-1)
        for index, anchor in np.argwhere(scores[..., 0] > 0):  # the logit of THRESHOLD
            values = boxes[index, anchor].astype(np.float64)
            points = values.reshape(8, 2) / detector.side
            points[[0, 2, 3, 4, 5, 6, 7]] += detector.anchors()[anchor]
            half = points[1] / 2
            corners = np.array([points[0] - half, points[0] + half])
            places = _turned(np.concatenate([corners, points[2:]]), turns) * detector.side + batch[index]
            places *= np.array(scales.size) / size
            box = np.concatenate([places[:2].min(0), places[:2].max(0)])
            yield Detection(box, places[2:], float(1 / (1 + np.exp(-scores[index, anchor, 0]))))


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` start that cover `length` evenly; one in the middle where it is shorter."""
    if length <= side:
        return [(length - side) // 2]
    count = -(-(length - OVERLAP) // (side - OVERLAP))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def _tile(pixels: np.ndarray, x: int, y: int, side: int) -> np.ndarray:
    """uint8 [side, side, 3] from (x, y) on, black beyond the picture."""
    tile = np.zeros((side, side, 3), np.uint8)
    part = pixels[max(y, 0) : y + side, max(x, 0) : x + side]
    tile[max(-y, 0) : max(-y, 0) + part.shape[0], max(-x, 0) : max(-x, 0) + part.shape[1]] = part
    return tile


def _turned(points: np.ndarray, turns: int) -> np.ndarray:
    """Points 0 to 1 of a picture that `np.rot90` turned, where they were before."""
    for _ in range(turns):
        points = np.stack([1 - points[:, 1], points[:, 0]], -1)
    return points


def _distinct(found: list[Detection]) -> list[Detection]:
    """The best of those that overlap."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda detection: -detection.score):
        if all(overlap(one.box, other.box) < SAME for other in kept):
            kept.append(one)
    return kept


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    extent = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    common = extent.prod()
    return float(common / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common + 1e-9))
