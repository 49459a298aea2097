"""Sizes of the networks: the released models are two presets, the demo domain is another."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

import msgspec

from sdic_runtime.errors import ArgumentError, CheckpointError, SdicError
from sdic_runtime.parsing.json_text import convert
from sdic_runtime.program import LARGEST_SIZE

FEATURE_SIZE = 64  # height and width of the layer-7 feature
MOST_HALVINGS = 2  # of the networks that read a picture and give a feature: see `ModelConfig.halvings`
RELEASED_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
GROUPS = 4  # of an encoder's body
PARTS = {"scales": 4, "up": 3, "volume": 4, "stem": 2}  # of the discrepancy networks
FUSIONS = ("attention", "affine")
ENCODER_FORMS = ("e4e", "psp")
ENCODER_BODIES = ("ir_se", "resnet")


@dataclass(frozen=True)
class EncoderConfig:
    """An IR-SE body and one style block per row of the latent code: e4e, pSp, and those of ReStyle."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of the four groups of the body
    units: tuple[int, ...] = (3, 4, 14, 3)  # bottleneck units per group
    style_block: int | None = None  # channels inside a style block; None means the style width
    crop: tuple[int, int] | None = None  # rows of the S x S image that the encoder reads; None reads all
    form: str = "e4e"  # "e4e" adds row 0 to every other row, "psp" keeps all apart
    inputs: int = 3  # channels of the image; ReStyle reads a reconstruction beside it
    pyramid: bool = True  # whether style blocks read three levels; ReStyle's read the last map of the body alone
    body: str = "ir_se"  # or "resnet", which ReStyle has outside faces

    def __post_init__(self) -> None:
        if self.form not in ENCODER_FORMS:
            raise ArgumentError(f'the encoder\'s form "{self.form}" is unknown; use {" or ".join(ENCODER_FORMS)}')
        if self.body not in ENCODER_BODIES:
            raise ArgumentError(f'the encoder\'s body "{self.body}" is unknown; use {" or ".join(ENCODER_BODIES)}')

    @property
    def plain(self) -> bool:
        """Whether it is e4e's, which SDIC and HFGI build on."""
        return self.form == "e4e" and self.inputs == 3


@dataclass(frozen=True)
class DiscrepancyConfig:
    """DIPN and DICN (Section 3 of the paper). The volume's depth is twice `descriptor`."""

    scales: tuple[int, int, int, int] = (16, 32, 96, 160)  # channels at 1, 1/2, 1/4, 1/8 of the working size
    middle: int = 24  # channels of the second layer, which takes the picture to half size
    up: tuple[int, int, int] = (96, 32, 16)  # channels that the three deconvolutions add, coarse to fine
    descriptor: int = 24  # channels of one descriptor
    volume: tuple[int, int, int, int] = (8, 16, 32, 48)  # 3D channels of the stem and of the three hourglass scales
    stem: tuple[int, int] = (32, 64)  # first channels of DICN
    shift_rows: int = 18  # channels of DICN's `condition_shift3`; the released car model keeps 18 with 16 rows
    fusion: str = "attention"  # how DICN makes the residual of the layer-7 feature; "affine" is the paper's ablation

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ArgumentError(f'the fusion "{self.fusion}" is unknown; use {" or ".join(FUSIONS)}')


