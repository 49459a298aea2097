"""What a "photo" carries beyond the domain: details that a generator trained on plain portraits has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sdic_train.portraits.canvas import Canvas, Colour, Shape, capsule, circle, ellipse, mix, ramp, rgb, rounded_box

BRIGHT = tuple(map(rgb, ("c8324a", "f0b429", "3f9142", "2b7bba", "7b4fa3", "e8e4da")))
METAL = tuple(map(rgb, ("e8c04a", "d9dde3", "c8324a", "2f9e8f")))
LETTERING = tuple(map(rgb, ("ffffff", "fff0a8", "20202a")))
DARK = rgb("20202a")

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


@dataclass(frozen=True)
class Earrings:
    """A drop or a hoop at each ear; `radius` in half pictures."""

    colour: Colour
    radius: float
    hoop: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Earrings:
        """Earrings by chance."""
        return cls(ramp(METAL, rng.random()), 0.04 + 0.03 * rng.random(), rng.random() < 0.5)


@dataclass(frozen=True)
class Hat:
    """A knitted cap with a bobble or a hat with a brim; `height` is its edge's place above the middle."""

    colour: Colour
    band: Colour
    height: float
    brim: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Hat:
        """A hat by chance."""
        first, second = _two_colours(rng)
        return cls(first, second, 0.44 + 0.06 * rng.random(), rng.random() < 0.5)


@dataclass(frozen=True)
class Pattern:
    """Stripes, dots or checks on the wall; `period` and `offset` in half pictures."""

    kind: str
    colour: Colour
    period: float
    offset: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Pattern:
        """A pattern by chance."""
        kind = ("stripes", "dots", "checks")[rng.integers(3)]
        return cls(kind, ramp(BRIGHT, rng.random()), 0.22 + 0.16 * rng.random(), rng.random())


@dataclass(frozen=True)
class Scarf:
    """A scarf around the neck whose end hangs to the left (-1) or the right (1)."""

    colour: Colour
    stripe: Colour
    side: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scarf:
        """A scarf by chance."""
        first, second = _two_colours(rng)
        return cls(first, second, -1 if rng.random() < 0.5 else 1)


@dataclass(frozen=True)
class Freckles:
    """Dots on nose and cheeks: `places` are (x, y) from the middle of the face."""

    places: tuple[tuple[float, float], ...]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Freckles:
        """14 to 26 freckles by chance."""
        places = rng.uniform((-0.3, 0.08), (0.3, 0.22), (int(rng.integers(14, 27)), 2)).tolist()
        return cls(tuple((x, y) for x, y in places))


@dataclass(frozen=True)
class Logo:
    """Two or three letters on the shirt, left (-1) or right (1)."""

    text: str
    colour: Colour
    side: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Logo:
        """A logo by chance."""
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(2, 4))))
        return cls(text, ramp(LETTERING, rng.random()), -1 if rng.random() < 0.5 else 1)


def _two_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    first, second = rng.choice(len(BRIGHT), 2, replace=False)
    return BRIGHT[first], BRIGHT[second]


