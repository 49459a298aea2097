"""From frames to edited frames, as a stream: cut out, inverted, codes smoothed, edited, pasted back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.edits import Edit
from sdic_runtime.faces import paste
from sdic_runtime.faces.mask import SIDE, face_mask, person_mask, square_mask
from sdic_runtime.inversion import Held, Inversion
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import PREPARE
from sdic_runtime.subjects import DIFFERENCE
from sdic_runtime.video.smoothing import Smoothing, weights
from sdic_runtime.video.tracks import Place

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdic_runtime.video.reader import Frame

PERSON, FACE, SQUARE = MASKS = ("person", "face", "square")


@dataclass(frozen=True, eq=False)
class Work:
    """What is done with every face: `keep` is an 8-bit picture of the frames' size, 255 where nothing may change."""

    pipeline: Pipeline
    edit: Edit
    strength: float
    move: str | None
    paste: str
    mask: str
    keep: Image | None
    smoothing: Smoothing
    batch: int
    places: Callable[[int], list[Place]]
    seconds: np.ndarray  # when each frame is shown


@dataclass(frozen=True, eq=False)
class Shown:
    """A face in one frame, inverted. `values`: what is smoothed over time: all that an edit takes of the inversion, and the mask."""

    place: Place
    inversion: Inversion
    values: dict[str, np.ndarray]


Inverted = tuple["Frame", list[Shown]]
MASK = "mask of the face"  # no tensor's name has spaces


def rendered(frames: Iterable[Frame], work: Work) -> Iterator[tuple[Frame, Image, list[Place]]]:
    """Each frame with its edited RGB picture and the faces that were edited.

    Frames are inverted `batch` at a time, in groups that begin at multiples of it, so that a run that begins later at such a multiple has
    the same groups, and the same bits. The first and the last `smoothing.code_reach` frames lack neighbours on one side.
    """
    reach = work.smoothing.code_reach
    window: deque[Inverted] = deque()
    at = 0  # the place in the window of the frame that is next
    for inverted in _inverted(frames, work):
        window.append(inverted)
        if len(window) - at > reach:
            yield _finished(window, at, work)
            at += 1
        if at > reach:
            window.popleft()
            at -= 1
    while at < len(window):
        yield _finished(window, at, work)
        at += 1


def _inverted(frames: Iterable[Frame], work: Work) -> Iterator[Inverted]:
    pipeline = work.pipeline
    programs = pipeline.bundle.manifest.programs
    used = {name for move in pipeline.moves.values() for name in programs[move.program].takes}
    used |= set(programs[PREPARE].takes) if PREPARE in programs else set()
    for _, group in groupby(frames, lambda frame: frame.index // work.batch):
        taken = [(frame, work.places(frame.index)) for frame in group]
        crops = [_cut(frame.image, place, pipeline) for frame, places in taken for place in places]
        inversions = iter(pipeline.invert(crops, batch=work.batch) if crops else ())
        remaining = iter(crops)
        for frame, places in taken:
            shown = []
            for place in places:
                inversion, crop = next(inversions), next(remaining)
                values = {name: inversion.tensors[name].host() for name in sorted(used & set(inversion.tensors))}
                shown.append(Shown(place, inversion, values | {MASK: _mask(crop, place, work)}))
            yield frame, shown


def _rows(pipeline: Pipeline, side: int) -> tuple[int, int]:
    """The rows of a square picture of `side` pixels that a person sees."""
    first, end = pipeline.model.visible_rows
    return round(first * side / pipeline.sizes["R"]), round(end * side / pipeline.sizes["R"])


def _cut(image: Image, place: Place, pipeline: Pipeline) -> Image:
    """What the model takes of a place: the square, or the part of it that a letterboxed domain sees."""
    side = pipeline.sizes["R"]
    first, end = _rows(pipeline, side)
    crop = place.square.cut(image, side)
    return crop if (first, end) == (0, side) else crop.crop((0, first, side, end))


def _mask(crop: Image, place: Place, work: Work) -> np.ndarray:
    """float32 [SIDE, SIDE], 0 to 255: where a change of the square shows."""
    if place.outline is None:
        first, end = _rows(work.pipeline, SIDE)
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[first:end] = np.asarray(square_mask().resize((SIDE, end - first)), np.float32)
        return mask
    if work.mask == PERSON:
        return np.asarray(person_mask(crop, place.square, place.outline, place.others), np.float32)
    return np.asarray(face_mask(place.square, place.outline) if work.mask == FACE else square_mask(), np.float32)


def _finished(window: Sequence[Inverted], at: int, work: Work) -> tuple[Frame, Image, list[Place]]:
    """The frame at this place of the window, edited."""
    frame, shown = window[at]
    image, pipeline = frame.image, work.pipeline
    for face in shown:
        values = _smoothed(window, at, face, work)
        mask = _image(values.pop(MASK) * face.place.weight)
        tensors = {**face.inversion.tensors, **{name: Held(value) for name, value in values.items()}}
        inversion = Inversion(pipeline.model, tensors, face.inversion.names)
        strengths = [0.0, work.strength] if work.paste == DIFFERENCE else [work.strength]
        pictures = [_whole(picture, pipeline) for picture in pipeline.edit(inversion, work.edit, strengths, move=work.move).images]
        if work.paste == DIFFERENCE:
            image = paste.added(image, face.place.square, pictures[1], pictures[0], mask, work.keep)
        else:
            image = paste.replaced(image, face.place.square, pictures[0], mask, work.keep)
    return frame, image, [face.place for face in shown]


def _smoothed(window: Sequence[Inverted], at: int, face: Shown, work: Work) -> dict[str, np.ndarray]:
    """The values of a face averaged with those of the same face in the frames around it."""
    reach, first = work.smoothing.code_reach, window[at][0].index
    near = {
        frame.index: other.values
        for frame, faces in list(window)[max(at - reach, 0) : at + reach + 1]
        for other in faces
        if other.place.track == face.place.track
    }
    if len(near) == 1:
        return dict(face.values)
    share = weights(work.seconds[list(near)], work.seconds[first], work.smoothing.codes)
    return {
        name: sum((part * values[name] for part, values in zip(share, near.values(), strict=True)), np.zeros_like(value))
        for name, value in face.values.items()
    }


def _whole(picture: Image, pipeline: Pipeline) -> Image:
    """The visible rows as the square that they belong to, black where nobody sees it."""
    from PIL import Image

    if picture.width == picture.height:
        return picture
    square = Image.new("RGB", (picture.width, picture.width))
    square.paste(picture, (0, _rows(pipeline, picture.width)[0]))
    return square


def _image(mask: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(np.clip(np.rint(mask), 0, 255).astype(np.uint8))
