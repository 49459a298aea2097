"""The recognition networks that the identity loss and metric read: ArcFace's IR and IR-SE bodies, and ResNet-50."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import BottleneckIR

FACE_SIZE = 112
UNITS = {50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}  # per group of 64, 128, 256, 512 channels
RESNET_UNITS = (3, 4, 6, 3)


class FaceNetwork(nn.Module):
    """IR-50 or IR-101 with or without squeeze-and-excitation: faces [N, 3, 112, 112] in [-1, 1] -> unit vectors [N, 512]."""

    def __init__(self, depth: int, excitation: bool, affine: bool = True) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        body, inputs = [], 64
        for width, units in zip((64, 128, 256, 512), UNITS[depth], strict=True):
            for unit in range(units):
                body.append(BottleneckIR(inputs, width, 2 if unit == 0 else 1, 16 if excitation else None))
                inputs = width
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.6), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512, affine=affine)
        )

    def forward(self, face: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(face))).float(), dim=1)


class ResidualUnit(nn.Module):
    """ResNet's bottleneck: 1x1, 3x3, 1x1, the last four times as wide."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = (
            None
            if stride == 1 and inputs == 4 * width
            else nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """ResNet-50 up to the mean over positions: pictures [N, 3, 224, 224] -> unit vectors [N, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for group, units in enumerate(RESNET_UNITS):
            width = 64 * 2**group
            layers = [ResidualUnit(inputs if unit == 0 else 4 * width, width, 2 if unit == 0 and group else 1) for unit in range(units)]
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))
            inputs = 4 * width

    def forward(self, picture: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(picture))), 3, 2, 1)
        for group in range(len(RESNET_UNITS)):
            x = getattr(self, f"layer{group + 1}")(x)
        return F.normalize(torch.flatten(x.float().mean((2, 3)), 1), dim=1)
