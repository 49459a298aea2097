"""How well a face can be inverted: a number from 0 to 1, and a sentence about what is worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sdic_runtime.faces.landmarks import Landmarks

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256  # pixels of the crop that is looked at, what most encoders take
LOW = 0.5  # a quality below it gets its sentence
SMALL = 32  # pixels of the crop whose flat parts are counted: what grain and blocks of JPEG leave of it is the light on a face
FLAT = 0.04  # of the contrast: a smaller step between neighbours is none
REACH = 9  # pixels of the blur that tells a sharp face from a blurred one


class Quality(NamedTuple):
    value: float
    sentence: str | None  # None where the value is not low


def measure(face: Landmarks, crop: Image, inside: float) -> Quality:
    """The least of six parts, each 1 where it is good, LOW where it begins to hurt. `crop`: the face's square in SIDE pixels; `inside`:
    the share of the square that is in the photograph."""
    gray = np.asarray(crop.convert("L"), np.float32)
    middle = gray[SIDE // 4 : -SIDE // 8, SIDE // 4 : -SIDE // 4]
    eyes, turned = face.eye_distance, face.turned
    parts = [
        (_grade(eyes, 32, 64), f"the face is small, {eyes:.0f} pixels between the eyes; its details will be invented"),
        (_grade(90 - turned, 50, 70), f"the face is turned by {turned:.0f} degrees; most models know faces from the front"),
        (_grade(sharpness(middle), 0.27, 0.45), "the face is blurred; it will come back sharper and somewhat different"),
        (_grade(float(middle.std()), 12, 25), "the face is too dark, too bright or without contrast"),
        (_grade(inside, 0.7, 0.95), f"the photograph's edge cuts the face; {1 - inside:.0%} of its surroundings are missing"),
    ]
    drawn = (_grade(1 - flatness(crop), 0.56, 0.75), "it may be a drawing; the models know faces of photographs")
    value, sentence = min(*parts, drawn, key=lambda part: part[0])
    return Quality(value, drawn[1] if drawn[0] < LOW else sentence if value < LOW else None)


def _grade(value: float, low: float, good: float) -> float:
    return float(np.interp(value, [0, low, good], [0, LOW, 1]))


def flatness(crop: Image) -> float:
    """The share of the face's middle without any shading: below .4 in photographs, above .5 in nearly all drawings. Neither detector nor
    mesh tells one from the other."""
    from PIL import Image

    gray = np.asarray(crop.convert("L").resize((SMALL, SMALL), Image.Resampling.BOX), np.float32)
    middle = gray[SMALL // 4 : -SMALL // 8, SMALL // 4 : -SMALL // 4]
    low, high = np.percentile(middle, (2, 98))
    steps = np.hypot(np.diff(middle, axis=1)[:-1], np.diff(middle, axis=0)[:, :-1])
    return float((steps < FLAT * max(high - low, 1)).mean())


def sharpness(gray: np.ndarray) -> float:
    """The share of the differences between neighbours [H, W] that a blur of REACH pixels takes away, in the direction where it takes least:
    about .6 for sharp faces, .2 for blurred ones (after Crete and others, The blur effect, 2007)."""
    shares = []
    for rows in (gray, gray.T):
        sums = np.pad(rows.cumsum(1, dtype=np.float64), ((0, 0), (1, 0)))
        blurred = (sums[:, REACH:] - sums[:, :-REACH]) / REACH
        steps = np.abs(np.diff(rows[:, REACH // 2 : -(REACH // 2)], axis=1))
        lost = np.maximum(steps - np.abs(np.diff(blurred, axis=1)), 0)
        shares.append(float(lost.sum() / max(steps.sum(), 1e-9)))
    return min(shares)
