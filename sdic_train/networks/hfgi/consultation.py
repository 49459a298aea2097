"""What HFGI adds to e4e: ADA, which aligns the distortion map with an edited picture, and the consultation encoder that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import BottleneckIR, EqualConv2d, ScaledLeakyReLU

UNITS = 3  # of every group


@dataclass(frozen=True)
class HFGISizes:
    """Channels, fine to coarse in `aligner` and `consultation`, coarse to fine in `ascent`."""

    aligner: tuple[int, ...] = (16, 32, 48, 64)
    ascent: tuple[int, ...] = (64, 32, 16)  # what the first unit of each group on the way up gives
    consultation: tuple[int, ...] = (32, 48, 64)


RELEASED = HFGISizes()


class Aligner(nn.Module):
    """ADA: distortion map and picture [N, 3, S, S] -> the distortion map [N, 3, S, S] as it lies in that picture; not bounded."""

    def __init__(self, sizes: HFGISizes) -> None:
        super().__init__()
        widths, ascent = sizes.aligner, (*sizes.ascent, 3)
        self.conv_layer1 = _stem(6, widths[0])
        for index, (inputs, outputs) in enumerate(pairwise(widths), 2):
            self.add_module(f"conv_layer{index}", _descent(inputs, outputs))
        below = widths[-1]
        for index, (skip, (first, then)) in enumerate(zip(reversed(widths[:-1]), pairwise(ascent), strict=True), 1):
            units = (BottleneckIR(below + skip, first), *(BottleneckIR(first if unit == 1 else then, then) for unit in range(1, UNITS)))
            self.add_module(f"dconv_layer{index}", nn.Sequential(*units))
            below = then
        self.levels = len(widths)

    def forward(self, distortion: Tensor, picture: Tensor) -> Tensor:
        x = torch.cat((distortion, picture), 1)
        skips = []
        for index in range(1, self.levels + 1):
            x = self.get_submodule(f"conv_layer{index}")(x)
            skips.append(x)
        x = skips.pop()
        for index in range(1, self.levels):
            up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.get_submodule(f"dconv_layer{index}")(torch.cat((up, skips.pop()), 1))
        return x


class Consultation(nn.Module):
    """Aligned distortion map [N, 3, S, S] -> scale and shift [N, K, 64, 64] of the layer-7 feature. `halvings`: of S down to that."""

    def __init__(self, sizes: HFGISizes, channels: int, halvings: int) -> None:
        super().__init__()
        widths = sizes.consultation
        self.conv_layer1 = _stem(3, widths[0])
        for index, (inputs, outputs) in enumerate(pairwise(widths), 2):
            self.add_module(f"conv_layer{index}", _descent(inputs, outputs, 2 if index - 2 < halvings else 1))
        self.condition_scale3, self.condition_shift3 = (self._condition(widths[2], channels) for _ in range(2))

    @staticmethod
    def _condition(inputs: int, channels: int) -> nn.Sequential:
        first, second = EqualConv2d(inputs, channels, 3, padding=1), EqualConv2d(channels, channels, 3, padding=1)
        return nn.Sequential(first, ScaledLeakyReLU(), second)

    def forward(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv_layer1(aligned)
        for index in (2, 3):
            x = self.get_submodule(f"conv_layer{index}")(x)
        return self.condition_scale3(x), self.condition_shift3(x)


def _stem(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs))


def _descent(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(BottleneckIR(inputs, outputs, stride), *(BottleneckIR(outputs, outputs) for _ in range(1, UNITS)))
