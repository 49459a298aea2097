"""The generator behind layer 7 as a chain of stages, one for each size, so that an edit of the later style rows begins at its first row.

Layer k reads style row k, and the RGB layer of a size the row behind its second layer. A cut lies in front of an RGB layer: the first
stage is layer 8, and the stage of a size adds the RGB of the size below and computes its own two layers; the last gives the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sdic_runtime.program import Axes, Cut, Stage, Step
from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.methods.base import StageFunction, Tensor

if TYPE_CHECKING:
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator

HEAD_ROWS = {"generator_head": 8}  # style rows that stages in front of the tail read
TAIL = "generator_tail"
FIRST = f"generator_{FEATURE_SIZE}"


def sizes_of(config: ModelConfig) -> list[int]:
    """The sizes behind that of layer 7."""
    return [size for size in sorted(config.channels) if FEATURE_SIZE < size <= config.resolution]


def tail_tensors(config: ModelConfig) -> dict[str, Axes]:
    """What the stages hand on: `feature_s` behind the second layer of a size, `rgb_s` the RGB sum up to it."""
    if not sizes_of(config):
        return {}
    features: dict[str, Axes] = {feature(size): ("N", config.channels[size], size, size) for size in (FEATURE_SIZE, *sizes_of(config)[:-1])}
    return features | {colours(size // 2): ("N", 3, size // 2, size // 2) for size in sizes_of(config)[:-1]}


def tail_cuts(config: ModelConfig, entrance: tuple[str, ...]) -> dict[str, Cut]:
    """The cut of the tail, whose feature comes in as the tensors `entrance`, such as feature and residual; none where it has one size."""
    if not sizes_of(config):
        return {}
    stages = {FIRST: Stage((*entrance, "latent"), (feature(FEATURE_SIZE),))}
    sizes, rgb = sizes_of(config), "rgb"
    for size in sizes:
        gives = ("picture",) if size == sizes[-1] else (feature(size), colours(size // 2))
        stages[f"generator_{size}"] = Stage((feature(size // 2), rgb, "latent"), gives)
        rgb = colours(size // 2)
    steps = (Step(name, {item: item for item in stage.inputs}, {item: item for item in stage.outputs}) for name, stage in stages.items())
    return {TAIL: Cut(stages, tuple(steps))}


def tail_rows(config: ModelConfig) -> dict[str, int]:
    """Stage of the cut -> how many style rows it reads, counted from the first."""
    rows = {f"generator_{size}": 11 + 2 * index for index, size in enumerate(sizes_of(config)[:-1])}
    return {FIRST: 9, **rows} if sizes_of(config) else {}


def tail_functions(generator: Generator | PlainGenerator, enter: Callable[..., Tensor]) -> dict[str, StageFunction]:
    """The stages of the cut, where `enter` makes one feature of the tensors that come in; none where the generator has but one size there,
    or is written plainly, and has no such parts."""
    from sdic_train.networks.stylegan2 import Generator

    if not isinstance(generator, Generator) or not sizes_of(generator.config):
        return {}

    def first(latent: Tensor, **given: Tensor) -> dict[str, Tensor]:
        return {feature(FEATURE_SIZE): generator.entrance(enter(**given), latent)}

    def part(size: int, below: str, last: bool, latent: Tensor, **given: Tensor) -> dict[str, Tensor]:
        made, rgb = generator.part(size, given[feature(size // 2)], given[below], latent)
        return {"picture": generator.colour(size, made, rgb, latent)} if last else {feature(size): made, colours(size // 2): rgb}

    sizes = sizes_of(generator.config)
    belows = ("rgb", *(colours(size // 2) for size in sizes))
    parts = {f"generator_{size}": partial(part, size, below, size == sizes[-1]) for size, below in zip(sizes, belows, strict=False)}
    return {FIRST: first, **parts}


def feature(size: int) -> str:
    return f"feature_{size}"


def colours(size: int) -> str:
    return f"rgb_{size}"
