"""DIPN for CUDA: every 3D convolution as one 2D convolution over the slices of the volume, neighbours along the depth as channels.

A volume is kept as [N * D, C, H, W]. A 3 x 3 x 3 convolution reads each slice with the one before and the one behind as 3 C channels; one
with stride two reads pairs with the slice before; a transposed one writes two slices as 2 O channels. All of these reshapes are free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.volume import PHASE_TAPS, basic, leaky, parameters, shifted, slice_parameters
from sdic_export.graphs.folded import constant
from sdic_train.networks.sdic.dipn import DIPN, ContextFusion, Hourglass3d


def cuda_dipn(dipn: DIPN) -> nn.Module:
    """image, reconstruction -> discrepancy."""
    return CudaDIPN(dipn)


class SliceConv(nn.Module):
    """A convolution over `reads` slices, an activation where the layer has one: [N * D, C, H, W] -> [N * D', O, H', W'].

    `joined`: slices of the input that make one of the output (two where it halves the depth); `made`: slices that one makes.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, depth: int, joined: int = 1, made: int = 1, after: bool = True, up: bool = False, act: bool = True) -> None:
        super().__init__()
        self.depth, self.joined, self.made, self.after, self.up, self.act = depth, joined, made, after, up, act
        constant(self, "weight", weight)
        constant(self, "bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, self.depth // self.joined, self.joined * x.shape[1], *x.shape[2:])
        channels = x.shape[2] // self.joined
        before = shifted(x[:, :, -channels:], 1)
        parts = (before, x, shifted(x, -1)) if self.after else (before, x)
        x = torch.cat(parts, 2).flatten(0, 1)
        if self.up:
            x = F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        else:
            x = F.conv2d(x, self.weight, self.bias, stride=self.joined, padding=1)
        x = leaky(x) if self.act else x
        return x.reshape(-1, x.shape[1] // self.made, *x.shape[2:])


def same(conv: nn.Module, depth: int) -> SliceConv:
    """3 x 3 x 3 with stride one."""
    weight, bias = parameters(conv)
    return SliceConv(weight.transpose(1, 2).flatten(1, 2), bias, depth)


def halving(conv: nn.Module, depth: int) -> SliceConv:
    """3 x 3 x 3 with stride two: output j reads the slices 2 j - 1 to 2 j + 1."""
    weight, bias = parameters(conv)
    return SliceConv(weight.transpose(1, 2).flatten(1, 2), bias, depth, joined=2, after=False)


def doubling(conv: nn.Module, depth: int, act: bool = True) -> SliceConv:
    """Transposed 4 x 4 x 4 with stride two: output 2 j reads j - 1 and j, output 2 j + 1 reads j and j + 1."""
    weight, bias = parameters(conv)  # [I, O, 4, 4, 4]
    whole = weight.new_zeros(3, weight.shape[0], 2, *weight.shape[1:2], 4, 4)
    for odd, taps in enumerate(PHASE_TAPS):
        for place, tap in enumerate(taps):
            whole[odd + place, :, odd] = weight[:, :, tap]
    return SliceConv(whole.flatten(0, 1).flatten(1, 2), bias.repeat(2), depth, made=2, up=True, act=act)


class Stem(nn.Module):
    """The 3 x 3 x 3 convolution of the volume with one channel, which lies as [N, D, H, W]: a banded 2D one -> [N * D, O, H, W]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Module, depth: int) -> None:
        super().__init__()
        weight, bias = parameters(conv)  # [O, 1, 3, 3, 3]
        self.outputs = len(weight)
        band = weight.new_zeros(depth, self.outputs, depth, 3, 3)
        for place in range(depth):
            for tap in range(3):
                if 0 <= place + tap - 1 < depth:
                    band[place, :, place + tap - 1] = weight[:, 0, tap]
        constant(self, "weight", band.flatten(0, 1))
        constant(self, "bias", bias.repeat(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = leaky(F.conv2d(x, self.weight, self.bias, padding=1))
        return x.reshape(-1, self.outputs, *x.shape[2:])


class SliceFusion(nn.Module):
    """Eq. 1 and 2 slice by slice: volume [N * D, V, H, W], context [N, X, H, W] -> [N * D, V, H, W]."""

    def __init__(self, fusion: ContextFusion, depth: int) -> None:
        super().__init__()
        self.depth, self.semantic = depth, fusion.semantic
        first, last = fusion.att
        for name, conv in (("attend", basic(first).conv), ("scale", last), ("aggregate", basic(fusion.agg).conv)):
            weight, bias = slice_parameters(conv)
            constant(self, f"{name}_weight", weight)
            constant(self, f"{name}_bias", bias)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.get_buffer(f"{name}_weight")
        return F.conv2d(x, weight, self.get_buffer(f"{name}_bias"), padding=weight.shape[-1] // 2)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        context = self.semantic(context).unsqueeze(1)
        slices = volume.unflatten(0, (-1, self.depth))
        attention = torch.sigmoid(self._conv("scale", leaky(self._conv("attend", (context + slices).flatten(0, 1)))))
        fused = attention.unflatten(0, (-1, self.depth)) * context + slices
        return leaky(self._conv("aggregate", fused.flatten(0, 1)))


class Joined(nn.Module):
    """`aggregate`: a 1 x 1 x 1 convolution of two volumes and two 3 x 3 x 3 ones."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module], depth: int) -> None:
        super().__init__()
        point, *convs = (basic(layer).conv for layer in layers)
        weight, bias = parameters(point)
        constant(self, "weight", weight[..., 0])
        constant(self, "bias", bias)
        self.convs = nn.Sequential(*(same(conv, depth) for conv in convs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(leaky(F.conv2d(torch.cat((x, skip), 1), self.weight, self.bias)))


class SliceHourglass(nn.Module):
    """The stem and the 3D hourglass: volume [N, D, S, S] and the context at scales 1/2, 1/4, 1/8 -> [N, D, S, S]."""

    def __init__(self, stem: nn.Module, hourglass: Hourglass3d, depth: int) -> None:
        super().__init__()
        self.depth, half, quarter, eighth = depth, depth // 2, depth // 4, depth // 8
        self.stem = Stem(stem, depth)
        for number, blocks in enumerate((hourglass.conv1, hourglass.conv2, hourglass.conv3), 1):
            down, level = (basic(block).conv for block in blocks)
            setattr(self, f"down{number}", halving(down, depth >> (number - 1)))
            setattr(self, f"level{number}", same(level, depth >> number))
        self.fusion3 = SliceFusion(hourglass.CGF_32, eighth)
        self.fusion2, self.join2 = SliceFusion(hourglass.CGF_16, quarter), Joined(list(hourglass.agg_0), quarter)
        self.fusion1, self.join1 = SliceFusion(hourglass.CGF_8, half), Joined(list(hourglass.agg_1), half)
        self.up3, self.up2 = doubling(hourglass.conv3_up.conv, eighth), doubling(hourglass.conv2_up.conv, quarter)
        self.up1 = doubling(hourglass.conv1_up.conv, half, act=False)

    def forward(self, volume: Tensor, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        first = self.level1(self.down1(self.stem(volume)))
        second = self.level2(self.down2(first))
        third = self.fusion3(self.level3(self.down3(second)), eighth)
        second = self.fusion2(self.join2(self.up3(third), second), quarter)
        first = self.fusion1(self.join1(self.up2(second), first), half)
        made = self.up1(first)
        return made.reshape(-1, self.depth, *made.shape[2:])


class CudaDIPN(nn.Module):
    """image and reconstruction [N, 3, S, S] in [-1, 1] -> discrepancy map [N, 3, S, S]."""

    def __init__(self, dipn: DIPN) -> None:
        super().__init__()
        self.feature1, self.feature2, self.feature_up = dipn.feature1, dipn.feature2, dipn.feature_up
        self.conv, self.desc, self.rgb1, self.rgb = dipn.conv, dipn.desc, dipn.rgb1, dipn.rgb
        self.volume = SliceHourglass(dipn.corr_stem.conv, dipn.hourglass_fusion, 2 * dipn.desc.out_channels)

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        scales = self.feature1(image)
        full, half, quarter = self.feature_up(scales)
        other, _, _ = self.feature_up(self.feature2(reconstruction))
        volume = torch.cat((self.desc(self.conv(full)), self.desc(self.conv(other))), 1)
        return self.rgb(self.rgb1(self.volume(volume, half, quarter, scales[3])))