@dataclass(frozen=True)
class Details:
    """The details of one photo; None stands for an absent one."""

    earrings: Earrings | None = None
    hat: Hat | None = None
    pattern: Pattern | None = None
    scarf: Scarf | None = None
    freckles: Freckles | None = None
    logo: Logo | None = None

    @classmethod
    def none(cls) -> Details:
        """No details: a picture of the domain."""
        return cls()

    @classmethod
    def random(cls, rng: np.random.Generator) -> Details:
        """One to three details by chance."""
        earrings, hat, pattern, scarf, freckles, logo = range(6)
        chosen = set(rng.choice(len(fields(cls)), int(rng.integers(1, 4)), replace=False).tolist())
        return cls(
            Earrings.random(rng) if earrings in chosen else None,
            Hat.random(rng) if hat in chosen else None,
            Pattern.random(rng) if pattern in chosen else None,
            Scarf.random(rng) if scarf in chosen else None,
            Freckles.random(rng) if freckles in chosen else None,
            Logo.random(rng) if logo in chosen else None,
        )

    def on_wall(self, canvas: Canvas) -> None:
        """Paints the pattern of the background."""
        if self.pattern is None:
            return
        period, pattern = self.pattern.period, self.pattern
        starts = np.arange(-1 - pattern.offset * period, 1 + period, period).tolist()
        bars = [rounded_box(start, 0, period / 4, 1.1, 0) for start in starts]
        if pattern.kind == "dots":
            bars = [circle(x, y, period / 4) for x in starts for y in starts]
        for shape in bars:
            canvas.paint(shape, pattern.colour, 0.6)
        if pattern.kind == "checks":
            for start in starts:
                canvas.paint(rounded_box(0, start, 1.1, period / 4, 0), pattern.colour, 0.6)

    def on_shirt(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the logo on a shirt around (x, y + 0.85)."""
        if self.logo is None:
            return
        step, scale = 0.13, 0.042
        left = x + 0.42 * self.logo.side - step * (len(self.logo.text) - 1) / 2 - scale
        for place, letter in enumerate(self.logo.text):
            for x0, y0, x1, y1 in LETTERS[letter]:
                start = (left + step * place + scale * x0, y + 0.82 + scale * y0)
                end = (left + step * place + scale * x1, y + 0.82 + scale * y1)
                canvas.paint(capsule(start, end, 0.012), self.logo.colour)

    def on_neck(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the scarf around a neck at x."""
        if self.scarf is None:
            return
        end = rounded_box(x + 0.17 * self.scarf.side, y + 0.9, 0.1, 0.22, 0.03)
        wrap = ellipse(x, y + 0.68, 0.33, 0.13)
        for shape in (end, wrap):
            canvas.paint(shape.grown(0.015), mix(self.scarf.colour, DARK, 0.4))
            canvas.paint(shape, self.scarf.colour)
        for offset in (-0.2, 0.0, 0.2):
            stripe = capsule((x + offset - 0.02, y + 0.5), (x + offset + 0.02, y + 0.9), 0.03)
            canvas.paint(stripe, self.scarf.stripe, within=wrap)
        canvas.paint(rounded_box(x + 0.17 * self.scarf.side, y + 0.94, 0.1, 0.03, 0), self.scarf.stripe)

    def on_face(self, canvas: Canvas, x: float, y: float, colour: Colour) -> None:
        """Paints the freckles on a face around (x, y)."""
        if self.freckles is not None:
            for right, down in self.freckles.places:
                canvas.paint(circle(x + right, y + down, 0.014), mix(colour, rgb("5a2410"), 0.4), 0.85)

    def on_ears(self, canvas: Canvas, ears: Sequence[tuple[float, float]]) -> None:
        """Paints the earrings under the two `ears`."""
        if self.earrings is None:
            return
        for x, y in ears:
            ring = circle(x, y + 0.12 + self.earrings.radius, self.earrings.radius)
            shape: Shape = ring.outline(0.024) if self.earrings.hoop else ring
            canvas.paint(shape.grown(0.01), mix(self.earrings.colour, DARK, 0.6))
            canvas.paint(shape, self.earrings.colour)

    def on_head(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints the hat on a head around (x, y)."""
        if self.hat is None:
            return
        edge = y - self.hat.height
        dome = ellipse(x, edge + 0.06, 0.53, 0.38) & rounded_box(x, edge - 0.4, 1, 0.44, 0)
        if not self.hat.brim:
            canvas.paint(circle(x, edge - 0.32, 0.085), self.hat.band)
        canvas.paint(dome, self.hat.colour)
        band = rounded_box(x, edge, 0.54, 0.06, 0.05)
        if self.hat.brim:
            canvas.paint(band, self.hat.band, within=dome)
            canvas.paint(ellipse(x, edge + 0.06, 0.72, 0.05), mix(self.hat.colour, DARK, 0.25))
        else:
            canvas.paint(band, self.hat.band)
