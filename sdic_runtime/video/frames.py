"""The pixels of a frame: planes of 8 bits, the way to RGB and back, and pasting that leaves what did not change exactly as it was."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import av
    from PIL.Image import Image

PLANES = {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1)}  # pixels per value of colour, across and down
MATRICES = (1, 4, 5, 6, 7, 9)  # the colour matrices that the converter knows, by their numbers in the standard
HD_MATRIX, SD_MATRIX = 1, 5  # BT.709 and BT.601: what players take where a stream says nothing
HD_HEIGHT = 720
FULL_RANGE = 2
DISPLAY_MATRIX = "DISPLAYMATRIX"


@dataclass(frozen=True)
class Turn:
    """How stored pixels become upright ones: transposed first, then mirrored."""

    transposed: bool = False
    mirrored: bool = False  # left and right
    flipped: bool = False  # top and bottom

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Turn:
        """From the display matrix, which maps stored (x, y) to shown (a x + c y, b x + d y); turns are by quarters."""
        side: Any = frame.side_data.get(DISPLAY_MATRIX)
        if side is None:
            return cls()
        a, b, _, c, d = struct.unpack("=5i", bytes(side)[:20])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def __bool__(self) -> bool:
        return self.transposed or self.mirrored or self.flipped

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        plane = plane.T if self.transposed else plane
        return plane[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


@dataclass(frozen=True)
class Colours:
    """What the numbers in the planes mean, by the standard's codes; `matrix` is also there where the stream does not say."""

    space: int
    range: int
    primaries: int
    transfer: int
    matrix: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colours:
        space = int(frame.colorspace)
        usual = HD_MATRIX if frame.height >= HD_HEIGHT else SD_MATRIX
        full = frame.format.name.startswith("yuvj") or int(frame.color_range) == FULL_RANGE
        tags = int(frame.color_primaries), int(frame.color_trc)
        if frame.format.is_rgb:  # its own tags say nothing about the planes that are made of it
            return cls(usual, 1, *tags, usual)
        return cls(space, FULL_RANGE if full else 1, *tags, space if space in MATRICES else usual)

    def planar(self, frame: av.VideoFrame, kind: str, size: tuple[int, int]) -> av.VideoFrame:
        """The frame as 8-bit planes of `kind`."""
        if frame.format.name == kind and (frame.width, frame.height) == size:
            return frame
        return frame.reformat(
            *size,
            format=kind,
            src_colorspace=self.matrix,
            dst_colorspace=self.matrix,
            src_color_range=FULL_RANGE if frame.format.is_rgb else self.range,
            dst_color_range=self.range,
        )

    def image(self, picture: av.VideoFrame) -> Image:
        """Planes as an RGB picture."""
        from PIL import Image

        rgb = picture.reformat(
            format="rgb24", src_colorspace=self.matrix, dst_colorspace=self.matrix, src_color_range=self.range, dst_color_range=FULL_RANGE
        )
        return Image.fromarray(rgb.to_ndarray())

    def changed(self, picture: av.VideoFrame, before: Image, after: Image) -> av.VideoFrame:
        """A copy of `picture` with the pixels in which its RGB pictures `before` and `after` differ taken from `after`; all others stay
        as they are, to the bit."""
        different = (np.asarray(before) != np.asarray(after)).any(-1)
        rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
        if not len(rows):
            return picture
        across, down = PLANES[picture.format.name]
        left, top = columns[0] // across * across, rows[0] // down * down
        right, bottom = (min(-(-(last + 1) // unit) * unit, end) for last, unit, end in (
            (columns[-1], across, picture.width), (rows[-1], down, picture.height)))  # fmt: skip
        part = np.ascontiguousarray(np.asarray(after)[top:bottom, left:right])
        made = self.planar(type(picture).from_ndarray(part, format="rgb24"), picture.format.name, part.shape[1::-1])
        planes = [plane.copy() for plane in planes_of(picture)]
        inside = different[top:bottom, left:right]
        for index, (plane, new) in enumerate(zip(planes, planes_of(made), strict=True)):
            where = inside if index == 0 else _any_of(inside, across, down)
            target = plane[top:bottom, left:right] if index == 0 else _colour_part(plane, top // down, left // across, new.shape)
            np.copyto(target, new, where=where)
        return frame_of(planes, picture.format.name, self)


def planes_of(picture: av.VideoFrame) -> list[np.ndarray]:
    """uint8 [H, W] views of the planes: brightness, and two of colour."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width] for plane in picture.planes
    ]


def frame_of(planes: Sequence[np.ndarray], kind: str, colours: Colours) -> av.VideoFrame:
    """A frame of its own with these planes."""
    from av import VideoFrame

    made = VideoFrame(planes[0].shape[1], planes[0].shape[0], kind)
    for target, plane in zip(planes_of(made), planes, strict=True):
        target[:] = plane
    made.colorspace, made.color_range = colours.space, colours.range
    return made


def _any_of(mask: np.ndarray, across: int, down: int) -> np.ndarray:
    """For each block of `down` x `across` pixels whether one of them is set; the last blocks may be smaller."""
    rows, columns = -mask.shape[0] % down, -mask.shape[1] % across
    padded = np.pad(mask, ((0, rows), (0, columns)))
    return np.asarray(padded.reshape(padded.shape[0] // down, down, -1, across).any((1, 3)))


def _colour_part(plane: np.ndarray, top: int, left: int, shape: tuple[int, ...]) -> np.ndarray:
    return plane[top : top + shape[0], left : left + shape[1]]
