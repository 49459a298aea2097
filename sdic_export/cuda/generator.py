"""The generator for CUDA: each upsampling layer as one convolution, its blur inside.

The transposed convolution and the blur behind it are one linear map, whose kernel has six taps in each axis. As graph operators the blur is
two depthwise convolutions, which cuDNN runs at a tenth of the memory's speed; one dense convolution with four times the products runs on
tensor cores and reads and writes the feature once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.folded import FoldedStyledConv, constant
from sdic_train.networks.layers import LEAKY_SLOPE


def composed_kernel(layer: FoldedStyledConv) -> Tensor:
    """[inputs, outputs, 6, 6] of the transposed convolution with stride 2 and padding 2 that equals an upsampling layer's convolution
    and blur. The blur's taps are symmetric, so correlating and convolving with them is the same."""
    inputs, outputs = layer.weight.shape[:2]
    taps = layer.vertical[0, 0, :, 0]
    blur = torch.outer(taps, layer.horizontal[0, 0, 0])
    weight = layer.weight.reshape(inputs * outputs, 1, 3, 3)
    return F.conv_transpose2d(weight, blur[None, None]).unflatten(0, (inputs, outputs)).squeeze(2)


class ComposedStyledConv(nn.Module):
    """An upsampling `FoldedStyledConv` as one transposed convolution: x [N, inputs, H, W], style [N, C] -> [N, outputs, 2 H, 2 W]."""

    weight: Tensor
    noise: Tensor
    bias: Tensor

    def __init__(self, layer: FoldedStyledConv) -> None:
        super().__init__()
        self.modulation = layer.modulation
        constant(self, "weight", composed_kernel(layer))
        constant(self, "noise", layer.noise)
        constant(self, "bias", layer.bias)

    def doubled(self, x: Tensor) -> Tensor:
        """The convolution and the blur of it."""
        return F.conv_transpose2d(x, self.weight, stride=2, padding=2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, demodulation = self.modulation(style)
        x = self.doubled(x * scales[:, :, None, None])
        return F.leaky_relu(x * demodulation[:, :, None, None] + self.noise + self.bias, LEAKY_SLOPE)


class PhasedStyledConv(ComposedStyledConv):
    """The same as a convolution that makes the four pixels of each pixel as channels."""

    def __init__(self, layer: FoldedStyledConv) -> None:
        super().__init__(layer)
        phases = [self.weight[:, :, row::2, column::2].flip((2, 3)) for row in (0, 1) for column in (0, 1)]
        stacked = torch.stack(phases, 2).transpose(0, 1)  # [outputs, inputs, 4, 3, 3]
        del self.weight
        constant(self, "weight", stacked.transpose(1, 2).flatten(0, 1))

    def doubled(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(x, self.weight, padding=1), 2)


def composed(module: nn.Module, form: type[ComposedStyledConv] = ComposedStyledConv) -> nn.Module:
    """Replace every upsampling layer in `module`, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, FoldedStyledConv) and child.upsample:
            setattr(module, name, form(child))
        else:
            composed(child, form)
    return module
