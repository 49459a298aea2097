"""The generator cut at 16 x 16, where CLCAE and FS put a feature of their own: stages, and the chain of an edit that both have.

Letters of sizes: see `plain.tables`; D: channels of the generator at 16 x 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdic_runtime.program import Axes, Stage
from sdic_train.config import ModelConfig
from sdic_train.methods.base import StageFunction, Tensor
from sdic_train.methods.cuts import tail_rows
from sdic_train.methods.plain import TAIL, TENSORS, generator_functions, resumed

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_train.networks.reference import PlainGenerator
    from sdic_train.networks.stylegan2 import Generator

CUT = 16  # rows of the feature that is replaced
FEATURE: Axes = ("N", "D", CUT, CUT)
# `content` replaces the generator's own `feature_16`; an edit adds to it what that changed from `reference_16`, that of the inversion.
CUT_TENSORS: dict[str, Axes] = {
    **TENSORS,
    **dict.fromkeys(("content", "feature_16", "reference_16"), FEATURE),
    "rgb_16": ("N", 3, CUT, CUT),
}
CUT_STAGES = {
    "generator_base": Stage(("latent",), ("feature_16", "rgb_16")),
    "generator_middle": Stage(("content", "feature_16", "reference_16", "rgb_16", "latent"), ("feature", "rgb")),
    "generator_tail": TAIL,
}


def cut_sizes(config: ModelConfig) -> dict[str, int]:
    return {**config.sizes, "D": config.channels[CUT]}


def cut_resumed(config: ModelConfig) -> dict[str, Any]:
    """`rows` and `cuts` of the tables."""
    return {**resumed(config), "rows": {"generator_base": 6, "generator_middle": 8, **tail_rows(config)}}


def base(backend: Backend, latent: Tensor) -> dict[str, Tensor]:
    """The generator's own feature of `latent` [N, L, C] at 16 x 16, and its RGB sum there."""
    return backend.run("generator_base", {"latent": latent}, ["feature_16", "rgb_16"])


def render(backend: Backend, latent: Tensor, content: Tensor, made: dict[str, Tensor], reference: Tensor) -> dict[str, Tensor]:
    """The picture [N, 3, R, R] of `latent`, of which `base` made `made`, with `content` moved by what that differs from `reference`."""
    middle = {"content": content, **made, "reference_16": reference, "latent": latent}
    head = backend.run("generator_middle", middle, ["feature", "rgb"])
    return backend.run("generator_tail", {**head, "latent": latent}, ["picture"])


def edit(backend: Backend, latent: Tensor, content: Tensor, feature_16: Tensor) -> dict[str, Tensor]:
    """The picture of an edited code in W+, with the content of the inversion, whose own feature was `feature_16`."""
    made = base(backend, latent)
    return {"feature_16": made["feature_16"], **render(backend, latent, content, made, feature_16)}


def baseline(backend: Backend, latent: Tensor) -> dict[str, Tensor]:
    """The picture of `latent` by the plain generator."""
    made = base(backend, latent)
    return render(backend, latent, made["feature_16"], made, made["feature_16"])


def cut_functions(generator: Generator | PlainGenerator) -> dict[str, StageFunction]:
    """The three parts of the generator, and the parts of the last."""

    def middle(content: Tensor, feature_16: Tensor, reference_16: Tensor, rgb_16: Tensor, latent: Tensor) -> dict[str, Tensor]:
        moved = content + (feature_16 - reference_16)
        return dict(zip(("feature", "rgb"), generator.middle(moved, rgb_16, latent), strict=True))

    return {
        "generator_base": lambda latent: dict(zip(("feature_16", "rgb_16"), generator.base(latent), strict=True)),
        "generator_middle": middle,
        **{name: function for name, function in generator_functions(generator).items() if name != "generator_head"},
    }
