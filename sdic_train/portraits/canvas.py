"""Anti-aliased painting of signed-distance shapes with numpy alone.

Coordinates run from -0.92 to 0.92, x to the right and y downwards, so a drawing scales with the picture. Only
additions, multiplications, divisions and square roots touch the pixels: IEEE rounds those the same everywhere, which
is what makes a picture identical on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Colour = tuple[float, ...]
"""Red, green and blue, each 0..1."""

EXTENT = 0.92
"""Half the side of the visible square."""

Distance = Callable[[Array, Array], Any]


@dataclass(frozen=True)
class Shape:
    """A region: `distance(x, y)` is negative inside; `bounds` is (left, top, right, bottom) around it."""

    bounds: tuple[float, float, float, float]
    distance: Distance

    def __and__(self, other: Shape) -> Shape:
        """The part inside both shapes."""
        mine, its = self.bounds, other.bounds
        bounds = (max(mine[0], its[0]), max(mine[1], its[1]), min(mine[2], its[2]), min(mine[3], its[3]))
        return Shape(bounds, lambda x, y: np.maximum(self.distance(x, y), other.distance(x, y)))

    def __sub__(self, other: Shape) -> Shape:
        """The part outside `other`."""
        return Shape(self.bounds, lambda x, y: np.maximum(self.distance(x, y), -other.distance(x, y)))

    def grown(self, amount: float) -> Shape:
        """The shape with its outline moved outwards by `amount`."""
        left, top, right, bottom = self.bounds
        return Shape((left - amount, top - amount, right + amount, bottom + amount), lambda x, y: self.distance(x, y) - amount)

    def outline(self, thickness: float) -> Shape:
        """The shape's outline, drawn `thickness` wide."""
        return Shape(self.grown(thickness / 2).bounds, lambda x, y: np.abs(self.distance(x, y)) - thickness / 2)

    def moved(self, right: float, down: float) -> Shape:
        """The shape shifted by (`right`, `down`)."""
        x0, y0, x1, y1 = self.bounds
        return Shape((x0 + right, y0 + down, x1 + right, y1 + down), lambda x, y: self.distance(x - right, y - down))


def ellipse(x0: float, y0: float, radius_x: float, radius_y: float) -> Shape:
    """An ellipse around (x0, y0); its distance is exact to first order at the outline."""

    def distance(x: Array, y: Array) -> Any:
        u, v = (x - x0) / radius_x, (y - y0) / radius_y
        # The two small constants keep the quotient finite, and negative, at the very centre.
        reach = np.sqrt(u * u + v * v + 1e-8)
        u, v = u / radius_x, v / radius_y
        return reach * (reach - 1) / np.sqrt(u * u + v * v + 1e-12)

    return Shape((x0 - radius_x, y0 - radius_y, x0 + radius_x, y0 + radius_y), distance)


def circle(x0: float, y0: float, radius: float) -> Shape:
    """A circle around (x0, y0)."""
    return ellipse(x0, y0, radius, radius)


def rounded_box(x0: float, y0: float, half_width: float, half_height: float, rounding: float) -> Shape:
    """A box around (x0, y0) whose corners have the radius `rounding`."""
    rounding = min(rounding, half_width, half_height)

    def distance(x: Array, y: Array) -> Any:
        u = np.abs(x - x0) - (half_width - rounding)
        v = np.abs(y - y0) - (half_height - rounding)
        outside_u, outside_v = np.maximum(u, 0), np.maximum(v, 0)
        corner = np.sqrt(outside_u * outside_u + outside_v * outside_v)
        return corner + np.minimum(np.maximum(u, v), 0) - rounding

    return Shape((x0 - half_width, y0 - half_height, x0 + half_width, y0 + half_height), distance)


def capsule(start: tuple[float, float], end: tuple[float, float], radius: float) -> Shape:
    """A line from `start` to `end` with round ends."""
    (x0, y0), (x1, y1) = start, end
    along_x, along_y = x1 - x0, y1 - y0
    length_squared = max(along_x * along_x + along_y * along_y, 1e-12)

    def distance(x: Array, y: Array) -> Any:
        u, v = x - x0, y - y0
        position = np.clip((u * along_x + v * along_y) / length_squared, 0, 1)
        u, v = u - position * along_x, v - position * along_y
        return np.sqrt(u * u + v * v) - radius

    return Shape((min(x0, x1) - radius, min(y0, y1) - radius, max(x0, x1) + radius, max(y0, y1) + radius), distance)


