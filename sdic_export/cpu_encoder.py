"""e4e arranged for processors: the first two convolutions of the style blocks with fewer multiplications.

The style blocks of a level read the same feature, so their first convolutions are one with many outputs, whose input is transformed
once. A stride of two takes the odd pixels o by two taps and the even ones e by one, y[i] = w0 o[i - 1] + w1 e[i] + w2 o[i]: two
neighbouring outputs cost three products for o (Toom-Cook) and two for e instead of six; in two dimensions 25 instead of 36. The
outputs stay apart by parity, which is how the second convolution, of stride two as well, reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu_convolutions import arranged
from sdic_export.folded import constant
from sdic_export.graphs import EncoderGraph
from sdic_export.winograd import toom_cook
from sdic_train.networks.e4e import COARSE_ROWS, MIDDLE_ROWS, Encoder, StyleBlock

PAIR = 2  # outputs of a tile, per axis
KINDS = 3  # products of a tile's odd pixels, per axis
SHARING_FROM = 32  # rows of the level; smaller ones have too little work


class SharedFirstConv(nn.Module):
    """K 3 x 3 convolutions with stride two over one input: [N, I, H, W] -> [N, 4, K, O, H / 4, W / 4].

    The second axis is the parity of the output's row and column: (0, 0), (0, 1), (1, 0), (1, 1).
    """

    of_rows: Tensor
    of_columns: Tensor
    odd_odd: Tensor
    odd_even: Tensor
    even_odd: Tensor
    even_even: Tensor
    both: Tensor
    rows: Tensor
    columns: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Conv2d], size: tuple[int, int]) -> None:
        super().__init__()
        after, kernel, _ = toom_cook(PAIR, 2)
        constant(self, "of_rows", _analysis(size[0]))
        constant(self, "of_columns", _analysis(size[1]).T)
        weight = torch.stack([layer.weight for layer in layers]).detach().double()  # one matrix per layer is what caches hold
        odd, taps = torch.from_numpy(kernel), slice(None, None, 2)
        constant(self, "odd_odd", torch.einsum("ua,vb,koiab->uvkoi", odd, odd, weight[..., taps, taps]).float())
        constant(self, "odd_even", torch.einsum("ua,koia->ukoi", odd, weight[..., taps, 1])[:, None].float())
        constant(self, "even_odd", torch.einsum("vb,koib->vkoi", odd, weight[..., 1, taps]).float())
        constant(self, "even_even", weight[..., 1, 1].float())
        constant(self, "both", torch.from_numpy(np.kron(after, after)).float())
        constant(self, "rows", torch.from_numpy(np.kron(after, np.eye(PAIR))).float())
        constant(self, "columns", torch.from_numpy(np.kron(np.eye(PAIR), after)).float())
        constant(self, "bias", torch.stack([layer.bias for layer in layers if layer.bias is not None])[..., None])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.of_rows, torch.matmul(x, self.of_columns))
        x = x.unflatten(3, (KINDS + PAIR, -1)).unflatten(2, (KINDS + PAIR, -1)).permute(0, 2, 4, 1, 3, 5)
        tiles = x.shape[4:]
        odd_odd, odd_even, even_odd, even_even = (
            x[:, rows, columns].flatten(4)[:, :, :, None]
            for rows in (slice(KINDS), slice(KINDS, None)) for columns in (slice(KINDS), slice(KINDS, None)))
        y = torch.matmul(self.even_even, even_even).flatten(1, 2).flatten(2)
        y = y + torch.matmul(self.both, torch.matmul(self.odd_odd, odd_odd).flatten(1, 2).flatten(2))
        y = y + torch.matmul(self.rows, torch.matmul(self.odd_even, odd_even).flatten(1, 2).flatten(2))
        y = y + torch.matmul(self.columns, torch.matmul(self.even_odd, even_odd).flatten(1, 2).flatten(2))
        return (y.unflatten(2, (*self.bias.shape[:2], -1)) + self.bias).unflatten(4, tiles)


def _analysis(size: int) -> Tensor:
    """What the products of one axis read: [kinds of odd pixels and the even pixels of a tile, tiles] x [size]."""
    _, _, before = toom_cook(PAIR, 2)
    analysis = np.zeros((KINDS + PAIR, size // (2 * PAIR), size))
    for tile in range(analysis.shape[1]):
        for position in range(KINDS):
            if (pixel := 2 * (PAIR * tile + position) - 1) > 0:
                analysis[:KINDS, tile, pixel] = before[:, position]
        for position in range(PAIR):
            analysis[KINDS + position, tile, 2 * (PAIR * tile + position)] = 1
    return torch.from_numpy(analysis.reshape(-1, size)).float()


class ParityConv(nn.Module):
    """A 3 x 3 convolution with stride two whose input is given by parity: [N, 4, I, H, W] -> [N, O, H, W]."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        taps = (slice(1, 2), slice(0, None, 2))  # of the even and of the odd pixels
        parts = [nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=parity == 0, device="meta") for parity in range(4)]
        for parity, part in enumerate(parts):
            part.weight = nn.Parameter(layer.weight[:, :, taps[parity // 2], taps[parity % 2]].detach().contiguous(), requires_grad=False)
        parts[0].bias = layer.bias
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor | None = None
        for parity, part in enumerate(self.parts):
            term = part(F.pad(x[:, parity], (parity % 2, 0, parity // 2, 0)) if parity else x[:, parity])
            y = term if y is None else y + term
        assert y is not None
        return y


class SharedStyles(nn.Module):
    """The style blocks of one level: [N, I, H, W] -> their rows of the latent code, [N, C] each."""

    def __init__(self, blocks: Sequence[StyleBlock], size: tuple[int, int]) -> None:
        super().__init__()
        first, second = ([block.convs[index] for block in blocks] for index in (0, 2))
        self.first = SharedFirstConv([layer for layer in first if isinstance(layer, nn.Conv2d)], size)
        self.activation = blocks[0].convs[1]
        self.second = nn.ModuleList(ParityConv(layer) for layer in second if isinstance(layer, nn.Conv2d))
        self.others = nn.ModuleList(block.convs[3:] for block in blocks)
        self.linear = nn.ModuleList(block.linear for block in blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = self.activation(self.first(x)).unbind(2)
        return [linear(others(second(part)).flatten(1))
                for part, second, others, linear in zip(parts, self.second, self.others, self.linear, strict=True)]


class CpuEncoder(nn.Module):
    """image -> latent, as `EncoderGraph`, whose batch norms are fused; `example` is an image of the size to come."""

    latent_avg: Tensor

    def __init__(self, graph: EncoderGraph, example: Tensor) -> None:
        super().__init__()
        encoder = arranged(graph.encoder, example)
        assert isinstance(encoder, Encoder)
        self.encoder = encoder
        constant(self, "latent_avg", graph.latent_avg)
        with torch.no_grad():
            sizes = [(level.shape[2], level.shape[3]) for level in self.encoder.pyramid(example)]
        blocks = [block for block in self.encoder.styles if isinstance(block, StyleBlock)]
        groups = (blocks[:COARSE_ROWS], blocks[COARSE_ROWS:MIDDLE_ROWS], blocks[MIDDLE_ROWS:])
        self.levels = nn.ModuleList(
            SharedStyles(group, size) if min(size) >= SHARING_FROM and not (size[0] % 4 or size[1] % 4) else nn.ModuleList(group)
            for group, size in zip(groups, sizes, strict=True))
        del self.encoder.styles

    def forward(self, image: Tensor) -> Tensor:
        rows: list[Tensor] = []
        for level, x in zip(self.levels, self.encoder.pyramid(image), strict=True):
            rows += level(x) if isinstance(level, SharedStyles) else [block(x) for block in level.children()]
        return torch.stack([rows[0], *(rows[0] + row for row in rows[1:])], 1) + self.latent_avg
