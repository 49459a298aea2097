"""SDIC's stages arranged for OpenVINO, in forms that were measured in bfloat16 (`OPENVINO` in `sdic_export.cpu.sdic`).

OpenVINO keeps the channels of a convolution last, runs whole pictures on all cores, and multiplies in bfloat16 what is no product with a
constant on the left.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.dicn import cpu_dicn
from sdic_export.cpu.head import WinogradStyledConv
from sdic_export.cpu.volume import PHASE_TAPS
from sdic_export.cpu.winograd import TAPS, TILE, WinogradConv2d, faster_form
from sdic_export.graphs.folded import FoldedStyledConv, FoldedToRGB, constant
from sdic_export.graphs.sdic import DICNGraph, FoldedBlock, PreviewGraph, TailGraph
from sdic_train.networks.sdic.dipn import DIPN

WINDOW = TILE + TAPS - 1  # pixels that a tile reads, per axis


class SeparateWinogradConv2d(WinogradConv2d):
    """`WinogradConv2d` with transforms in bfloat16.

    Its transforms are products with a constant on the left, which OpenVINO runs in float32 with conversions in front and behind. Here a
    term of zero makes the matrices depend on the input. Along one axis the analysis is exact in bfloat16, in both at once it is not, and
    smooth pictures, whose differences it takes, do not forgive that (3 dB of a whole inversion): rows and columns follow each other.
    """

    def analysed(self, windows: Tensor) -> Tensor:
        rows, columns = (self.analysis + 0 * windows[:1, :1, :1, :1]).unbind()
        lines = torch.matmul(rows, windows.unflatten(2, (WINDOW, WINDOW)).flatten(3)).unflatten(3, (WINDOW, -1))
        return torch.matmul(columns[:, None], lines).flatten(2, 3)

    def synthesised(self, products: Tensor) -> Tensor:
        return torch.matmul(self.synthesis + 0 * products[:1, :1, :1, :1].flatten(), products)

    def _analyse_by(self, before: np.ndarray, rows: Tensor, columns: Tensor) -> None:
        matrix = torch.from_numpy(before).float()
        by_row, by_column = matrix * rows[:, None], matrix * columns[:, None]  # [tiles of the axis, WINDOW, WINDOW]
        # In one tensor: sums of differently broadcast ones become a single pass over all combinations of their tiles.
        constant(self, "analysis", torch.stack((by_row.repeat_interleave(len(columns), 0), by_column.repeat(len(rows), 1, 1))))


class LastToRGB(nn.Module):
    """`FoldedToRGB` that reads the feature with its channels last, as the convolution in front leaves it."""

    def __init__(self, layer: FoldedToRGB) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, style: Tensor, skip: Tensor) -> Tensor:
        layer, size = self.layer, x.shape[2:]
        rgb = torch.matmul(x.permute(0, 2, 3, 1).flatten(1, 2), layer.matrix(style).transpose(1, 2))
        rgb = rgb.unflatten(1, size).permute(0, 3, 1, 2) + layer.bias
        return rgb + F.conv_transpose2d(skip, layer.kernel, stride=2, padding=1, groups=3)


class PairedDoubling(nn.Module):
    """A transposed 4 x 4 x 4 convolution (stride 2, padding 1) to one channel: [N, I, D, H, W] -> [N, 1, 2D, 2H, 2W].

    The outputs 2j - 1 and 2j read the inputs j - 1 and j, so one 2 x 2 x 2 convolution with eight outputs makes all.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight [I, 1, 4, 4, 4]."""
        super().__init__()
        taps = PHASE_TAPS[::-1]  # of 2j - 1, then of 2j
        kernels = [weight[:, 0, taps[a]][:, :, taps[b]][:, :, :, taps[c]] for a, b, c in product(range(2), repeat=3)]
        constant(self, "weight", torch.stack(kernels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv3d(x, self.weight, padding=1)
        depth, height, width = x.shape[2:]
        x = x.unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3).reshape(-1, 1, 2 * depth, 2 * height, 2 * width)
        return x[:, :, 1:-1, 1:-1, 1:-1]


def openvino_generator(graph: TailGraph | PreviewGraph, *example: Tensor) -> list[nn.Module] | None:
    """A stage that begins behind layer 7; None where no layer gains. See `sdic_export.methods.Arrange`."""
    parents = [graph, *(block for block in graph.blocks if isinstance(block, FoldedBlock))]
    if not any(_by_winograd(parent.conv) for parent in parents):
        return None
    for parent in parents:
        if _by_winograd(parent.conv):
            parent.conv = WinogradStyledConv(parent.conv, SeparateWinogradConv2d)  # type: ignore[assignment]
        else:  # what Winograd's algorithm gives has its channels first
            parent.to_rgb = LastToRGB(parent.to_rgb)  # type: ignore[assignment]
    return [graph]


def openvino_dicn(graph: DICNGraph, *example: Tensor) -> list[nn.Module]:
    """discrepancy, feature, latent -> latent_enhanced, residual. See `sdic_export.methods.Arrange`."""
    return cpu_dicn(graph, *example, form=SeparateWinogradConv2d)


def openvino_dipn(dipn: DIPN, *example: Tensor) -> list[nn.Module]:
    """image, reconstruction -> discrepancy. See `sdic_export.methods.Arrange`."""
    last = dipn.hourglass_fusion.conv1_up  # of one channel, which takes OpenVINO's own ten times as long
    assert last.bn is None and isinstance(last.conv.weight, Tensor)
    last.conv = PairedDoubling(last.conv.weight.detach())
    return [dipn]


def _by_winograd(layer: FoldedStyledConv) -> bool:
    outputs, inputs = layer.weight.shape[:2]
    return faster_form(inputs, outputs, layer.noise.shape[3]) is WinogradConv2d
