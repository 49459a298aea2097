"""Drawn portraits: the procedural domain that the small demo generator is trained on.

A `Portrait` is a point in a table of named `PARAMETERS`; `render` draws it. The parameters are drawn independently
of each other, so that each has a linear direction of its own in a generator's latent space. `Details` are what a
"photo" carries on top and a generator trained without them never sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdic_runtime.errors import ArgumentError
from sdic_train.portraits.canvas import Canvas
from sdic_train.portraits.details import Details
from sdic_train.portraits.drawing import Scene

__all__ = ["ATTRIBUTES", "PARAMETERS", "Details", "Parameter", "Portrait", "label", "labels", "render", "sample"]

SMALLEST, LARGEST = 32, 1024


@dataclass(frozen=True)
class Parameter:
    """One row of the table: a value from `low` to `high`, and how chance spreads it.

    `kind` is "uniform", "bell" (the middle is likelier), "sides" (half near each end, none in the middle),
    "switch" (one end or the other) or "rare" (mostly low, one in six near high). `threshold` makes the parameter an
    attribute: 1 above it, 0 below. `sided` parameters change sign in a mirrored picture.
    """

    name: str
    low: float
    high: float
    kind: str
    meaning: str
    threshold: float | None = None
    sided: bool = False

    @property
    def span(self) -> float:
        """The distance between the means of its two sides."""
        return BETWEEN_SIDES[self.kind] * (self.high - self.low)

    def value(self, chance: float) -> float:
        """The value for a uniform `chance` in 0..1; it grows with `chance`."""
        return self.low + (self.high - self.low) * SHARES[self.kind](chance)


SHARES: dict[str, Callable[[float], float]] = {
    "uniform": lambda chance: chance,
    "bell": lambda chance: 0.5 + 0.25 * (2 * chance - 1) * (1 + (2 * chance - 1) * (2 * chance - 1)),
    "sides": lambda chance: 0.6 * chance if chance < 0.5 else 1 - 0.6 * (1 - chance),
    "switch": lambda chance: float(chance >= 0.5),
    "rare": lambda chance: 0.0 if chance < 5 / 6 else 0.8 + 1.2 * (chance - 5 / 6),
}

# Kind of a parameter -> the distance between the means of its two sides, as a share of its range.
BETWEEN_SIDES = {"uniform": 0.5, "bell": 0.375, "sides": 0.7, "switch": 1.0, "rare": 0.9}

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("smile", -1, 1, "sides", "corners of the mouth down or up", threshold=0),
    Parameter("age", 0, 1, "uniform", "from about .5 up: grey hair and wrinkles", threshold=0.5),
    Parameter("glasses", 0, 1, "switch", "how present the glasses are", threshold=0.5),
    Parameter("mouth_open", 0, 1, "sides", "closed lips or visible teeth", threshold=0.5),
    Parameter("hair_length", 0, 1, "uniform", "from above the ears to the shoulders", threshold=0.5),
    Parameter("baldness", 0, 1, "rare", "how far the hair has left the crown", threshold=0.5),
    Parameter("fringe", 0, 1, "uniform", "how far the hair hangs into the forehead", threshold=0.5),
    Parameter("skin_tone", 0, 1, "uniform", "light to dark skin", threshold=0.5),
    Parameter("hair_colour", 0, 1, "uniform", "black, brown, auburn, blond", threshold=0.5),
    Parameter("yaw", -1, 1, "uniform", "head turned to the picture's left or right", threshold=0, sided=True),
    Parameter("light", -1, 1, "uniform", "light from the picture's left or right", threshold=0, sided=True),
    Parameter("parting", -1, 1, "uniform", "side to which the hair falls", sided=True),
    Parameter("face_width", -1, 1, "bell", "narrow or wide head"),
    Parameter("jaw", 0, 1, "uniform", "pointed or broad chin"),
    Parameter("eye_size", -1, 1, "bell", "small or large eyes"),
    Parameter("eye_opening", 0, 1, "bell", "lids lowered or raised"),
    Parameter("eye_colour", 0, 1, "uniform", "brown, green, blue"),
    Parameter("brow_height", -1, 1, "bell", "eyebrows low or raised"),
    Parameter("brow_tilt", -1, 1, "bell", "eyebrows stern or worried"),
    Parameter("nose_size", -1, 1, "bell", "small or large nose"),
    Parameter("frame_shape", 0, 1, "uniform", "round or angular glasses"),
    Parameter("frame_colour", 0, 1, "uniform", "black, brown or red glasses"),
    Parameter("shirt_colour", 0, 1, "uniform", "navy, teal, olive, mustard, rust"),
    Parameter("background_colour", 0, 1, "uniform", "blue, teal, sand, rose"),
    Parameter("background_gradient", 0, 1, "uniform", "plain, or darker towards the bottom"),
    Parameter("shift_right", -1, 1, "bell", "small displacement of the person", sided=True),
    Parameter("shift_down", -1, 1, "bell", "small displacement of the person"),
)

_INDEX = {parameter.name: index for index, parameter in enumerate(PARAMETERS)}

ATTRIBUTES: tuple[str, ...] = tuple(entry.name for entry in PARAMETERS if entry.threshold is not None)


def _position(name: str) -> int:
    if name not in _INDEX:
        raise ArgumentError(f'unknown portrait parameter "{name}": use one of {", ".join(_INDEX)}')
    return _INDEX[name]


@dataclass(frozen=True)
class Portrait:
    """A person: `values` holds one number per row of `PARAMETERS`, in that order."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(PARAMETERS):
            raise ArgumentError(f"a portrait has {len(PARAMETERS)} values, not {len(self.values)}: give one per parameter")
        # numpy's float64 scalars would turn the whole drawing into float64.
        object.__setattr__(self, "values", tuple(map(float, self.values)))
        for parameter, value in zip(PARAMETERS, self.values, strict=True):
            if not parameter.low <= value <= parameter.high:
                raise ArgumentError(f"{parameter.name} is {value}: give a number from {parameter.low} to {parameter.high}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> Portrait:
        """A person by chance; takes len(PARAMETERS) numbers from `rng`."""
        chances = rng.random(len(PARAMETERS)).tolist()
        return cls(tuple(entry.value(chance) for entry, chance in zip(PARAMETERS, chances, strict=True)))

    @classmethod
    def middle(cls) -> Portrait:
        """The person with every parameter half-way between its ends, but with hair and without glasses."""
        person = cls(tuple((entry.low + entry.high) / 2 for entry in PARAMETERS))
        return person.replace(glasses=0, baldness=0, age=0.25)

    def __getitem__(self, name: str) -> float:
        return self.values[_position(name)]

    def replace(self, **changes: float) -> Portrait:
        """The same person with some parameters changed, for example `replace(smile=1.0)`."""
        places = {_position(name): value for name, value in changes.items()}
        return Portrait(tuple(places.get(place, value) for place, value in enumerate(self.values)))

    def mirrored(self) -> Portrait:
        """The person seen in a mirror: renders to the flipped picture."""
        return Portrait(tuple(-value if entry.sided else value for entry, value in zip(PARAMETERS, self.values, strict=True)))

    def array(self) -> NDArray[np.float32]:
        """The values as float32 (len(PARAMETERS),)."""
        return np.asarray(self.values, np.float32)


def labels(portrait: Portrait) -> dict[str, float]:
    """All parameter values by name."""
    return {entry.name: value for entry, value in zip(PARAMETERS, portrait.values, strict=True)}


def label(portrait: Portrait, attribute: str) -> int:
    """1 if the portrait has the attribute (one of `ATTRIBUTES`), else 0."""
    threshold = PARAMETERS[_position(attribute)].threshold
    if threshold is None:
        raise ArgumentError(f'"{attribute}" is no attribute with two sides: use one of {", ".join(ATTRIBUTES)}')
    return int(portrait[attribute] > threshold)


def render(portrait: Portrait, size: int = 128, details: Details | None = None) -> NDArray[np.uint8]:
    """Draws the portrait: uint8 (size, size, 3), RGB, `size` from 32 to 1024 pixels."""
    if not SMALLEST <= size <= LARGEST:
        raise ArgumentError(f"picture size {size} is out of range: use {SMALLEST} to {LARGEST} pixels")
    canvas = Canvas(size)
    Scene(canvas, labels(portrait), details or Details()).draw()
    return canvas.picture()


def sample(seed: int, index: int, size: int, photo: bool = False, mirror: bool = False) -> tuple[NDArray[np.uint8], Portrait]:
    """Picture `index` of the endless data set `seed`: uint8 (size, size, 3), and the person in it.

    The same arguments give the same picture on every machine, and the same person with or without `photo`, which
    adds `Details`. `mirror` flips both the picture and the person.
    """
    if seed < 0 or index < 0:
        raise ArgumentError(f"seed {seed} and index {index} must not be negative: count both from 0")
    rng = np.random.default_rng([seed, index])
    portrait = Portrait.random(rng)
    picture = render(portrait, size, Details.random(rng) if photo else None)
    if mirror:
        return np.ascontiguousarray(picture[:, ::-1]), portrait.mirrored()
    return picture, portrait


def changed_sample(
    seed: int, index: int, size: int, attribute: str, further: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
    """Photo `index` of the endless data set `seed`, the same photo with the person on the other side of one of `ATTRIBUTES`, and how far
    that is: a share of the distance between the sides, negative where the attribute is taken away. `further`: in place of the other side
    as far on the own side as there is, which is to be a whole distance."""
    rng = np.random.default_rng([seed, index])
    portrait, details = Portrait.random(rng), Details.random(rng)
    entry = PARAMETERS[_position(attribute)]
    way = 1 if bool(label(portrait, attribute)) == further else -1
    value = min(max(portrait[attribute] + way * entry.span, entry.low), entry.high)
    after = render(portrait.replace(**{attribute: value}), size, details)
    return render(portrait, size, details), after, way if further else (value - portrait[attribute]) / entry.span
