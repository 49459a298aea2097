"""e4e arranged for processors: the first two convolutions of the style blocks with fewer multiplications.

The style blocks of a level read the same feature, so their first convolutions are one with many outputs, whose input is transformed
once. A stride of two takes the odd pixels o by two taps and the even ones e by one, y[i] = w0 o[i - 1] + w1 e[i] + w2 o[i]: two
neighbouring outputs cost three products for o (Toom-Cook) and two for e instead of six; in two dimensions 25 instead of 36. The
outputs stay apart by parity, which is how the second convolution, of stride two as well, reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu_convolutions import arranged
from sdic_export.folded import constant
from sdic_export.graphs import EncoderGraph
from sdic_export.winograd import toom_cook
from sdic_train.networks.e4e import COARSE_ROWS, MIDDLE_ROWS, Encoder, StyleBlock

PAIR = 2  # outputs of a tile, per axis
EVEN = 3  # products of a tile's odd pixels, per axis; its even pixels follow them
KINDS = range(EVEN + PAIR)
COMMON = 1  # the product of odd pixels that both outputs need
OWN = ((0, EVEN), (2, EVEN + 1))  # what only the first and only the second output needs
Reads = dict[tuple[int, int], Tensor]  # by the kinds of row and column
SHARING_FROM = 32  # rows of the level; smaller ones have too little work


class SharedReads(nn.Module):
    """What the products of all convolutions with stride two over one input read: [N, I, H, W] -> by kinds, [N, I, H / 4, W / 4] each.

    Depthwise convolutions with a stride of one tile, from the pixel in front of it on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        _, _, before = toom_cook(PAIR, 2)
        taps = torch.zeros(len(KINDS), 2 * PAIR + 1)
        taps[:EVEN, ::2] = torch.from_numpy(before).float()
        taps[range(EVEN, EVEN + PAIR), range(1, 2 * PAIR, 2)] = 1
        lengths = [max(int(kind.nonzero().max()) + 1, 3) for kind in taps]  # three with a padding of one fit the tiles
        for row, column in product(KINDS, repeat=2):
            weight = torch.outer(taps[row, : lengths[row]], taps[column, : lengths[column]])
            constant(self, f"weight{row}{column}", weight.expand(channels, 1, -1, -1))

    def forward(self, x: Tensor) -> Reads:
        return {(row, column): F.conv2d(x, self.get_buffer(f"weight{row}{column}"), stride=2 * PAIR, padding=1, groups=x.shape[1])
                for row, column in product(KINDS, repeat=2)}


class FirstConv(nn.Module):
    """A 3 x 3 convolution with stride two and an activation: `SharedReads` -> four times [N, O, H / 4, W / 4].

    These are the outputs by the parity of row and column: (0, 0), (0, 1), (1, 0), (1, 1). Output i of an axis adds its own product of odd
    pixels, its even pixel, and the product that both outputs have in common. Products are pointwise convolutions and sums, which ONNX
    Runtime computes in each other's place.
    """

    ones: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        _, kernel, _ = toom_cook(PAIR, 2)
        assert layer.bias is not None
        # By kind of weight: the three of odd pixels, and the one tap that even pixels have.
        taps = torch.tensor([[first, 0, last] for first, last in kernel] + [[0, 1, 0]], dtype=torch.float64)
        weight = torch.einsum("ua,vb,oiab->uvoi", taps, taps, layer.weight.detach().double()).float()[..., None, None]
        for row, column in product(range(len(taps)), repeat=2):
            constant(self, f"weight{row}{column}", weight[row, column])
        constant(self, "ones", torch.ones(layer.out_channels, 1, 1, 1))
        constant(self, "bias", layer.bias)
        self.activation = activation

    def forward(self, reads: Reads) -> list[Tensor]:
        common = self._product(reads, COMMON, COMMON)
        columns = [self._sum(reads, [(COMMON, column) for column in own], common) for own in OWN]
        rows = [self._sum(reads, [(row, COMMON) for row in own]) for own in OWN]
        outputs = [self._sum(reads, product(OWN[row], OWN[column]), rows[row] + columns[column])
                   for row, column in product(range(PAIR), repeat=2)]
        return [self.activation(F.conv2d(x, self.ones, self.bias, groups=x.shape[1])) for x in outputs]

    def _sum(self, reads: Reads, kinds: Iterable[tuple[int, int]], total: Tensor | None = None) -> Tensor:
        for row, column in kinds:
            term = self._product(reads, row, column)
            total = term if total is None else term + total
        assert total is not None
        return total

    def _product(self, reads: Reads, row: int, column: int) -> Tensor:
        return F.conv2d(reads[row, column], self.get_buffer(f"weight{min(row, EVEN)}{min(column, EVEN)}"))


class ParityConv(nn.Module):
    """A 3 x 3 convolution with stride two whose input is given by parity: 4 times [N, I, H, W] -> [N, O, H, W]."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        taps = (slice(1, 2), slice(0, None, 2))  # of the even and of the odd pixels
        parts = [nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=parity == 0, device="meta") for parity in range(4)]
        for parity, part in enumerate(parts):
            part.weight = nn.Parameter(layer.weight[:, :, taps[parity // 2], taps[parity % 2]].detach().contiguous(), requires_grad=False)
        parts[0].bias = layer.bias
        self.parts = nn.ModuleList(parts)

    def forward(self, parities: Sequence[Tensor]) -> Tensor:
        y: Tensor | None = None
        for parity, (x, part) in enumerate(zip(parities, self.parts, strict=True)):
            term = part(F.pad(x, (parity % 2, 0, parity // 2, 0)) if parity else x)
            y = term if y is None else y + term
        assert y is not None
        return y


class SharedStyles(nn.Module):
    """The style blocks of one level: [N, I, H, W] -> their rows of the latent code, [N, C] each."""

    def __init__(self, blocks: Sequence[StyleBlock]) -> None:
        super().__init__()
        first, second = ([layer for block in blocks if isinstance(layer := block.convs[index], nn.Conv2d)] for index in (0, 2))
        self.reads = SharedReads(first[0].in_channels)
        self.first = nn.ModuleList(FirstConv(layer, blocks[0].convs[1]) for layer in first)
        self.second = nn.ModuleList(ParityConv(layer) for layer in second)
        self.others = nn.ModuleList(block.convs[3:] for block in blocks)
        self.linear = nn.ModuleList(block.linear for block in blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        reads = self.reads(x)
        return [linear(others(second(first(reads))).flatten(1))
                for first, second, others, linear in zip(self.first, self.second, self.others, self.linear, strict=True)]


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
            SharedStyles(group) if min(size) >= SHARING_FROM and not (size[0] % 4 or size[1] % 4) else nn.ModuleList(group)
            for group, size in zip(groups, sizes, strict=True))
        del self.encoder.styles

    def forward(self, image: Tensor) -> Tensor:
        rows: list[Tensor] = []
        for level, x in zip(self.levels, self.encoder.pyramid(image), strict=True):
            rows += level(x) if isinstance(level, SharedStyles) else [block(x) for block in level.children()]
        return torch.stack([rows[0], *(rows[0] + row for row in rows[1:])], 1) + self.latent_avg
