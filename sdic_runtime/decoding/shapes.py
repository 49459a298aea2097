"""Pictures of another shape than the model's: squashed, cropped or refused, but never without a word."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_runtime.errors import ArgumentError, PictureError, PictureWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

STRETCHED = 1.03  # a picture that is squashed by more is told
PACKAGE = str(Path(__file__).parents[1])
CROP, SQUASH = "crop", "squash"


def wanted_shape(sizes: Mapping[str, int], visible_rows: tuple[int, int]) -> float:
    """Width over height of the pictures that a model takes."""
    return sizes["R"] / (visible_rows[1] - visible_rows[0])


def fits(size: tuple[int, int], wanted: float) -> bool:
    """Whether a picture of `size` has nearly this width over height."""
    stretch = size[0] / size[1] / wanted
    return max(stretch, 1 / stretch) <= STRETCHED


def squashed(name: str, size: tuple[int, int], sizes: Mapping[str, int], visible_rows: tuple[int, int]) -> str:
    """What happens to a picture that does not fit, as the start of a sentence."""
    shape = f"pictures of {sizes['R']} x {visible_rows[1] - visible_rows[0]}"
    taken = "squares" if wanted_shape(sizes, visible_rows) == 1 else shape
    return f"{name} has {size[0]} x {size[1]} pixels and is squashed, because the model takes {taken}"


def middle(image: Image, wanted: float) -> Image:
    """The largest part in the middle of the picture with this width over height."""
    width, height = max(min(image.width, round(image.height * wanted)), 1), max(min(image.height, round(image.width / wanted)), 1)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def shaped(
    image: Image, name: str, sizes: Mapping[str, int], visible_rows: tuple[int, int], shape: str | None = SQUASH, aligned: bool = False
) -> Image:
    """The part of a picture that a model takes: its middle with `shape` "crop", all of it with "squash". None: all of it, with a
    PictureWarning where that squashes it, and a PictureError where the model is one of `aligned` faces, of which a photograph is none."""
    if shape not in (None, CROP, SQUASH):
        raise ArgumentError(f'shape is "{shape}"; use "{CROP}" or "{SQUASH}"')
    wanted = wanted_shape(sizes, visible_rows)
    if shape == SQUASH or fits(image.size, wanted):
        return image
    if shape == CROP:
        return middle(image, wanted)
    if aligned:
        why = f"{name} has {image.width} x {image.height} pixels, and the model takes squares with an aligned face"
        ways = 'give the crop of sdic_runtime.faces.find(picture)[0], or say shape="crop" or shape="squash"'
        raise PictureError(f"{why}; {ways}")
    told = f'{squashed(name, image.size, sizes, visible_rows)}; crop it, or say shape="crop" or shape="squash"'
    warnings.warn(told, PictureWarning, _depth())
    return image


def _depth() -> int:
    """How many calls up the one is that did not come from this package: whose line a warning names."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, depth = frame.f_back, depth + 1
    return depth
