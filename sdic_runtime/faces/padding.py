"""What lies beyond a photograph's edges, for a face that is cut by them: the rule of FFHQ, outside only.

FFHQ blurs a strip inside the photograph too. Here every pixel that the photograph has stays as it is, so that it can be pasted back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FADE = 0.3  # of the square's side: how far outside the reflection has become one colour, at least
BLUR = 0.02  # of the side: the radius of the blur
SHARP = 1 / 3  # of the fade: how far outside the blur is complete


def padded(part: Image, matrix: np.ndarray, size: int) -> tuple[Image, np.ndarray]:
    """`part` of a photograph extended to all that a square reads, and by how much its corner moved, int [2].

    `matrix` [2, 3] maps a pixel of the square, 0 to `size`, to one of `part`. Where the square stays inside the part nothing is added.
    """
    from PIL import Image, ImageFilter

    side = size * float(np.hypot(*matrix[:, 0]))
    corners = np.array([[0, 0, 1], [size, 0, 1], [size, size, 1], [0, size, 1]]) @ matrix.T
    before = np.maximum(np.ceil(-corners.min(0)), 0).astype(int)
    after = np.maximum(np.ceil(corners.max(0) - part.size), 0).astype(int)
    before[before > 0] += 2  # for the resampling filter
    after[after > 0] += 2
    pads = [(before[axis], after[axis]) for axis in (1, 0)]
    pixels = np.asarray(part)
    wide = Image.fromarray(np.pad(pixels, [*pads, (0, 0)], mode="symmetric"))
    # How far outside, 0 at the photograph's edge and inside, 1 where one colour is left.
    away = [_distance(length, *pair) / max(FADE * side, *pair) for length, pair in zip(pixels.shape[:2], pads, strict=True)]
    distance = np.maximum(away[0][:, None], away[1][None])
    blurred = wide.filter(ImageFilter.GaussianBlur(BLUR * side))
    wide = Image.composite(blurred, wide, _mask(distance / SHARP))
    wide.paste(_median(part), (0, 0), _mask(distance))
    return wide, before


def _distance(length: int, before: int, after: int) -> np.ndarray:
    """How many pixels outside [0, length) each of before + length + after pixels lies."""
    places = np.arange(-before, length + after)
    return np.maximum(np.maximum(-places, places - (length - 1)), 0)


def _mask(weights: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray((np.clip(weights, 0, 1) * 255).astype(np.uint8))


def _median(image: Image) -> tuple[int, ...]:
    """Each channel's median."""
    counts = np.array(image.histogram()).reshape(-1, 256).cumsum(1)
    return tuple(int(np.searchsorted(channel, channel[-1] / 2)) for channel in counts)
