"""The way back: a picture of a square into the photograph that the square was cut from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces.align import Square
from sdic_runtime.faces.resample import affine

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

COARSER = 1.25  # a picture with more pixels than this per pixel of the photograph is placed FINER times finer, then averaged
FINER = 2


def replaced(photo: Image, square: Square, picture: Image, mask: Image, keep: Image | None = None) -> Image:
    """`photo` (RGB) with `picture` (RGB, of the square) where `mask` (8 bits, of the square) is. Where the mask is 0 nothing changes;
    `keep` (8 bits, of the photograph) is 255 where nothing may."""
    from PIL import Image

    result = photo.copy()
    box = square.bounds(photo)
    if box[0] < box[2] and box[1] < box[3]:
        placed = _placed(picture, square, box, Image.Resampling.BICUBIC)
        result.paste(placed, box[:2], _placed_mask(mask, square, box, keep))
    return result


def added(photo: Image, square: Square, picture: Image, base: Image, mask: Image, keep: Image | None = None) -> Image:
    """`photo` with `picture` - `base` (both RGB, of the square, of one size) added to it, as much as `mask` and `keep` say; see `replaced`.
    What the two have in common stays as sharp as the photograph is."""
    from PIL import Image

    result = photo.copy()
    box = square.bounds(photo)
    if box[0] < box[2] and box[1] < box[3]:
        weight = np.asarray(_placed_mask(mask, square, box, keep), np.float32) / 255
        source = np.asarray(photo.crop(box))
        change = np.asarray(picture, np.float32) - np.asarray(base, np.float32)
        pasted = np.empty_like(source)
        for channel in range(3):
            placed = _placed(Image.fromarray(np.ascontiguousarray(change[..., channel])), square, box, Image.Resampling.BICUBIC)
            pasted[..., channel] = np.clip(np.rint(source[..., channel] + np.asarray(placed) * weight), 0, 255)
        result.paste(Image.fromarray(pasted), box[:2])
    return result


def _placed(picture: Image, square: Square, box: tuple[int, int, int, int], resampling: Resampling) -> Image:
    """The pixels of the photograph in `box` that a picture of the square gives, 0 outside the square."""
    from PIL import Image

    finer = FINER if picture.width > COARSER * square.side else 1
    if picture.width > FINER * square.side:
        side = max(round(FINER * square.side), 1)
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    size = (box[2] - box[0]) * finer, (box[3] - box[1]) * finer
    away = square.axes / (square.axes[0] @ square.axes[0])
    matrix = np.column_stack([away / finer, away @ (np.array(box[:2]) - square.centre) + 1]) * (picture.width / 2)
    placed = affine(picture, size, matrix, resampling)
    return placed if finer == 1 else placed.reduce(finer)


def _placed_mask(mask: Image, square: Square, box: tuple[int, int, int, int], keep: Image | None) -> Image:
    from PIL import Image, ImageChops

    placed = _placed(mask, square, box, Image.Resampling.BILINEAR)
    return placed if keep is None else ImageChops.multiply(placed, ImageChops.invert(keep.crop(box)))
