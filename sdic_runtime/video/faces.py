"""Faces from frame to frame: found every few frames, followed in between by their landmarks, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces.align import Square
from sdic_runtime.faces.face import APART, LIKELY, SURE, find
from sdic_runtime.faces.landmarks import OVAL, Landmarks, landmarks

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdic_runtime.video.reader import Frame

FIND_EVERY = 10  # frames between two looks at the whole picture
NOSE = 1  # the mesh's vertex
EARS = [OVAL.index(234), OVAL.index(454)]  # the subject's right and left, where the detector sees ears
FURTHEST = 1.0  # eye distances that a face moves between two frames, at most
GROWTH = 1.5  # how many times larger or smaller it becomes, at most
# The points of a sighting: centres of the eyes (left and right as one sees the picture), mouth, nose, then the face's outline.
LEFT, RIGHT, MOUTH, TIP, OUTLINE = 0, 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class Sighting:
    """A face in one frame. `points` float64 [40, 2] in pixels of the frame, see above; `score`: how sure the mesh is of a face."""

    track: int
    points: np.ndarray
    score: float

    @classmethod
    def read(cls, track: int, score: float, data: bytes) -> Sighting:
        """The way back from `data`."""
        return cls(track, np.frombuffer(data, np.float32).reshape(-1, 2).astype(np.float64), score)

    @property
    def data(self) -> bytes:
        """The points as they are kept; they are rounded to that."""
        return self.points.astype(np.float32).tobytes()

    @classmethod
    def of(cls, track: int, mesh: Landmarks) -> Sighting:
        points = np.array([mesh.left_eye, mesh.right_eye, mesh.mouth, mesh.points[NOSE, :2], *mesh.outline])
        return cls(track, points.astype(np.float32).astype(np.float64), float(mesh.score))

    @property
    def eyes(self) -> float:
        """Pixels between the eyes."""
        return float(np.hypot(*(self.points[RIGHT] - self.points[LEFT])))

    @property
    def detected(self) -> np.ndarray:
        """The six points that a detector would have found, float64 [6, 2]; see `faces.detect.Detection`."""
        return self.points[[LEFT, RIGHT, TIP, MOUTH, *[OUTLINE + ear for ear in EARS]]]

    def near(self, other: Sighting) -> bool:
        """Whether both are one face, seen in one frame."""
        away = np.hypot(*(self.points[:OUTLINE].mean(0) - other.points[:OUTLINE].mean(0)))
        return bool(away <= APART * max(self.eyes, other.eyes))


def square_of(points: np.ndarray) -> Square:
    """What FFHQ cuts for a face with these points [40, 2]."""
    return Landmarks(points, points[LEFT], points[RIGHT], points[MOUTH], 1.0).square


def followed(image: Image, last: Sighting) -> Sighting | None:
    """The face `last` in a frame next to its own; None where it is not there any more."""
    seen = Sighting.of(last.track, landmarks(image, last.detected))
    moved = np.hypot(*(seen.points[:OUTLINE].mean(0) - last.points[:OUTLINE].mean(0)))
    growth = max(seen.eyes, 1e-9) / max(last.eyes, 1e-9)
    if seen.score < LIKELY or moved > FURTHEST * last.eyes or not 1 / GROWTH < growth < GROWTH:
        return None
    return seen if square_of(seen.points).touches(image) else None


class Follower:
    """Goes through a clip block by block; what it has to remember is in the last frame's sightings."""

    def __init__(self, last: Sequence[Sighting] = (), next_track: int = 0) -> None:
        self._last, self._next = list(last), next_track

    def block(self, frames: Sequence[Frame], new_shot: bool) -> list[list[Sighting]]:
        """The sightings in each of these frames, which follow those of the block before; the last one is looked at whole. With
        `new_shot` nothing is known from before."""
        images = [frame.image for frame in frames]
        seen: list[list[Sighting]] = []
        for image in images:
            known = self._last if not seen else seen[-1]
            known = [] if new_shot and not seen else known
            seen.append(_distinct(face for last in known if (face := followed(image, last)) is not None))
        found = [Sighting.of(-1, face.landmarks) for face in find(images[-1])]
        # What the whole picture shows no face at must be a face for sure.
        seen[-1] = [face for face in seen[-1] if face.score >= SURE or any(face.near(one) for one in found)]
        for face in found:
            if not any(face.near(one) for one in seen[-1]):
                self._enter(replace(face, track=self._next), images, seen)
                self._next += 1
        self._last = seen[-1]
        return seen

    def _enter(self, face: Sighting, images: Sequence[Image], seen: list[list[Sighting]]) -> None:
        """Add a face that was found in the last frame, and follow it back to where it came in, or where it was lost before."""
        chain = [face]
        for image, others in zip(reversed(images[:-1]), reversed(seen[:-1]), strict=True):
            earlier = followed(image, chain[-1])
            same = next((other for other in others if earlier is not None and earlier.near(other)), None)
            if same is not None and not any(one.track == same.track for later in seen[len(seen) - len(chain) :] for one in later):
                chain = [replace(one, track=same.track) for one in chain]
            if earlier is None or same is not None:
                break
            chain.append(earlier)
        for one, others in zip(chain, reversed(seen), strict=False):
            others.append(one)


def _distinct(faces: Iterable[Sighting]) -> list[Sighting]:
    """Without those that are at one place with an earlier one: two tracks that ran into each other."""
    kept: list[Sighting] = []
    for face in faces:
        if not any(face.near(other) for other in kept):
            kept.append(face)
    return kept


def blocks(frames: Iterable[tuple[Frame, bool]]) -> Iterator[tuple[list[Frame], bool]]:
    """Frames, each with whether a shot begins with it, as blocks for `Follower.block`: a shot's first frame alone, then FIND_EVERY."""
    block: list[Frame] = []
    for frame, begins in frames:
        if begins:
            if block:
                yield block, False
            yield [frame], True
            block = []
            continue
        block.append(frame)
        if len(block) == FIND_EVERY:
            yield block, False
            block = []
    if block:
        yield block, False
