"""Affine resampling that rounds: Pillow's own cuts 8-bit results down, which darkens a picture by half a gray level each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling


def affine(image: Image, size: tuple[int, int], matrix: np.ndarray, resampling: Resampling) -> Image:
    """`image` (L, RGB or F) at the places that `matrix` [2, 3] gives for the pixels of the result, width x height; 0 beyond the image."""
    from PIL import Image

    def channel(part: Image.Image) -> Image.Image:
        return part.convert("F").transform(size, Image.Transform.AFFINE, tuple(matrix.ravel()), resampling)

    if image.mode == "F":
        return channel(image)
    pixels = np.empty((size[1], size[0], len(image.getbands())), np.uint8)
    for index, part in enumerate(image.split()):
        pixels[..., index] = np.clip(np.asarray(channel(part)) + np.float32(0.5), 0, 255)
    return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)
