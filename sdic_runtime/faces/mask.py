"""Which pixels of a face's square are changed: masks as 8-bit pictures of SIDE x SIDE in the square, 255 where all of the change shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces import networks
from sdic_runtime.faces.align import Square

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256  # pixels: what the person mask's model takes and gives
EDGE = 0.12  # of the side: over which the square's own edge fades
GROWN = 0.03  # of the side: how much larger than the mesh's oval the face is
SOFT = 0.02  # of the side: the radius of the blur of outlines


def square_mask() -> Image:
    """All of the square, faded towards its edges."""
    from PIL import Image

    places = (np.arange(SIDE) + 0.5) / SIDE
    ramp = np.clip(np.minimum(places, 1 - places) / EDGE, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return Image.fromarray((ramp[:, None] * ramp * 255).round().astype(np.uint8))


def face_mask(square: Square, outline: np.ndarray) -> Image:
    """The face without hair and neck: `outline` [N, 2] in pixels of the photograph."""
    from PIL import Image, ImageChops, ImageDraw, ImageFilter

    mask = Image.new("L", (SIDE, SIDE))
    points = [(float(x), float(y)) for x, y in square.inward(outline, SIDE)]
    drawing = ImageDraw.Draw(mask)
    drawing.polygon(points, fill=255)
    drawing.line([*points, points[0]], fill=255, width=round(2 * GROWN * SIDE), joint="curve")
    return ImageChops.multiply(mask.filter(ImageFilter.GaussianBlur(SOFT * SIDE)), square_mask())


def person_mask(crop: Image, square: Square, outline: np.ndarray, others: Sequence[np.ndarray] = ()) -> Image:
    """The person whose face is cut to `crop`, hair and shoulders included, without the faces of `others`, by their outlines."""
    from PIL import Image, ImageChops, ImageFilter

    small = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3))
    (found,) = networks.run("person", small[None])
    person = Image.fromarray((np.clip(found[0, 0], 0, 1) * 255).round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(SOFT * SIDE / 2))
    mask = ImageChops.lighter(person, face_mask(square, outline))
    for other in others:
        mask = ImageChops.subtract(mask, face_mask(square, other))
    return ImageChops.multiply(mask, square_mask())
