"""The generator up to layer 7 optimized for CPUs: Winograd's algorithm, and upsampling by phases, where the pictures are large enough.

Batches stay possible: every weight is constant. Unlike behind layer 7 there are no bands, which small pictures with many channels would
pay for by reading all weights in every band.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.generator import BandUp, Rows
from sdic_export.cpu.winograd import WinogradConv2d
from sdic_export.graphs.folded import FoldedStyledConv, constant
from sdic_export.graphs.replaced import MiddleGraph
from sdic_export.graphs.sdic import FoldedBlock, HeadGraph
from sdic_export.graphs.sfe import PrefixGraph
from sdic_train.networks.layers import LEAKY_SLOPE

# By measurement (ONNX Runtime, x86-64, AVX-512, 512 channels, one thread), in ms for the direct form and the other one: convolutions
# 43 -> 17 at 32 x 32, 11 -> 5 at 16 x 16, which is not worth its 38 MB of weights; upsampling 64 -> 52 to 64 x 64, 16 -> 13 to 32 x 32,
# 3.9 -> 4.1 to 16 x 16.
WINOGRAD_FROM = 32  # rows of the picture
PHASES_FROM = 32  # rows of the upsampled picture
CHANNELS_FROM = 256  # inputs and outputs


class WinogradStyledConv(nn.Module):
    """`FoldedStyledConv` without upsampling, for pictures of the size of its noise, by Winograd's algorithm in both axes."""

    noise: Tensor
    bias: Tensor

    def __init__(self, layer: FoldedStyledConv, form: type[WinogradConv2d] = WinogradConv2d) -> None:
        super().__init__()
        self.modulation = layer.modulation
        self.convolution = form(layer.weight, (layer.noise.shape[2], layer.noise.shape[3]))
        constant(self, "noise", layer.noise)
        constant(self, "bias", layer.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, demodulation = self.modulation(style)
        x = self.convolution(x * scales[:, :, None, None])
        return F.leaky_relu(x * demodulation[:, :, None, None] + self.noise + self.bias, LEAKY_SLOPE)


def cpu_head(head: HeadGraph | MiddleGraph, *example: Tensor) -> list[nn.Module] | None:
    """latent -> feature, rgb, at any cut; None where no layer gains. See `sdic_export.methods.Arrange`."""
    blocks = [block for block in head.blocks if isinstance(block, FoldedBlock)]
    places: list[tuple[nn.Module, str, FoldedStyledConv]] = [(head, "up", head.up)]
    places += [(block, name, layer) for block in blocks for name, layer in (("up", block.up), ("conv", block.conv))]
    places += [(head, "second", head.second)] if isinstance(head, PrefixGraph) else []
    gaining = [(parent, name, form) for parent, name, layer in places if (form := _faster(layer)) is not None]
    for parent, name, form in gaining:
        setattr(parent, name, form)
    return [head] if gaining else None


def _faster(layer: FoldedStyledConv) -> nn.Module | None:
    """`layer` in the form that takes less time in ONNX Runtime; None where its own does."""
    size, channels = layer.noise.shape[2], layer.weight.shape[:2]
    if min(channels) < CHANNELS_FROM:
        return None
    if layer.upsample:
        return BandUp(layer, Rows(0, size, size)) if size >= PHASES_FROM else None
    return WinogradStyledConv(layer) if size >= WINOGRAD_FROM else None
