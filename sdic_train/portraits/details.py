"""What a "photo" carries beyond the domain: details that a generator trained on plain portraits has never seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sdic_train.portraits.canvas import Canvas, Colour, capsule, circle, ellipse, mix, ramp, rgb, rounded_box

BRIGHT = tuple(map(rgb, ("c8324a", "f0b429", "3f9142", "2b7bba", "7b4fa3", "e8e4da")))
METAL = tuple(map(rgb, ("e8c04a", "d9dde3", "c8324a", "2f9e8f")))
LETTERING = tuple(map(rgb, ("ffffff", "fff0a8", "20202a")))
DARK = rgb("20202a")
KINDS = ("stripes", "dots", "checks")

Places = tuple[tuple[float, float], ...]  # pairs of x and y

# Strokes of a letter on a grid two wide and two high: pairs of end points.
LETTERS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "A": ((0, 2, 1, 0), (1, 0, 2, 2), (0, 1, 2, 1)),
    "E": ((0, 0, 0, 2), (0, 0, 2, 0), (0, 1, 2, 1), (0, 2, 2, 2)),
    "H": ((0, 0, 0, 2), (2, 0, 2, 2), (0, 1, 2, 1)),
    "K": ((0, 0, 0, 2), (2, 0, 0, 1), (0, 1, 2, 2)),
    "N": ((0, 2, 0, 0), (0, 0, 2, 2), (2, 2, 2, 0)),
    "T": ((0, 0, 2, 0), (1, 0, 1, 2)),
    "X": ((0, 0, 2, 2), (2, 0, 0, 2)),
}


class Earrings(NamedTuple):
    """A drop or a hoop at each ear; `radius` in half pictures."""

    colour: Colour
    radius: float
    hoop: bool


class Hat(NamedTuple):
    """A knitted cap with a bobble or a hat with a brim; `height` is its edge's place above the middle."""

    colour: Colour
    band: Colour
    height: float
    brim: bool


class Pattern(NamedTuple):
    """Stripes, dots or checks on the wall; `period` and `offset` in half pictures."""

    kind: str
    colour: Colour
    period: float
    offset: float


class Scarf(NamedTuple):
    """A scarf around the neck whose end hangs to the left (-1) or the right (1)."""

    colour: Colour
    stripe: Colour
    side: int


class Logo(NamedTuple):
    """Two or three letters on the shirt, left (-1) or right (1)."""

    text: str
    colour: Colour
    side: int


def _side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _two_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    first, second = rng.choice(len(BRIGHT), 2, replace=False)
    return BRIGHT[first], BRIGHT[second]


def _freckles(rng: np.random.Generator) -> Places:
    return tuple((x, y) for x, y in rng.uniform((-0.3, 0.08), (0.3, 0.22), (int(rng.integers(14, 27)), 2)).tolist())


# Every detail by chance, under the names and in the order of the fields of `Details`.
BY_CHANCE: dict[str, Callable[[np.random.Generator], Any]] = {
    "earrings": lambda rng: Earrings(ramp(METAL, rng.random()), 0.04 + 0.03 * rng.random(), rng.random() < 0.5),
    "hat": lambda rng: Hat(*_two_colours(rng), 0.44 + 0.06 * rng.random(), rng.random() < 0.5),
    "pattern": lambda rng: Pattern(KINDS[rng.integers(3)], ramp(BRIGHT, rng.random()), 0.22 + 0.16 * rng.random(), rng.random()),
    "scarf": lambda rng: Scarf(*_two_colours(rng), _side(rng)),
    "freckles": _freckles,
    "logo": lambda rng: Logo("".join(rng.choice(list(LETTERS), int(rng.integers(2, 4)))), ramp(LETTERING, rng.random()), _side(rng)),
}


