"""HyperStyle's networks: the encoder into W, and the one that reads a picture and its reconstruction and changes weights.

Parameter names follow the released files.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.config import ModelConfig
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.hyperstyle.config import HyperConfig
from sdic_train.networks.layers import EqualLinear, PixelConv2d, ShortcutConv2d


class WEncoder(Encoder):
    """image [N, 3, S, S] in [-1, 1] -> offset from the mean latent code, one row for all: [N, 1, C]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(replace(config, encoder=replace(config.encoder, pyramid=False)))
        del self.styles
        self.linear = EqualLinear(config.encoder.widths[-1], config.style_width)

    def forward(self, image: Tensor, deltas: int | None = None) -> Tensor:
        row: Tensor = self.linear(self.pyramid(image)[0].mean((2, 3)))
        return row[:, None]


class ResidualUnit(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-34."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        plain = stride == 1 and inputs == outputs
        self.downsample = None if plain else nn.Sequential(ShortcutConv2d(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class SharedBlock(nn.Module):
    """feature [N, channels, 16, 16] -> what the shared network makes the changes of one layer from, [N, channels]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convs = _convolutions((channels, width, width, width, width, channels), strides=(1, 2, 2, 2, 2))
        self.linear = EqualLinear(channels, channels)

    def forward(self, feature: Tensor) -> Tensor:
        code: Tensor = self.linear(self.convs(feature).mean((2, 3)))  # of one pixel
        return code


class PlainBlock(nn.Module):
    """feature [N, channels, 16, 16] -> the changes of one layer, [N, outputs, inputs]."""

    def __init__(self, channels: int, width: int, outputs: int, inputs: int) -> None:
        super().__init__()
        self.size = (outputs, inputs)
        self.convs = _convolutions((channels, width, width, channels), strides=(2, 2, 2))
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, outputs * inputs, 1))

    def forward(self, feature: Tensor) -> Tensor:
        changes: Tensor = self.output[1](self.convs(feature).mean((2, 3), keepdim=True))
        return changes.flatten(1).unflatten(1, self.size)


class SharedNetwork(nn.Module):
    """codes [N, A, C] of A layers -> the changes of their weights, [N, A, C, C, 3, 3]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.w1, self.b1 = (nn.Parameter(torch.zeros(*shape, channels * 9)) for shape in ((channels,), ()))
        self.w2, self.b2 = (nn.Parameter(torch.zeros(*shape, channels**2)) for shape in ((channels,), ()))

    def forward(self, codes: Tensor) -> Tensor:
        hidden = (torch.matmul(codes, self.w2) + self.b2).unflatten(2, (self.channels, self.channels))  # a row for every output channel
        return (torch.matmul(hidden, self.w1) + self.b1).unflatten(3, (self.channels, 3, 3))


class HyperNetwork(nn.Module):
    """From a picture beside its reconstruction to changes of the generator's weights."""

    def __init__(self, config: HyperConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.backbone
        self.conv1 = nn.Conv2d(6, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.PReLU(widths[0])
        units, inputs = [], widths[0]
        for group, (width, count) in enumerate(zip(widths, config.units, strict=True)):
            for unit in range(count):
                units.append(ResidualUnit(inputs, width, stride=2 if group and unit == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*units)
        self.shared_weight_hypernet = SharedNetwork(config.channels[4])
        blocks: dict[str, nn.Module] = {}
        for layer in config.tuned:
            if layer in config.shared:
                blocks[str(layer)] = SharedBlock(widths[-1], config.narrow)
            else:
                blocks[str(layer)] = PlainBlock(widths[-1], config.wide, *config.channels_of(layer))
        self.refinement_blocks = nn.ModuleDict(blocks)

    def backbone(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """image and reconstruction [N, 3, S, S] -> feature [N, channels, S/16, S/16]."""
        x = torch.cat((image, reconstruction), 1)
        if self.config.encoder.crop is not None:
            first, last = self.config.encoder.crop
            x = x[:, :, first:last]
        feature: Tensor = self.body(self.relu(self.bn1(self.conv1(x))))
        return feature

    def steps(self, feature: Tensor) -> list[Tensor]:
        """What one iteration adds to the changes of each tuned layer, [N, *HyperConfig.delta_axes]."""
        found = {layer: self.refinement_blocks[str(layer)](feature) for layer in self.config.tuned}
        if self.config.shared:
            changes = self.shared_weight_hypernet(torch.stack([found[layer] for layer in self.config.shared], 1))
            found |= dict(zip(self.config.shared, changes.unbind(1), strict=True))
        return list(found.values())


def _convolutions(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, stride in enumerate(strides):
        layers += [PixelConv2d(channels[index], channels[index + 1], stride), nn.LeakyReLU()]
    return nn.Sequential(*layers)
