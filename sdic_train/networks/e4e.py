"""The encoders of e4e, pSp and ReStyle: an IR-SE or ResNet body, a pyramid of three levels or none, a style block per row of the code."""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.config import ModelConfig
from sdic_train.networks.layers import BottleneckIR, EqualLinear, ShortcutConv2d

COARSE_ROWS, MIDDLE_ROWS = 3, 7  # rows 0-2 read the coarsest level, rows 3-6 the middle one, the others the finest
REDUCTION = 16  # of the squeeze-and-excitation units


class StyleBlock(nn.Module):
    """Stride-2 convolutions down to one pixel, then a linear layer: one row of the latent code."""

    def __init__(self, inputs: int, width: int, outputs: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in range(int(log2(size))):
            layers += [nn.Conv2d(inputs if step == 0 else width, width, 3, stride=2, padding=1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, size, size] -> [N, outputs]."""
        return self.linear(self.convs(x).flatten(1))


class BasicBlock(nn.Module):
    """The residual unit of ResNet-34."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None if inputs == outputs else nn.Sequential(ShortcutConv2d(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    """image [N, 3, S, S] in [-1, 1] -> offsets from the mean latent code, [N, L, C]; `EncoderConfig.form` says how rows depend on row 0.

    ReStyle's image is the picture and its reconstruction, [N, 6, S, S], and the offsets are from the code of that reconstruction.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths, units = config.encoder.widths, config.encoder.units
        channels, resnet = config.encoder.inputs, config.encoder.body == "resnet"
        if resnet:
            self.conv1 = nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False)
            self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        else:
            stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
            self.input_layer = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0]))
        body: list[nn.Module] = []
        self.taps: list[int] = []  # the last unit of each group
        inputs = widths[0]
        for width, count in zip(widths, units, strict=True):
            for unit in range(count):
                if resnet:
                    body.append(BasicBlock(inputs, width, stride=2 if unit == 0 and body else 1))
                else:
                    body.append(BottleneckIR(inputs, width, stride=2 if unit == 0 else 1, reduction=REDUCTION))
                inputs = width
            self.taps.append(len(body) - 1)
        self.body = nn.Sequential(*body)
        if config.encoder.pyramid:
            self.latlayer1 = nn.Conv2d(widths[2], widths[3], 1)
            self.latlayer2 = nn.Conv2d(widths[1], widths[3], 1)
        block = config.encoder.style_block or config.style_width
        sizes = [config.working // 16 * 2 ** self.level(row) for row in range(config.rows)]
        self.styles = nn.ModuleList(StyleBlock(widths[3], block, config.style_width, size) for size in sizes)

    def level(self, row: int) -> int:
        """Which level of `pyramid` the style block of `row` reads: 0, the coarsest, to 2."""
        return (row >= COARSE_ROWS) + (row >= MIDDLE_ROWS) if self.config.encoder.pyramid else 0

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """The levels that the style blocks read, coarse to fine: S/16, S/8, S/4; without a pyramid the first alone."""
        if self.config.encoder.crop is not None:
            first, last = self.config.encoder.crop
            image = image[:, :, first:last]
        x = self.relu(self.bn1(self.conv1(image))) if self.config.encoder.body == "resnet" else self.input_layer(image)
        levels = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in self.taps[1:]:
                levels.append(x)
        fine, middle, coarse = levels
        if not self.config.encoder.pyramid:
            return (coarse,)
        middle = _upsample(coarse, middle) + self.latlayer1(middle)
        return coarse, middle, _upsample(middle, fine) + self.latlayer2(fine)

    def forward(self, image: Tensor, deltas: int | None = None) -> Tensor:
        """`deltas` limits the deltas from row 0 to the first rows (progressive training of e4e)."""
        levels = self.pyramid(image)
        rows: list[Tensor] = []
        for row, style in enumerate(self.styles):
            if deltas is not None and row > deltas:
                rows.append(rows[0])
                continue
            own = style(levels[self.level(row)])
            rows.append(rows[0] + own if row and self.config.encoder.form == "e4e" else own)
        return torch.stack(rows, 1)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