@dataclass(frozen=True)
class ModelConfig:
    """Every size of one model."""

    resolution: int = 1024  # R
    working: int = 256  # S
    style_width: int = 512  # C
    channels: dict[int, int] = field(default_factory=lambda: dict(RELEASED_CHANNELS))  # by layer size, 4 to R
    mapping_layers: int = 8
    encoder: EncoderConfig = EncoderConfig()
    discrepancy: DiscrepancyConfig = DiscrepancyConfig()
    domain: str = "faces"

    def __post_init__(self) -> None:
        for name, value, low in (("resolution", self.resolution, FEATURE_SIZE), ("working", self.working, FEATURE_SIZE)):
            if value < low or value & (value - 1):
                raise ArgumentError(f"the {name} size is {value}; use a power of two of at least {low}")
        if self.resolution < self.working:
            raise ArgumentError(f"the working size {self.working} is larger than the generator's {self.resolution}; use a smaller one")

    @property
    def rows(self) -> int:
        """L: style rows of a latent code."""
        return 2 * int(log2(self.resolution)) - 2

    @property
    def sizes(self) -> dict[str, int]:
        """By the letters of the tables of `sdic_train.methods`."""
        return {"R": self.resolution, "S": self.working, "L": self.rows, "C": self.style_width, "K": self.channels[FEATURE_SIZE]}

    @property
    def condition(self) -> int:
        """Channels of what DICN reads a code's changes off. Raises ArgumentError where the sizes do not fit."""
        rows = self.discrepancy.shift_rows
        if not rows or not self.style_width or rows * FEATURE_SIZE**2 % self.style_width:
            raise ArgumentError(
                f"the style_width {self.style_width} does not divide shift_rows * {FEATURE_SIZE**2} ({rows} * {FEATURE_SIZE**2}); "
                "use sizes where it does"
            )
        return rows * FEATURE_SIZE**2 // self.style_width

    @property
    def halvings(self) -> int:
        """How often the picture of the working size is halved down to the size of the layer-7 feature: twice in all released models."""
        return int(log2(self.working // FEATURE_SIZE))

    @property
    def visible_rows(self) -> tuple[int, int]:
        """Rows of the generator's picture that a user sees: all of them, or those between the bars of a letterboxed domain."""
        if self.encoder.crop is None:
            return 0, self.resolution
        top, end = self.encoder.crop
        return top * self.resolution // self.working, end * self.resolution // self.working

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps: those of every model, and none that a method adds, which the shapes of its weights say."""
        values = {name: value for name, value in asdict(self).items() if name in ModelConfig.__dataclass_fields__}
        return {**values, "channels": {str(size): width for size, width in self.channels.items()}}

    def _check_parts(self) -> None:
        """Raise CheckpointError where sizes are missing, or given for another number of parts."""
        missing = [str(4 << layer) for layer in range(int(log2(self.resolution)) - 1) if 4 << layer not in self.channels]
        groups = (len(self.encoder.widths), len(self.encoder.units))
        lengths = {item.name: len(getattr(self.discrepancy, item.name)) for item in fields(self.discrepancy) if item.name in PARTS}
        faults = {
            f"no channels at {', '.join(missing)}": bool(missing),
            "channels or a style width of 0": 0 in self.channels.values() or self.style_width == 0,
            f"an encoder of {groups[0]} widths and {groups[1]} units in place of {GROUPS}": groups != (GROUPS, GROUPS),
            f"discrepancy networks of {lengths} parts in place of {PARTS}": lengths != PARTS,
        }
        if any(faults.values()):
            found = " and ".join(text for text, there in faults.items() if there)
            raise CheckpointError(f"the model configuration has {found}; change that, or save the checkpoint again with this version")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `as_dict`, also after a trip through JSON."""
        values = dict(values)
        try:
            encoder = EncoderConfig(**_with_tuples(values.pop("encoder")))
            discrepancy = DiscrepancyConfig(**_with_tuples(values.pop("discrepancy")))
            channels = {int(size): width for size, width in values.pop("channels").items()}
            config = cls(encoder=encoder, discrepancy=discrepancy, channels=channels, **values)
            _check_numbers(convert(msgspec.to_builtins(config, str_keys=True), cls, str_keys=True))
            config._check_parts()
            return config
        except SdicError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"the model configuration does not fit this version ({error}); save the checkpoint again with it"
            ) from error


def _check_numbers(value: Any) -> None:
    """Raise CheckpointError for a size, somewhere in a configuration, that no network has."""
    if isinstance(value, int) and not 0 <= value <= LARGEST_SIZE:
        raise CheckpointError(f"the model configuration has a size of {value}, and sizes are 0 to {LARGEST_SIZE}")
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        _check_numbers(part)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


FACES = ModelConfig()
CARS = ModelConfig(
    resolution=512,
    channels={size: RELEASED_CHANNELS[size] for size in RELEASED_CHANNELS if size <= 512},
    encoder=EncoderConfig(crop=(32, 224)),
    domain="cars",
)
DEMO = ModelConfig(
    resolution=128,
    working=128,
    style_width=128,
    channels={4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32},
    mapping_layers=4,
    encoder=EncoderConfig(widths=(16, 32, 64, 96), units=(1, 2, 2, 1), style_block=64),
    discrepancy=DiscrepancyConfig(
        scales=(8, 16, 32, 48), up=(32, 16, 8), middle=16, descriptor=8, volume=(2, 4, 8, 12), stem=(16, 32), shift_rows=12
    ),
    domain="portraits",
)
TINY = replace(
    DEMO,
    working=64,
    style_width=16,
    channels={4: 16, 8: 16, 16: 16, 32: 16, 64: 8, 128: 8},
    mapping_layers=2,
    encoder=EncoderConfig(widths=(4, 8, 8, 16), units=(1, 1, 1, 1)),
    discrepancy=replace(DEMO.discrepancy, scales=(4, 8, 8, 16), up=(8, 8, 4), middle=4, volume=(2, 4, 4, 8), stem=(4, 8)),
)
PRESETS = {"faces": FACES, "cars": CARS, "demo": DEMO, "tiny": TINY}


def check_domain(path: Path, told: str | None, wanted: str | None) -> None:
    """Raise CheckpointError where a file says another domain, `told`, than the `wanted` one; either may be None."""
    if wanted is not None and told not in (None, wanted):
        raise CheckpointError(f'"{path}" says that it was trained for the domain "{told}" and not for "{wanted}"; omit --domain')
