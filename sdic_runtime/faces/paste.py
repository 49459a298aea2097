"""The way back: a picture of a square into the photograph that the square was cut from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces.align import Box, Square
from sdic_runtime.faces.resample import affine

if TYPE_CHECKING:
    from PIL.Image import Image

COARSER = 1.25  # a picture with more pixels than this per pixel of the photograph is placed FINER times finer, then averaged
FINER = 2
STRIP = 128  # rows


def replaced(photo: Image, square: Square, picture: Image, mask: Image, keep: Image | None = None) -> Image:
    """`photo` (RGB) with `picture` (RGB, of the square) where `mask` (8 bits, of the square) is. Where the mask is 0 nothing changes;
    `keep` (8 bits, of the photograph) is 255 where nothing may."""
    result = photo.copy()
    placed, weight = Placed(picture, square), Placed(mask, square, smooth=False)
    for box in _strips(square, photo):
        result.paste(placed.at(box), box[:2], _kept(weight.at(box), box, keep))
    return result


def added(photo: Image, square: Square, picture: Image, base: Image, mask: Image, keep: Image | None = None) -> Image:
    """`photo` with `picture` - `base` (both RGB, of the square, of one size) added to it, as much as `mask` and `keep` say; see `replaced`.
    What the two have in common stays as sharp as the photograph is."""
    from PIL import Image

    result = photo.copy()
    change = np.asarray(picture, np.float32) - np.asarray(base, np.float32)
    placed = [Placed(Image.fromarray(np.ascontiguousarray(change[..., channel])), square) for channel in range(3)]
    weight = Placed(mask, square, smooth=False)
    for box in _strips(square, photo):
        shares = np.asarray(_kept(weight.at(box), box, keep), np.float32) / 255
        if not shares.any():
            continue
        pasted = np.array(photo.crop(box))
        for channel in range(3):
            values = np.asarray(placed[channel].at(box)) * shares
            pasted[..., channel] = np.clip(np.rint(values + pasted[..., channel]), 0, 255)
        result.paste(Image.fromarray(pasted), box[:2])
    return result


class Placed:
    """A picture of the square as pixels of the photograph, 0 outside the square."""

    def __init__(self, picture: Image, square: Square, smooth: bool = True) -> None:
        from PIL import Image

        self.finer = FINER if picture.width > COARSER * square.side else 1
        if picture.width > FINER * square.side:
            side = max(round(FINER * square.side), 1)
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        self.picture, self.square = picture, square
        self.resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR

    def at(self, box: Box) -> Image:
        """Those in `box`."""
        square, finer = self.square, self.finer
        size = (box[2] - box[0]) * finer, (box[3] - box[1]) * finer
        away = square.axes / (square.axes[0] @ square.axes[0])
        matrix = np.column_stack([away / finer, away @ (np.array(box[:2]) - square.centre) + 1]) * (self.picture.width / 2)
        placed = affine(self.picture, size, matrix, self.resampling)
        return placed if finer == 1 else placed.reduce(finer)


def _strips(square: Square, photo: Image) -> Iterator[Box]:
    """The pixels that the square touches, STRIP rows at a time: what is made on the way stays small, and as fast as the caches are."""
    left, top, right, bottom = square.bounds(photo)
    if left < right:
        for first in range(top, bottom, STRIP):
            yield left, first, right, min(first + STRIP, bottom)


def _kept(mask: Image, box: Box, keep: Image | None) -> Image:
    from PIL import ImageChops

    return mask if keep is None else ImageChops.multiply(mask, ImageChops.invert(keep.crop(box)))
