"""A turned square of a photograph: the rule that places it on a face, and what is inside as a picture of its own.

Coordinates are continuous everywhere in this package: pixel (0, 0) covers [0, 1] x [0, 1]; x goes right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.faces.padding import padded
from sdic_runtime.faces.resample import affine

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
GAP = 3  # how many times finer the cheap first reduction leaves a photograph that is made much smaller
FINER = 1.5  # a square is resampled this many times finer than asked for, where the photograph has the pixels


@dataclass(frozen=True)
class Square:
    """The square with the corners centre +- right +- down, where `right` goes from the centre to the middle of the right side, and `down`
    is `right` turned by a quarter, clockwise as one sees it."""

    centre: tuple[float, float]
    right: tuple[float, float]

    @property
    def side(self) -> float:
        return 2 * math.hypot(*self.right)

    @property
    def angle(self) -> float:
        """Degrees by which the square is turned, clockwise as one sees it."""
        return math.degrees(math.atan2(self.right[1], self.right[0]))

    @cached_property
    def axes(self) -> np.ndarray:
        """float64 [2, 2]: `right` and `down`."""
        x, y = self.right
        return np.array([[x, y], [-y, x]])

    @cached_property
    def corners(self) -> np.ndarray:
        """float64 [4, 2]: top left, top right, bottom right, bottom left, as the square sees them."""
        return self.outward(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]))

    def inward(self, points: np.ndarray, size: float = 1) -> np.ndarray:
        """Points [..., 2] of the photograph in the square's own coordinates, 0 to `size`."""
        return ((np.asarray(points, np.float64) - self.centre) @ self.axes.T / (self.axes[0] @ self.axes[0]) + 1) * (size / 2)

    def outward(self, points: np.ndarray, size: float = 1) -> np.ndarray:
        """The way back from `inward`."""
        return (np.asarray(points, np.float64) * (2 / size) - 1) @ self.axes + self.centre

    def scaled(self, factor: float) -> Square:
        """The same square in a photograph of `factor` times the size."""
        return Square((self.centre[0] * factor, self.centre[1] * factor), (self.right[0] * factor, self.right[1] * factor))

    def bounds(self, photo: Image, margin: int = 0) -> Box:
        """The pixels of `photo` that the square touches, and `margin` more on each side; left >= right or top >= bottom: none."""
        (left, top), (right, bottom) = np.floor(self.corners.min(0)) - margin, np.ceil(self.corners.max(0)) + margin
        return max(int(left), 0), max(int(top), 0), min(int(right), photo.width), min(int(bottom), photo.height)

    def touches(self, photo: Image) -> bool:
        """Whether a part of the square lies in the photograph."""
        left, top, right, bottom = self.bounds(photo)
        return left < right and top < bottom

    def leaves(self, photo: Image) -> bool:
        """Whether a part of the square lies beyond the photograph."""
        return bool((self.corners < 0).any() or (self.corners > photo.size).any())

    def cut(self, photo: Image, size: int, pad: bool = True) -> Image:
        """The square as a picture of `size` x `size`, antialiased. Beyond the photograph lies its reflection, blurred and fading into one
        colour (see `padding`); without `pad` black, and all of it faster and rougher."""
        from PIL import Image

        step = self.side / size  # pixels of the photograph per pixel of the result
        left, top, right, bottom = self.bounds(photo, math.ceil(4 * max(step, 1)))
        if left >= right or top >= bottom:
            return Image.new(photo.mode, (size, size))
        box, scale = (left, top, right, bottom), np.ones(2)
        if step > FINER:
            smaller = math.ceil((right - left) * FINER / step), math.ceil((bottom - top) * FINER / step)
            scale = np.array(smaller) / (right - left, bottom - top)
            part = photo.resize(smaller, Image.Resampling.LANCZOS if pad else Image.Resampling.BILINEAR, box, reducing_gap=GAP)
        else:
            part = photo.crop(box)
        finer = round(size * FINER) if step > 1 else size
        # The affine map from a pixel of the result to one of the part.
        matrix = np.column_stack([self.axes.T * (2 / finer), np.array(self.centre) - self.axes.sum(0) - (left, top)]) * scale[:, None]
        if pad and self.leaves(photo):
            part, offset = padded(part, matrix, finer)
            matrix[:, 2] += offset
        if not pad:
            cut = part.transform((finer, finer), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BICUBIC)
            return cut if finer == size else cut.resize((size, size), Image.Resampling.BILINEAR)
        cut = affine(part, (finer, finer), matrix, Image.Resampling.BICUBIC)
        return cut if finer == size else cut.resize((size, size), Image.Resampling.LANCZOS)


def ffhq_square(left_eye: np.ndarray, right_eye: np.ndarray, mouth: np.ndarray) -> Square:
    """The square that FFHQ cuts for a face: the points are centres [2], left and right as one sees the picture."""
    eyes = (left_eye + right_eye) / 2
    across, down = right_eye - left_eye, mouth - eyes
    axis = across + np.array((down[1], -down[0]))  # the eyes' line and the one across eyes to mouth, together
    axis *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / max(np.hypot(*axis), 1e-9)
    centre = eyes + 0.1 * down
    return Square((float(centre[0]), float(centre[1])), (float(axis[0]), float(axis[1])))
