"""Tracks: what the sightings of a whole clip say about each face, and where in each frame an edit goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from sdic_runtime.errors import ArgumentError
from sdic_runtime.faces.align import Square
from sdic_runtime.subjects import ALL, LARGEST
from sdic_runtime.video.faces import LEFT, OUTLINE, RIGHT, Sighting, square_of
from sdic_runtime.video.smoothing import smoothed

SHORTEST = 0.2  # seconds: a shorter track is a mistake of the detector, or not worth a flash of an edit
JOINED = 0.3  # seconds: a face that is lost and found again within them, at its place, was there all the time
NEAR = 2.0  # eye distances: its place
FADE = 0.2  # seconds over which an edit comes and goes with a face that enters or leaves a shot


@dataclass(frozen=True, eq=False)
class Place:
    """One face in one frame. `outline`: its own, None for a frame that is taken as it is; `others`: of the frame's other faces. `weight`:
    how much of the edit shows, 0 to 1."""

    track: int
    square: Square
    outline: np.ndarray | None = None
    others: tuple[np.ndarray, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Track:
    """A face in the frames `first`, `first` + 1, ... of one shot. `points` [N, 40, 2]; `weights` [N]: see `Place`."""

    first: int
    points: np.ndarray
    weights: np.ndarray

    @property
    def end(self) -> int:
        return self.first + len(self.points)

    @property
    def eyes(self) -> float:
        """Pixels between the eyes, on average."""
        return float(np.linalg.norm(self.points[:, RIGHT] - self.points[:, LEFT], axis=-1).mean())

    def overlaps(self, other: Track) -> bool:
        return self.first < other.end and other.first < self.end


@dataclass
class Timeline:
    """What is known of a clip's frames: times, durations, shots; filled frame by frame."""

    time_base: Fraction
    ticks: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)  # each frame's, from 0

    def add(self, ticks: int, duration: int, begins: bool) -> None:
        self.ticks.append(ticks)
        self.durations.append(duration)
        self.shots.append((self.shots[-1] if self.shots else -1) + begins)

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def seconds(self) -> np.ndarray:
        """float64 [N]: when each frame is shown."""
        return np.array(self.ticks, np.float64) * float(self.time_base)


class Places:
    """Where edits go, frame by frame."""

    def __init__(self, tracks: Sequence[Track], chosen: Sequence[int]) -> None:
        """`chosen`: the numbers of the tracks that are edited; the others are faces to be left alone."""
        self._tracks, self._chosen = tracks, set(chosen)

    def __call__(self, index: int) -> list[Place]:
        present = {
            number: track.points[index - track.first].astype(np.float64)
            for number, track in enumerate(self._tracks)
            if track.first <= index < track.end
        }
        return [
            Place(
                number,
                square_of(points),
                points[OUTLINE:],
                tuple(other[OUTLINE:] for one, other in present.items() if one != number),
                float(self._tracks[number].weights[index - self._tracks[number].first]),
            )
            for number, points in present.items()
            if number in self._chosen
        ]


class WholeFrames:
    """The middle of every frame as one aligned picture; a shot is a track."""

    def __init__(self, size: tuple[int, int], rows: tuple[float, float], shots: Sequence[int]) -> None:
        """`size`: of the frames; `rows`: the part of the model's square picture that a person sees, from 0 to 1."""
        first, end = rows
        side = min(size[0], size[1] / (end - first))
        self._square = Square((size[0] / 2, size[1] / 2 - ((first + end) / 2 - 0.5) * side), (side / 2, 0.0))
        self._shots = shots

    def __call__(self, index: int) -> list[Place]:
        return [Place(self._shots[index], self._square)]


def tracks_of(sightings: Iterable[tuple[int, Sighting]], timeline: Timeline, deviation: float) -> list[Track]:
    """The tracks of a clip's sightings, each with its frame's number in growing order: joined where a face was lost for a moment, without
    those that are too short, smoothed over `deviation` seconds."""
    seen: dict[int, tuple[list[int], list[np.ndarray]]] = {}
    for index, sighting in sightings:
        frames, places = seen.setdefault(sighting.track, ([], []))
        frames.append(index)
        places.append(sighting.points.astype(np.float32))
    times = timeline.seconds
    parts = [(frames[0], np.stack(places)) for frames, places in seen.values()]
    joined = _joined(sorted(parts, key=lambda part: (part[0], -len(part[1]))), times, timeline.shots)
    tracks = []
    for first, points in joined:
        end = first + len(points)
        shot = np.flatnonzero(np.array(timeline.shots) == timeline.shots[first])
        start, stop = int(shot[0]), int(shot[-1]) + 1
        if _length(times, first, end) >= min(SHORTEST, _length(times, start, stop) / 2):
            fades = _fades(times[first:end], first > start, end < stop)
            tracks.append(Track(first, smoothed(times[first:end], points, deviation).astype(np.float32), fades))
    return tracks


def _joined(parts: Sequence[tuple[int, np.ndarray]], times: np.ndarray, shots: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """Parts of tracks (first frame, points) with those put together that are one face."""
    kept: list[tuple[int, np.ndarray]] = []
    for first, points in parts:
        for number, (start, before) in enumerate(kept):
            last = start + len(before) - 1
            gap = first - last - 1
            if gap < 0 or shots[last] != shots[first] or times[first] - times[last] > JOINED or not _near(before[-1], points[0]):
                continue
            shares = ((times[last + 1 : first] - times[last]) / (times[first] - times[last]))[:, None, None]
            kept[number] = start, np.concatenate([before, before[-1] + shares * (points[0] - before[-1]), points])
            break
        else:
            kept.append((first, points))
    return kept


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    eyes = [float(np.hypot(*(points[RIGHT] - points[LEFT]))) for points in (one, other)]
    away = np.hypot(*(one[:OUTLINE].mean(0) - other[:OUTLINE].mean(0)))
    return bool(away < NEAR * min(eyes)) and max(eyes) < NEAR * min(eyes)


def _length(times: np.ndarray, first: int, end: int) -> float:
    """Seconds that the frames [first, end) are shown, the last one as long as the one before."""
    shown = times[first:end]
    return float(shown[-1] - shown[0]) * len(shown) / max(len(shown) - 1, 1)


def _fades(times: np.ndarray, enters: bool, leaves: bool) -> np.ndarray:
    weights = np.ones(len(times))
    step = (times[-1] - times[0]) / max(len(times) - 1, 1)  # so that the first frame after nothing shows something
    if enters:
        weights = np.minimum(weights, (times - times[0] + step) / (FADE + step))
    if leaves:
        weights = np.minimum(weights, (times[-1] - times + step) / (FADE + step))
    return np.clip(weights, 0, 1)


def ranks(tracks: Sequence[Track]) -> list[int]:
    """Each track's rank: 1 for the largest face of those that are there at the same time, 2 for the next."""
    return [1 + sum(one.overlaps(other) and (other.eyes, -place) > (one.eyes, -number) for place, other in enumerate(tracks))
            for number, one in enumerate(tracks)]  # fmt: skip


def chosen(tracks: Sequence[Track], face: str | int) -> list[int]:
    """The numbers of the tracks that are edited: "all", "largest", or those of a rank. Raises ArgumentError."""
    if face == ALL:
        return list(range(len(tracks)))
    wanted = 1 if face == LARGEST else face
    found = [number for number, rank in enumerate(ranks(tracks)) if rank == wanted]
    if not found and tracks:
        raise ArgumentError(f"there is no face {face} in the video; at most {max(ranks(tracks))} are seen at once, the largest is 1")
    return found
