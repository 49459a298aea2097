"""DIPN optimized for CPUs: every 3D convolution as 2D convolutions over the slices of the volume.

A volume is kept as [N * D, C, H, W], see `sdic_export.cpu.volume`, and the largest one as a list of slices, see `sdic_export.cpu.slices`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.slices import BLOCK, DepthSlices, DoublingSlices, FusionSlices, JoinSlices, StemSlices, StrideSlices
from sdic_export.cpu.volume import (
    DepthConv,
    DepthDoubling,
    PairConv,
    Phases,
    PlainConv,
    basic,
    convolution,
    leaky,
    parameters,
    slice_parameters,
)
from sdic_export.graphs.folded import constant
from sdic_train.networks.layers import BasicConv
from sdic_train.networks.sdic.dipn import DIPN, ContextFusion, FeatureUp, Hourglass3d


def cpu_dipn(dipn: DIPN, *example: Tensor) -> list[nn.Module] | None:
    """image, reconstruction -> discrepancy; None where channels do not fill the blocks of ONNX Runtime's convolutions, as in small models.
    See `sdic_export.methods.Arrange`."""
    channels = len(parameters(basic(dipn.hourglass_fusion.conv1[0]).conv)[0])
    return [CpuDIPN(dipn, example[0].shape[3])] if channels % BLOCK == 0 else None


class CpuDIPN(nn.Module):
    """image and reconstruction [N, 3, S, S] in [-1, 1] -> discrepancy map [N, 3, S, S]."""

    def __init__(self, dipn: DIPN, size: int) -> None:
        super().__init__()
        depth = 2 * dipn.desc.out_channels
        self.feature1, self.feature2 = dipn.feature1, dipn.feature2
        self.feature_up = dipn.feature_up
        _rearrange(self.feature_up, size)
        self.conv, self.desc = dipn.conv, dipn.desc
        self.volume = CpuVolume(dipn.corr_stem, dipn.hourglass_fusion, depth, size)
        self.rgb1, self.rgb = dipn.rgb1, dipn.rgb

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        scales = self.feature1(image)
        full, half, quarter = self.feature_up(scales)
        other, _, _ = self.feature_up(self.feature2(reconstruction))
        volume = torch.cat((self.desc(self.conv(full)), self.desc(self.conv(other))), 1)
        return self.rgb(self.rgb1(self.volume(volume, half, quarter, scales[3])))


class CpuVolume(nn.Module):
    """The stem and the 3D hourglass: volume [N, D, S, S] and the context at scales 1/2, 1/4, 1/8 -> [N, D, S, S].

    The volume of half the size, which is the largest one, is a list of slices.
    """

    def __init__(self, stem: BasicConv, hourglass: Hourglass3d, depth: int, size: int) -> None:
        super().__init__()
        quarter, eighth = depth // 4, depth // 8
        (down1, same1), (down2, same2), (down3, same3) = (
            (basic(block).conv for block in blocks) for blocks in (hourglass.conv1, hourglass.conv2, hourglass.conv3)
        )
        up1, join1 = hourglass.conv1_up.conv, [basic(block).conv for block in hourglass.agg_1]
        self.down1 = StemSlices(stem.conv, down1, depth)
        self.same1, self.down2, self.join1 = DepthSlices(same1), StrideSlices(down2), JoinSlices(join1)
        self.fusion1, self.up1 = FusionSlices(hourglass.CGF_8, size // 2), DoublingSlices(up1)
        self.same2 = DepthConv(same2, quarter)
        self.down3, self.same3 = PairConv(down3, quarter), DepthConv(same3, eighth)
        self.fusion3 = CpuContextFusion(hourglass.CGF_32, eighth, size // 8)
        self.up3 = DepthDoubling(hourglass.conv3_up.conv, eighth)
        self.join2 = Joined([basic(block).conv for block in hourglass.agg_0], quarter)
        self.fusion2 = CpuContextFusion(hourglass.CGF_16, quarter, size // 4)
        self.up2 = DepthDoubling(hourglass.conv2_up.conv, quarter)

    def forward(self, volume: Tensor, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        first = self.same1(self.down1(volume))
        second = self.same2(self.down2(first))
        third = self.fusion3(self.same3(self.down3(second)), eighth)
        second = self.fusion2(self.join2(self.up3(third), second), quarter)
        first = self.fusion1(self.join1(self.up2(second), first), half)
        return self.up1(first)


class Joined(nn.Module):
    """`aggregate`: a 1 x 1 x 1 convolution of two volumes, concatenated, and two 3 x 3 x 3 ones; [N * D, C, H, W] each."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module], depth: int) -> None:
        super().__init__()
        point, *convs = layers
        weight, bias = parameters(point)
        constant(self, "weight", weight[..., 0, 0])
        constant(self, "bias", bias)
        self.convs = nn.Sequential(*(DepthConv(conv, depth) for conv in convs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        first, second = self.weight.split((x.shape[1], skip.shape[1]), 1)
        joined = F.conv1d(x.flatten(2), first, self.bias) + F.conv1d(skip.flatten(2), second)
        return self.convs(leaky(joined).unflatten(2, x.shape[2:]))


class CpuContextFusion(nn.Module):
    """Eq. 1 and 2 slice by slice: volume [N * D, V, H, W], context [N, X, H, W] -> [N * D, V, H, W]."""

    def __init__(self, fusion: ContextFusion, depth: int, height: int) -> None:
        super().__init__()
        first, last = fusion.att
        self.depth, self.semantic = depth, fusion.semantic
        self.attend, self.aggregate = (convolution(*slice_parameters(basic(block).conv), height) for block in (first, fusion.agg))
        weight, bias = slice_parameters(last)
        self.scale = PlainConv(weight, bias, torch.sigmoid)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        volume = volume.unflatten(0, (-1, self.depth))
        context = self.semantic(context).unsqueeze(1)
        attention = self.scale(self.attend((context + volume).flatten(0, 1))).unflatten(0, (-1, self.depth))
        return self.aggregate((attention * context + volume).flatten(0, 1))


def _rearrange(up: FeatureUp, size: int) -> None:
    """Give `up` the forms for CPUs, in place, for pictures of `size`."""
    for block, height in ((up.deconv8_4, size // 4), (up.deconv4_2, size // 2), (up.deconv2_1, size)):
        weight, bias = parameters(block.conv1.conv)
        block.conv1 = Phases(weight.transpose(0, 1), bias)  # type: ignore[assignment]
        block.conv2 = convolution(*parameters(block.conv2.conv), height)  # type: ignore[assignment]