def brush(x0: float, y0: float, half_width: float, thickness: float, bend: float = 0, tilt: float = 0, upright: bool = False) -> Shape:
    """A stroke pointed at both ends, `thickness` to each side of a parabola through (x0, y0).

    Its ends lie `bend` below the middle, the right one `tilt` further below and the left one as much above;
    `upright` exchanges the two axes.
    """

    def distance(x: Array, y: Array) -> Any:
        u, v = ((y - y0) / half_width, x - x0) if upright else ((x - x0) / half_width, y - y0)
        slope = (2 * bend * u + tilt) / half_width
        taper = thickness * (1 - u * u)
        side = (np.abs(v - (bend * u + tilt) * u) - taper) / np.sqrt(1 + slope * slope)
        return np.maximum(side, (np.abs(u) - 1) * half_width)

    reach = thickness + abs(bend) + abs(tilt)
    width, height = (reach, half_width) if upright else (half_width, reach)
    return Shape((x0 - width, y0 - height, x0 + width, y0 + height), distance)


def merged(first: Shape, second: Shape, blend: float) -> Shape:
    """Both shapes as one, their joint smoothed over the distance `blend`."""

    def distance(x: Array, y: Array) -> Any:
        a, b = first.distance(x, y), second.distance(x, y)
        overlap = np.maximum(blend - np.abs(a - b), 0)
        return np.minimum(a, b) - overlap * overlap * (0.25 / blend)

    mine, its = first.bounds, second.bounds
    bounds = (min(mine[0], its[0]), min(mine[1], its[1]), max(mine[2], its[2]), max(mine[3], its[3]))
    # The smoothed joint bulges by a quarter of the blend: grow the bounds by it, and take it back in the distance.
    return Shape(bounds, lambda x, y: distance(x, y) + blend / 4).grown(blend / 4)


class Canvas:
    """A square picture of `size` pixels to paint shapes on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixel = 2 * EXTENT / size
        axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel) - np.float32(EXTENT)
        self.x: Array = axis[None, :]
        self.y: Array = axis[:, None]
        # Planes, not pixels: numpy broadcasts a (height, width) coverage over them without strides of three.
        self.planes: Array = np.zeros((3, size, size), np.float32)

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Covers the whole picture, from `top` to `bottom`."""
        share = (self.y / np.float32(EXTENT) + np.float32(1)) / np.float32(2)
        first, last = (np.asarray(colour, np.float32)[:, None, None] for colour in (top, bottom))
        self.planes[:] = first + share * (last - first)

    def paint(self, shape: Shape, colour: Colour, opacity: float = 1, softness: float = 0, within: Shape | None = None) -> None:
        """Paints `shape`; its edge fades over one pixel and `softness`, and nothing is painted outside `within`."""
        if opacity <= 0:
            return
        # Lines thinner than a pixel must keep their weight, so the edge is never narrower than a pixel.
        edge = self.pixel + softness
        bounds = shape.grown(edge).bounds
        if within is not None:
            bounds = (Shape(bounds, shape.distance) & within.grown(self.pixel)).bounds
        columns, rows = self._pixels(bounds[0], bounds[2]), self._pixels(bounds[1], bounds[3])
        x, y = self.x[:, columns], self.y[rows]
        if not x.size or not y.size:
            return
        coverage = np.clip(0.5 - shape.distance(x, y) / edge, 0, 1)
        if softness:
            coverage = coverage * coverage * (3 - 2 * coverage)
        if within is not None:
            coverage = coverage * np.clip(0.5 - within.distance(x, y) / self.pixel, 0, 1)
        coverage = coverage * opacity
        for plane, level in zip(self.planes, colour, strict=True):
            area = plane[rows, columns]
            area += coverage * (level - area)

    def _pixels(self, low: float, high: float) -> slice:
        first, last = int((low + EXTENT) / self.pixel), int((high + EXTENT) / self.pixel) + 1
        return slice(max(first, 0), max(min(last, self.size), 0))

    def picture(self) -> NDArray[np.uint8]:
        """The picture: uint8 (size, size, 3), RGB."""
        levels = np.clip(self.planes, 0, 1) * np.float32(255) + np.float32(0.5)
        return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` at `share` 0, `second` at 1."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def ramp(colours: Sequence[Colour], position: float) -> Colour:
    """The colour at `position` 0..1 along evenly spaced `colours`."""
    place = min(max(position, 0.0), 1.0) * (len(colours) - 1)
    index = min(int(place), len(colours) - 2)
    return mix(colours[index], colours[index + 1], place - index)


def rgb(code: str) -> Colour:
    """The colour of a hexadecimal code such as "f1c296"."""
    return tuple(int(code[start : start + 2], 16) / 255 for start in (0, 2, 4))
