"""DICN arranged for processors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.convolutions import arranged
from sdic_export.graphs.sdic import DICNGraph
from sdic_runtime.stages import FEATURE_SIZE
from sdic_train.networks.sdic.dicn import DICN


class CpuDICN(nn.Module):
    """discrepancy, feature, latent -> latent_enhanced, residual, as `DICNGraph`, whose batch norms are fused; for inputs like `example`."""

    def __init__(self, graph: DICNGraph, *example: Tensor) -> None:
        super().__init__()
        dicn = graph.dicn
        last, factor = dicn.condition_shift3[2], example[0].shape[3] // FEATURE_SIZE
        assert isinstance(last, nn.Conv2d)
        if factor > 1:
            dicn.condition_shift3[2] = halfway(last, factor)  # so that DICN finds nothing left to resize
        network = arranged(dicn, *example)
        assert isinstance(network, DICN)
        self.dicn = network

    def forward(self, discrepancy: Tensor, feature: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        return self.dicn(discrepancy, feature, latent)


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
