"""The IR-50 backbone of the Feature-Style family: picture -> latent code and a feature map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import ShortcutConv2d

GRID = 3  # side of the pooled maps that the style heads read


@dataclass(frozen=True)
class SFESizes:
    """Channels and units of the four blocks, and the residual blocks of fuser and editor."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    units: tuple[int, ...] = (3, 4, 14, 3)
    body: int = 5


RELEASED = SFESizes()
BLOCKS = 4


def strides_for(halvings: int) -> tuple[int, ...]:
    """Of the first unit of each block: the first `halvings` blocks halve the picture before the feature is read off the third."""
    return (*(2 if block < halvings else 1 for block in range(BLOCKS - 1)), 2)


class Unit(nn.Module):
    """Residual unit of ArcFace's IR-50, the first of a block with a convolution beside it; no activation behind the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        beside = [ShortcutConv2d(inputs, outputs, stride), nn.BatchNorm2d(outputs)] if first else []
        self.downsample = nn.Sequential(*beside) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))


class Backbone(nn.Module):
    """image [N, 3, S, S] -> offsets [N, L, C] from the mean code, and a feature [N, K, H, W], S halved `halvings` times."""

    def __init__(self, sizes: SFESizes, rows: int, width: int, channels: int, halvings: int) -> None:
        super().__init__()
        stem = sizes.widths[0]
        self.conv = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        inputs = stem
        for number, (outputs, count, stride) in enumerate(zip(sizes.widths, sizes.units, strides_for(halvings), strict=True), 1):
            units = [Unit(inputs if unit == 0 else outputs, outputs, stride if unit == 0 else 1, unit == 0) for unit in range(count)]
            self.add_module(f"block_{number}", nn.Sequential(*units))
            inputs = outputs
        self.content_layer = content_layer(sizes.widths[2], channels)
        self.styles = nn.ModuleList(nn.Linear(sum(sizes.widths) * GRID**2, width) for _ in range(rows))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pooled, feature = self.maps(image)
        return torch.stack([style(pooled) for style in self.styles], 1), feature

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [N, 3, S, S] -> what the style heads read [N, 9 channels of all blocks], feature [N, K, H, W]."""
        x, levels = self.conv(image), []
        for number in range(1, 5):
            x = self.get_submodule(f"block_{number}")(x)
            levels.append(x)
        pooled = torch.cat([F.adaptive_avg_pool2d(level, GRID) for level in levels], 1).flatten(1)
        return pooled, self.content_layer(levels[2])


class ResidualBlock(nn.Module):
    """x + body(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = content_layer(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


class Fuser(nn.Module):
    """Two features [N, K, H, W] -> one: the fuser of a predicted and a generated feature, and the editor of a feature by a difference."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        fused: Tensor = self.body(self.conv(torch.cat((first, second), 1)))
        return fused


def content_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Norm, convolution, norm, PReLU, convolution, norm."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def windows(size: int, cells: int = GRID) -> Tensor:
    """Adaptive average pooling of an axis as a matrix [cells, size]: windows from floor(i size / cells) to ceil((i + 1) size / cells)."""
    matrix = torch.zeros(cells, size)
    for cell in range(cells):
        first, end = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, first:end] = 1 / (end - first)
    return matrix
