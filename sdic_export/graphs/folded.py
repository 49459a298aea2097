"""StyleGAN2 layers with everything constant folded, in forms that need no custom op.

Each equals its counterpart in `sdic_train.networks.stylegan2` up to rounding. The gain sqrt(2) of the activation moves in front of it
(leaky ReLU is positively homogeneous), noise and bias become one constant each, and weights and styles are divided by their largest
magnitude, which the demodulation cancels: that keeps half precision in range and changes nothing in single precision.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import BLUR_TAPS, LEAKY_SLOPE, EqualLinear
from sdic_train.networks.style_space import StyleRow, styles_of
from sdic_train.networks.stylegan2 import DEMODULATION_EPSILON, ModulatedConv2d, StyledConv, ToRGB

GAIN = sqrt(2)
LEAST = 1e-9  # of what is divided by, which cancels too: weights or styles that are all zero; its squares are float32


def constant(module: nn.Module, name: str, value: Tensor) -> None:
    """Registers `value` as a buffer, detached and contiguous."""
    module.register_buffer(name, value.detach().contiguous())


def largest_of(scales: Tensor) -> Tensor:
    """What styles [N, C] are divided by, [N, 1]: never zero."""
    return scales.abs().amax(1, keepdim=True).clamp(min=LEAST)


class FoldedLinear(nn.Module):
    """`EqualLinear` with its run-time scale folded into the weight."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: EqualLinear) -> None:
        super().__init__()
        constant(self, "weight", linear.weight * linear.scale)
        constant(self, "bias", linear.bias * linear.rate)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class FoldedModulation(nn.Module):
    """style [N, C] -> input scales [N, inputs] of magnitude one at most, and demodulating output scales [N, outputs].

    conv(W, s x) / sqrt(sum (W s)^2 + e) = conv(W/a, s/b x) / sqrt(sum (W/a s/b)^2 + e / (a b)^2)
    """

    energy: Tensor
    magnitude: Tensor

    def __init__(self, conv: ModulatedConv2d) -> None:
        super().__init__()
        self.modulation, self.place = FoldedLinear(conv.modulation), conv.place
        weight = conv.weight[0] * conv.scale
        constant(self, "magnitude", weight.abs().max().clamp(min=LEAST))
        constant(self, "energy", (weight / self.magnitude).square().sum((2, 3)))

    def forward(self, style: Tensor | StyleRow) -> tuple[Tensor, Tensor]:
        scales = styles_of(self.modulation, style, self.place)
        largest = largest_of(scales)
        scales = scales / largest
        epsilon = DEMODULATION_EPSILON / (self.magnitude * largest).square()
        return scales, GAIN * torch.rsqrt(F.linear(scales.square(), self.energy) + epsilon)


class FoldedStyledConv(nn.Module):
    """`StyledConv` with its fixed noise: x [N, inputs, H, W], style [N, C] -> [N, outputs, H', W']."""

    weight: Tensor
    noise: Tensor
    bias: Tensor
    vertical: Tensor
    horizontal: Tensor

    def __init__(self, layer: StyledConv, noise: Tensor) -> None:
        super().__init__()
        self.modulation = FoldedModulation(layer.conv)
        self.upsample = layer.conv.upsample
        weight = layer.conv.weight[0] * layer.conv.scale / self.modulation.magnitude
        constant(self, "weight", weight.transpose(0, 1) if self.upsample else weight)
        constant(self, "noise", layer.noise.weight * noise * GAIN)
        constant(self, "bias", layer.activate.bias[None, :, None, None] * GAIN)
        if self.upsample:
            channels, taps = weight.shape[0], torch.tensor(BLUR_TAPS) * (2 / sum(BLUR_TAPS))
            constant(self, "vertical", taps.view(1, 1, 4, 1).repeat(channels, 1, 1, 1))
            constant(self, "horizontal", taps.view(1, 1, 1, 4).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, demodulation = self.modulation(style)
        x = x * scales[:, :, None, None]
        if self.upsample:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.vertical, padding=(1, 0), groups=x.shape[1])
            x = F.conv2d(x, self.horizontal, padding=(0, 1), groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        return F.leaky_relu(x * demodulation[:, :, None, None] + self.noise + self.bias, LEAKY_SLOPE)


class FoldedToRGB(nn.Module):
    """`ToRGB` as one small matrix product per picture, so that the feature is read once and never written scaled."""

    weight: Tensor
    bias: Tensor
    kernel: Tensor

    def __init__(self, layer: ToRGB) -> None:
        super().__init__()
        self.modulation, self.place = FoldedLinear(layer.conv.modulation), layer.conv.place
        constant(self, "weight", layer.conv.weight[0, :, :, 0, 0] * layer.conv.scale)
        constant(self, "bias", layer.bias)
        self.has_skip = hasattr(layer, "upsample")
        if self.has_skip:
            taps = torch.tensor(BLUR_TAPS) * (2 / sum(BLUR_TAPS))
            constant(self, "kernel", torch.outer(taps, taps).repeat(3, 1, 1, 1))

    def matrix(self, style: Tensor | StyleRow) -> Tensor:
        """style [N, C] -> [N, 3, inputs]."""
        return self.weight * styles_of(self.modulation, style, self.place)[:, None, :]

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        rgb = torch.matmul(self.matrix(style), x.flatten(2)).unflatten(2, (height, width)) + self.bias
        return rgb if skip is None else rgb + F.conv_transpose2d(skip, self.kernel, stride=2, padding=1, groups=3)
