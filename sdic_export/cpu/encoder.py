"""e4e optimized for CPUs: the first two convolutions of the style blocks with fewer multiplications.

The style blocks of a level read the same feature, so their first convolutions are one with many outputs, whose input is transformed
once. A stride of two takes the odd pixels o by two taps and the even ones e by one, y[i] = w0 o[i - 1] + w1 e[i] + w2 o[i]: two
neighbouring outputs cost three products for o (Toom-Cook) and two for e instead of six; in two dimensions 25 instead of 36. The
outputs stay apart by parity, which is how the second convolution, of stride two as well, reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.convolutions import optimized
from sdic_export.cpu.mapped import MappedConv
from sdic_export.cpu.winograd import toom_cook
from sdic_export.graphs.folded import constant
from sdic_export.graphs.sdic import EncoderGraph
from sdic_train.networks.e4e import Encoder, StyleBlock

PAIR = 2  # outputs of a tile, per axis
ODDS = 3  # products of a tile's odd pixels, per axis
KINDS = {"odd": slice(0, ODDS), "even": slice(ODDS, ODDS + PAIR)}
SHARING_FROM = 32  # rows of the level; smaller ones have too little work


class SharedFirstConv(nn.Module):
    """K 3 x 3 convolutions with stride two over one input: [N, I, H, W] -> K times [N, 4, O, H / 4, W / 4].

    The second axis is the parity of the output's row and column: (0, 0), (0, 1), (1, 0), (1, 1).
    """

    both: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, layers: Sequence[nn.Conv2d], size: tuple[int, int]) -> None:
        super().__init__()
        after, _, _ = toom_cook(PAIR, 2)
        for name, kinds in KINDS.items():
            constant(self, f"{name}_rows", _analysis(size[0])[kinds].flatten(0, 1))
            constant(self, f"{name}_columns", _analysis(size[1])[kinds].flatten(0, 1).T)
        constant(self, "both", torch.from_numpy(np.kron(after, after)).float())
        constant(self, "rows", torch.from_numpy(np.kron(after, np.eye(PAIR))).float())
        constant(self, "columns", torch.from_numpy(np.kron(np.eye(PAIR), after)).float())
        self.products = nn.ModuleList(FirstProducts(layer) for layer in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        tiles = tuple(side // (2 * PAIR) for side in x.shape[2:])
        outputs, reads = [], self._reads(x)
        for products in self.products:  # one after the other: caches hold the products of a layer
            odd_odd, odd_even, even_odd, even_even = products(reads)
            y = even_even + torch.matmul(self.both, odd_odd) + torch.matmul(self.rows, odd_even) + torch.matmul(self.columns, even_odd)
            outputs.append((y.unflatten(2, (-1, tiles[0] * tiles[1])) + products.bias).unflatten(3, tiles))
        return outputs

    def _reads(self, x: Tensor) -> list[Tensor]:
        """What the products of the kinds of rows and columns read, [N, kinds of rows, kinds of columns, I, tiles] each."""
        columns = [torch.matmul(x, self.get_buffer(f"{name}_columns")) for name in KINDS]
        reads = [torch.matmul(self.get_buffer(f"{name}_rows"), part) for name in KINDS for part in columns]
        counts = [kinds.stop - kinds.start for kinds in KINDS.values()]
        return [
            part.unflatten(3, (across, -1)).unflatten(2, (down, -1)).permute(0, 2, 4, 1, 3, 5).flatten(4)
            for part, (down, across) in zip(reads, product(counts, counts), strict=True)
        ]


class FirstProducts(nn.Module):
    """The products of one convolution, each kind [N, products, O * tiles]."""

    bias: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        _, kernel, _ = toom_cook(PAIR, 2)
        assert layer.bias is not None
        weight, odd, taps = layer.weight.detach().double(), torch.from_numpy(kernel), slice(None, None, 2)
        constant(self, "odd_odd", torch.einsum("ua,vb,oiab->uvoi", odd, odd, weight[..., taps, taps]).float())
        constant(self, "odd_even", torch.einsum("ua,oia->uoi", odd, weight[..., taps, 1])[:, None].float())
        constant(self, "even_odd", torch.einsum("vb,oib->voi", odd, weight[..., 1, taps]).float())
        constant(self, "even_even", weight[..., 1, 1].float())
        constant(self, "bias", layer.bias[:, None])

    def forward(self, reads: Sequence[Tensor]) -> list[Tensor]:
        names = (f"{rows}_{columns}" for rows in KINDS for columns in KINDS)
        return [torch.matmul(self.get_buffer(name), read).flatten(1, 2).flatten(2) for name, read in zip(names, reads, strict=True)]


def _analysis(size: int) -> Tensor:
    """What the products of one axis read: [kinds of odd pixels and the even pixels of a tile, tiles, size]."""
    _, _, before = toom_cook(PAIR, 2)
    analysis = np.zeros((ODDS + PAIR, size // (2 * PAIR), size))
    for tile in range(analysis.shape[1]):
        for position in range(ODDS):
            if (pixel := 2 * (PAIR * tile + position) - 1) > 0:
                analysis[:ODDS, tile, pixel] = before[:, position]
        for position in range(PAIR):
            analysis[ODDS + position, tile, 2 * (PAIR * tile + position)] = 1
    return torch.from_numpy(analysis).float()


class ParityConv(nn.Module):
    """A 3 x 3 convolution with stride two whose input is given by parity: 4 times [N, I, H, W] -> [N, O, H, W]."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        taps = (slice(1, 2), slice(0, None, 2))  # of the even and of the odd pixels
        parts = [nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=parity == 0, device="meta") for parity in range(4)]
        for parity, part in enumerate(parts):
            part.weight = nn.Parameter(layer.weight[:, :, taps[parity // 2], taps[parity % 2]].detach().contiguous(), requires_grad=False)
        parts[0].bias = layer.bias
        self.parts = nn.ModuleList(map(MappedConv, parts))

    def forward(self, parities: Sequence[Tensor]) -> Tensor:
        y: Tensor | None = None
        for parity, (x, part) in enumerate(zip(parities, self.parts, strict=True)):
            term = part(F.pad(x, (parity % 2, 0, parity // 2, 0)) if parity else x)
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
        return [
            linear(others(second(self.activation(part).unbind(1))).flatten(1))
            for part, second, others, linear in zip(self.first(x), self.second, self.others, self.linear, strict=True)
        ]


def cpu_encoder(graph: EncoderGraph, *example: Tensor) -> list[nn.Module]:
    """image -> latent. See `sdic_export.methods.Arrange`."""
    return [CpuEncoder(graph, *example)]


class CpuEncoder(nn.Module):
    """image -> latent, as `EncoderGraph`, whose batch norms are fused; `example` is an image of the size to come."""

    latent_avg: Tensor
    encoder: Encoder
    sharing: ClassVar[Callable[..., nn.Module]] = SharedStyles  # (blocks of a level, its size) -> what computes them together

    def __init__(self, graph: EncoderGraph, example: Tensor) -> None:
        super().__init__()
        self.encoder = self.arranged(graph.encoder, example)
        constant(self, "latent_avg", graph.latent_avg)
        with torch.no_grad():
            sizes = [(level.shape[2], level.shape[3]) for level in self.encoder.pyramid(example)]
        blocks = [block for block in self.encoder.styles if isinstance(block, StyleBlock)]
        groups = [[block for row, block in enumerate(blocks) if self.encoder.level(row) == level] for level in range(len(sizes))]
        self.levels = nn.ModuleList(
            self.sharing(group, size) if min(size) >= SHARING_FROM and not (size[0] % 4 or size[1] % 4) else nn.ModuleList(group)
            for group, size in zip(groups, sizes, strict=True)
        )
        del self.encoder.styles

    @staticmethod
    def arranged(encoder: Encoder, example: Tensor) -> Encoder:
        """What is in front of the style blocks."""
        return optimized(encoder, example)

    def forward(self, image: Tensor) -> Tensor:
        return self.offsets(image) + self.latent_avg

    def offsets(self, image: Tensor) -> Tensor:
        """What `Encoder` gives."""
        rows: list[Tensor] = []
        for level, x in zip(self.levels, self.encoder.pyramid(image), strict=True):
            rows += [block(x) for block in level] if isinstance(level, nn.ModuleList) else level(x)
        if self.encoder.config.encoder.form == "e4e":
            rows[1:] = [rows[0] + row for row in rows[1:]]
        return torch.stack(rows, 1)
