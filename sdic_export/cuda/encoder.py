"""e4e for CUDA: the style blocks of one level together, instead of a hundred small convolutions one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.volume import parameters
from sdic_export.graphs.folded import constant
from sdic_export.graphs.sdic import EncoderGraph
from sdic_train.networks.e4e import Encoder, StyleBlock


class GroupConv(nn.Module):
    """K convolutions with stride two, each over a map of its own, as one batched matrix product: [N, K, I, H, W] -> [N, K, O, H', W']."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.taps, self.padding = layers[0].kernel_size[0], int(layers[0].padding[0])
        constant(self, "weight", torch.stack([parameters(layer)[0].flatten(1) for layer in layers]))
        constant(self, "bias", torch.stack([parameters(layer)[1] for layer in layers])[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((side + 2 * self.padding - self.taps) // 2 + 1 for side in x.shape[3:])
        if self.padding:
            x = F.pad(x, (1, 1, 1, 1))
        windows = [
            x[:, :, :, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
            for row, column in product(range(self.taps), repeat=2)
        ]
        columns = torch.stack(windows, 3).flatten(4).flatten(2, 3)
        return (torch.matmul(self.weight, columns) + self.bias).unflatten(3, (height, width))


class GroupStyles(nn.Module):
    """The style blocks of one level: [N, I, H, W] -> their rows of the latent code, [N, K, C]."""

    weight: Tensor
    bias: Tensor
    linear_weight: Tensor
    linear_bias: Tensor

    def __init__(self, blocks: Sequence[StyleBlock]) -> None:
        super().__init__()
        self.count = len(blocks)
        first, *rest = ([layer for layer in step if isinstance(layer, nn.Conv2d)] for step in zip(*(block.convs[::2] for block in blocks), strict=True))
        constant(self, "weight", torch.cat([parameters(layer)[0] for layer in first]))
        constant(self, "bias", torch.cat([parameters(layer)[1] for layer in first]))
        self.rest = nn.ModuleList(GroupConv(layers) for layers in rest)
        self.activation = blocks[0].convs[1]
        constant(self, "linear_weight", torch.stack([block.linear.weight for block in blocks]))
        constant(self, "linear_bias", torch.stack([block.linear.bias for block in blocks]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(F.conv2d(x, self.weight, self.bias, stride=2, padding=1)).unflatten(1, (self.count, -1))
        for conv in self.rest:
            x = self.activation(conv(x))
        return torch.matmul(self.linear_weight, x.flatten(3)).squeeze(3) + self.linear_bias


class CudaEncoder(nn.Module):
    """image -> latent, as `EncoderGraph`, whose batch norms are fused."""

    latent_avg: Tensor
    encoder: Encoder

    def __init__(self, graph: EncoderGraph, levels: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(graph.encoder, {id(item): item for item in chain(graph.encoder.parameters(), graph.encoder.buffers())})
        constant(self, "latent_avg", graph.latent_avg)
        blocks = [block for block in self.encoder.styles if isinstance(block, StyleBlock)]
        groups = [[block for row, block in enumerate(blocks) if self.encoder.level(row) == level] for level in range(levels)]
        self.levels = nn.ModuleList(GroupStyles(group) for group in groups)
        del self.encoder.styles

    def forward(self, image: Tensor) -> Tensor:
        rows = torch.cat([level(x) for level, x in zip(self.levels, self.encoder.pyramid(image), strict=True)], 1)
        if self.encoder.config.encoder.form == "e4e":
            rows = torch.cat((rows[:, :1], rows[:, :1] + rows[:, 1:]), 1)
        return rows + self.latent_avg


def cuda_encoder(graph: EncoderGraph, *example: Tensor) -> nn.Module:
    """image -> latent; `example` is an image of the size to come."""
    with torch.no_grad():
        levels = len(graph.encoder.pyramid(*example))
    return CudaEncoder(graph, levels).eval()
