"""Style space (StyleSpace, Wu et al. 2021): what the generator's layers make of the rows of a code, and offsets to that.

A layer scales its input channels by its styles, s = A w + b of its row w of the code. An edit in style space adds to s itself, which no
change of w does for one layer alone: two layers read the same row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdic_train.config import ModelConfig


@dataclass(frozen=True)
class StyleRow:
    """One row of a `StyledCode`: row [N, C], offsets [N, M]."""

    row: Tensor
    offsets: Tensor

    def __getitem__(self, index: Any) -> Tensor:
        return self.row[index]


@dataclass(frozen=True)
class StyledCode:
    """A latent code [N, L, C] with offsets [N, M] to all styles made of it; a generator takes it in place of the code."""

    latent: Tensor
    offsets: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.latent.shape

    def __getitem__(self, index: Any) -> StyleRow:
        return StyleRow(self.latent[index], self.offsets)


def styles_of(modulation: Callable[[Tensor], Tensor], style: Tensor | StyleRow, place: slice) -> Tensor:
    """The styles [N, inputs] that `modulation` makes of a row of a code, with the offsets at `place` where the code carries some."""
    return modulation(style.row) + style.offsets[:, place] if isinstance(style, StyleRow) else modulation(style)


def layer_widths(config: ModelConfig) -> tuple[int, ...]:
    """How many styles each layer has, in the order of StyleSpace: convolution and RGB layer at 4 x 4, then upsampling convolution,
    convolution and RGB layer of every size."""
    channels, size = config.channels, 8
    widths = [channels[4], channels[4]]
    while size <= config.resolution:
        widths += [channels[size // 2], channels[size], channels[size]]
        size *= 2
    return tuple(widths)
