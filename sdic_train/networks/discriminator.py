"""StyleGAN2's residual discriminator in pure PyTorch, at any size and width. Parameter names follow the rosinality layout."""

from __future__ import annotations

from math import log2, sqrt

import torch
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.networks.layers import Activation, EqualConv2d, EqualLinear, blur, blur_kernel

DEVIATION_GROUP = 4  # samples over which the minibatch standard deviation is taken


class _Smooth(nn.Module):
    """Holds the place and the buffer `kernel` of the release's blur before a strided convolution."""

    kernel: Tensor

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel() / 4)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, self.padding, gain=1.0)


def conv_layer(inputs: int, outputs: int, kernel: int, down: bool = False, activation: bool = True) -> nn.Sequential:
    """Equalized convolution, blurred and strided when `down`; bias and leaky ReLU when `activation`."""
    layers: list[nn.Module] = []
    if down:
        layers.append(_Smooth((kernel + 2) // 2 if kernel == 3 else 1))
    layers.append(EqualConv2d(inputs, outputs, kernel, stride=2 if down else 1, padding=0 if down else kernel // 2, bias=False))
    if activation:
        layers.append(Activation(outputs))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second halves the size; a 1x1 shortcut; the sum keeps the variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(inputs, inputs, 3)
        self.conv2 = conv_layer(inputs, outputs, 3, down=True)
        self.skip = conv_layer(inputs, outputs, 1, down=True, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/2, W/2]."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / sqrt(2)


def deviation_channel(x: Tensor, group: int = DEVIATION_GROUP) -> Tensor:
    """[N, C, H, W] -> [N, 1, H, W]: the mean standard deviation over groups of samples, by which variety becomes visible."""
    batch, channels, height, width = x.shape
    group = min(batch, group)
    while batch % group:
        group -= 1
    parts = x.float().view(-1, group, channels, height, width)  # neighbours, so that a share of a batch has whole groups
    deviation = torch.sqrt(parts.var(1, unbiased=False) + 1e-8).mean((1, 2, 3))
    return deviation.repeat_interleave(group).view(-1, 1, 1, 1).expand(batch, 1, height, width).to(x.dtype)


class Discriminator(nn.Module):
    """`channels` maps every picture size from `resolution` down to 4 to its number of channels."""

    def __init__(self, resolution: int, channels: dict[int, int]) -> None:
        super().__init__()
        sizes = [2**power for power in range(int(log2(resolution)), 1, -1)]
        if missing := [size for size in sizes if size not in channels]:
            raise ArgumentError(
                f"the discriminator has no number of channels for size {missing[0]}; give one for every size from 4 to {resolution}"
            )
        self.resolution = resolution
        blocks = [ResidualBlock(channels[size], channels[size // 2]) for size in sizes[:-1]]
        self.convs = nn.Sequential(conv_layer(3, channels[resolution], 1), *blocks)
        self.final_conv = conv_layer(channels[4] + 1, channels[4], 3)
        self.final_linear = nn.Sequential(EqualLinear(channels[4] * 16, channels[4], activation=True), EqualLinear(channels[4], 1))

    def features(self, picture: Tensor) -> list[Tensor]:
        """picture [N, 3, R, R] in [-1, 1] -> the output of every residual block, R/2 to 4."""
        x = self.convs[0](picture)
        found = []
        for block in list(self.convs)[1:]:
            x = block(x)
            found.append(x)
        return found

    def score(self, last: Tensor) -> Tensor:
        """The last of `features` -> logits [N, 1], positive for real."""
        x = self.final_conv(torch.cat([last, deviation_channel(last)], 1))
        return self.final_linear(x.flatten(1))

    def forward(self, picture: Tensor) -> Tensor:
        """[N, 3, R, R] -> logits [N, 1]."""
        return self.score(self.features(picture)[-1])
