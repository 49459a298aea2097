"""DICN optimized for CPUs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.convolutions import optimized
from sdic_export.cpu.winograd import WinogradConv2d
from sdic_export.graphs.sdic import DICNGraph
from sdic_train.config import FEATURE_SIZE


def cpu_dicn(graph: DICNGraph, *example: Tensor, form: type[WinogradConv2d] = WinogradConv2d) -> list[nn.Module]:
    """discrepancy, feature, latent -> latent_enhanced, residual. See `sdic_export.methods.Arrange`."""
    last, factor = graph.dicn.condition_shift3[2], example[0].shape[3] // FEATURE_SIZE
    assert isinstance(last, nn.Conv2d)
    if factor > 1:
        graph.dicn.condition_shift3[2] = halfway(last, factor)  # so that DICN finds nothing left to resize
    return [optimized(graph, *example, form=form)]


def halfway(conv: nn.Conv2d, factor: int) -> nn.Module:
    """A 3 x 3 convolution with padding and stride one and the bilinear resizing by 1 / `factor` behind it, as one with 4 x 4 taps.

    For an even factor an output pixel lies in the middle of four pixels, and is their mean.
    """
    weight = sum(F.pad(conv.weight.detach(), (column, 1 - column, row, 1 - row)) for row in range(2) for column in range(2)) / 4
    assert isinstance(weight, Tensor)
    first = factor // 2 - 2  # the first pixel that is read
    meant = nn.Conv2d(conv.in_channels, conv.out_channels, 4, factor, max(-first, 0), bias=conv.bias is not None, device="meta")
    meant.weight, meant.bias = nn.Parameter(weight, requires_grad=False), conv.bias
    return nn.Sequential(nn.ZeroPad2d(-first), meant) if first > 0 else meant