@dataclass(frozen=True)
class Details:
    """The details of one photo; None stands for an absent one, and without any it is a picture of the domain."""

    earrings: Earrings | None = None
    hat: Hat | None = None
    pattern: Pattern | None = None
    scarf: Scarf | None = None
    freckles: Places | None = None  # dots on nose and cheeks, from the middle of the face
    logo: Logo | None = None

    @classmethod
    def random(cls, rng: np.random.Generator) -> Details:
        """One to three details by chance."""
        chosen = set(rng.choice(len(BY_CHANCE), int(rng.integers(1, 4)), replace=False).tolist())
        return cls(**{name: make(rng) for place, (name, make) in enumerate(BY_CHANCE.items()) if place in chosen})

    def on_wall(self, canvas: Canvas) -> None:
        """Paints the pattern of the background."""
        if self.pattern is None:
            return
        kind, colour, period, offset = self.pattern
        starts = np.arange(-1 - offset * period, 1 + period, period).tolist()
        shapes = [rounded_box(start, 0, period / 4, 1.1, 0) for start in starts]
        if kind == "dots":
            shapes = [circle(x, y, period / 4) for x in starts for y in starts]
        if kind == "checks":
            shapes += [rounded_box(0, start, 1.1, period / 4, 0) for start in starts]
        for shape in shapes:
            canvas.paint(shape, colour, 0.6)

    def on_shirt(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the logo on a shirt around (x, y + 0.85)."""
        if self.logo is None:
            return
        (text, colour, side), step, scale = self.logo, 0.13, 0.042
        left, top = x + 0.42 * side - step * (len(text) - 1) / 2 - scale, y + 0.82
        for place, letter in enumerate(text):
            x0 = left + step * place
            for u0, v0, u1, v1 in LETTERS[letter]:
                canvas.paint(capsule((x0 + scale * u0, top + scale * v0), (x0 + scale * u1, top + scale * v1), 0.012), colour)

    def on_neck(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the scarf around a neck at x."""
        if self.scarf is None:
            return
        colour, stripe, side = self.scarf
        end, wrap = rounded_box(x + 0.17 * side, y + 0.9, 0.1, 0.22, 0.03), ellipse(x, y + 0.68, 0.33, 0.13)
        for shape in (end, wrap):
            canvas.paint(shape.grown(0.015), mix(colour, DARK, 0.4))
            canvas.paint(shape, colour)
        for offset in (-0.2, 0.0, 0.2):
            canvas.paint(capsule((x + offset - 0.02, y + 0.5), (x + offset + 0.02, y + 0.9), 0.03), stripe, within=wrap)
        canvas.paint(rounded_box(x + 0.17 * side, y + 0.94, 0.1, 0.03, 0), stripe)

    def on_face(self, canvas: Canvas, x: float, y: float, colour: Colour) -> None:
        """Paints the freckles on a face around (x, y)."""
        for right, down in self.freckles or ():
            canvas.paint(circle(x + right, y + down, 0.014), mix(colour, rgb("5a2410"), 0.4), 0.85)

    def on_ears(self, canvas: Canvas, ears: Places) -> None:
        """Paints the earrings under the two `ears`."""
        if self.earrings is None:
            return
        colour, radius, hoop = self.earrings
        for x, y in ears:
            ring = circle(x, y + 0.12 + radius, radius)
            shape = ring.outline(0.024) if hoop else ring
            canvas.paint(shape.grown(0.01), mix(colour, DARK, 0.6))
            canvas.paint(shape, colour)

    def on_head(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the hat on a head around (x, y)."""
        if self.hat is None:
            return
        colour, band_colour, height, brim = self.hat
        edge = y - height
        dome = ellipse(x, edge + 0.06, 0.53, 0.38) & rounded_box(x, edge - 0.4, 1, 0.44, 0)
        if not brim:
            canvas.paint(circle(x, edge - 0.32, 0.085), band_colour)
        canvas.paint(dome, colour)
        canvas.paint(rounded_box(x, edge, 0.54, 0.06, 0.05), band_colour, within=dome if brim else None)
        if brim:
            canvas.paint(ellipse(x, edge + 0.06, 0.72, 0.05), mix(colour, DARK, 0.25))
