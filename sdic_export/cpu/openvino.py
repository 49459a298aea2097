"""SDIC's stages arranged for OpenVINO, in forms that were measured in bfloat16 (`OPENVINO` in `sdic_export.cpu.sdic`).

OpenVINO keeps the channels of a convolution last, runs whole pictures on all cores, and multiplies in bfloat16 what is no product with a
constant on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.dicn import cpu_dicn
from sdic_export.cpu.encoder import ODDS, PAIR, CpuEncoder, FirstProducts
from sdic_export.cpu.generator import BANDS_FROM
from sdic_export.cpu.head import WinogradStyledConv
from sdic_export.cpu.volume import PHASE_TAPS
from sdic_export.cpu.winograd import TAPS, TILE, WinogradConv2d, faster_form, toom_cook
from sdic_export.graphs.folded import FoldedStyledConv, FoldedToRGB, constant
from sdic_export.graphs.parts import EntranceGraph, LastPartGraph, PartGraph
from sdic_export.graphs.sdic import DICNGraph, EncoderGraph, FoldedBlock, PreviewGraph, TailGraph
from sdic_train.networks.e4e import Encoder, StyleBlock
from sdic_train.networks.sdic.dipn import DIPN

WINDOW = TILE + TAPS - 1  # pixels that a tile reads, per axis
OFFSETS = (-1, 1, 3, 0, 2)  # of the odd and of the even pixels that two outputs of a convolution with stride two read


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


class SharedFirstConvs(nn.Module):
    """K 3 x 3 convolutions with stride two over one input, each with 25 products for four outputs instead of 36 (see
    `sdic_export.cpu.encoder`): [N, I, H, W] -> K times [N, O, H / 2, W / 2], for H and W that are multiples of four."""

    pixels: Tensor
    analysis: Tensor
    both: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, layers: Sequence[nn.Conv2d], size: tuple[int, int]) -> None:
        super().__init__()
        after, _, before = toom_cook(PAIR, 2)
        self.tiles = (size[0] // (2 * PAIR), size[1] // (2 * PAIR))
        down, across = (2 * PAIR * torch.arange(tiles)[:, None] + torch.tensor(OFFSETS) for tiles in self.tiles)
        pixels = down.clamp(0)[:, None, :, None] * size[1] + across.clamp(0)[None, :, None]
        inside = (down >= 0)[:, None, :, None] & (across >= 0)[None, :, None]  # what lies outside is multiplied by zero
        kinds = np.zeros((len(OFFSETS), len(OFFSETS)))
        kinds[:ODDS, :ODDS], kinds[ODDS:, ODDS:] = before, np.eye(PAIR)
        constant(self, "pixels", pixels.flatten())
        constant(self, "analysis", (torch.from_numpy(np.kron(kinds, kinds)) * inside.flatten(2).flatten(0, 1)[:, None]).float())
        constant(self, "both", torch.from_numpy(np.kron(after, after)).float())
        # Of the kinds that mix: what was made by rows is ordered by (column, kind), by columns by (row, kind).
        constant(self, "rows", torch.from_numpy(np.einsum("pu,qr->pqru", after, np.eye(PAIR)).reshape(PAIR**2, -1)).float())
        constant(self, "columns", torch.from_numpy(np.kron(np.eye(PAIR), after)).float())
        self.products = nn.ModuleList(FirstProducts(layer) for layer in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        zero = 0 * x[:1, :1, :1, 0]  # see SeparateWinogradConv2d; these matrices are exact in bfloat16
        x = torch.index_select(x.permute(0, 2, 3, 1).flatten(1, 2), 1, self.pixels).unflatten(1, (-1, len(OFFSETS) ** 2))
        x = torch.matmul(self.analysis + zero, x).unflatten(2, (len(OFFSETS), len(OFFSETS)))
        odd, even = slice(0, ODDS), slice(ODDS, None)
        # Channels: kinds that have weights of their own, then inputs.
        reads = {
            "odd_odd": x[:, :, odd, odd].flatten(2, 3).unsqueeze(2),
            "odd_even": x[:, :, odd, even].transpose(2, 3),
            "even_odd": x[:, :, even, odd],
            "even_even": x[:, :, even, even].flatten(2, 3).unsqueeze(3),
        }
        reads = {name: read.flatten(3).permute(0, 3, 1, 2) for name, read in reads.items()}
        return [self._outputs(products, reads, zero) for products in self.products]

    def _outputs(self, products: nn.Module, reads: Mapping[str, Tensor], zero: Tensor) -> Tensor:
        made = {}
        for name, read in reads.items():
            weight = products.get_buffer(name)
            groups = weight.shape[:-2].numel()
            weight = weight.flatten(0, -2)[:, :, None, None]
            made[name] = F.conv2d(read, weight, groups=groups).permute(0, 2, 3, 1).unflatten(3, (groups, -1)).flatten(2, 3)
        y = made["even_even"] + torch.matmul(self.both + zero, made["odd_odd"])
        y = y + torch.matmul(self.rows + zero, made["odd_even"]) + torch.matmul(self.columns + zero, made["even_odd"])
        y = y + products.get_buffer("bias").flatten()
        return y.unflatten(2, (PAIR, PAIR)).unflatten(1, self.tiles).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class SharedStyleBlocks(nn.Module):
    """The style blocks of one level: [N, I, H, W] -> their rows of the latent code, [N, C] each."""

    def __init__(self, blocks: Sequence[StyleBlock], size: tuple[int, int]) -> None:
        super().__init__()
        self.first = SharedFirstConvs([layer for block in blocks if isinstance(layer := block.convs[0], nn.Conv2d)], size)
        self.others = nn.ModuleList(block.convs[1:] for block in blocks)
        self.linear = nn.ModuleList(block.linear for block in blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [linear(others(part).flatten(1)) for part, others, linear in zip(self.first(x), self.others, self.linear, strict=True)]


class OpenVinoEncoder(CpuEncoder):
    """image -> latent, as `EncoderGraph`."""

    sharing = SharedStyleBlocks

    @staticmethod
    def arranged(encoder: Encoder, example: Tensor) -> Encoder:
        return encoder


def openvino_encoder(graph: EncoderGraph, *example: Tensor) -> list[nn.Module] | None:
    """image -> latent; None where no level is large enough. See `sdic_export.methods.Arrange`."""
    encoder = OpenVinoEncoder(graph, *example)
    return None if all(isinstance(level, nn.ModuleList) for level in encoder.levels) else [encoder]


def openvino_generator(graph: TailGraph | PreviewGraph, *example: Tensor) -> list[nn.Module] | None:
    """A stage that begins behind layer 7; None where no layer gains. See `sdic_export.methods.Arrange`."""
    parents = [graph, *(block for block in graph.blocks if isinstance(block, FoldedBlock))]
    if not any(_by_winograd(parent.conv) for parent in parents):
        return None
    for parent in parents:
        if not _arrange_conv(parent):  # what Winograd's algorithm gives has its channels first
            parent.to_rgb = LastToRGB(parent.to_rgb)  # type: ignore[assignment]
    return [graph]


def openvino_entrance(graph: EntranceGraph, *example: Tensor) -> list[nn.Module] | None:
    """The first part of the tail with the arithmetic of `openvino_generator`; None where that is the standard one. See
    `sdic_export.methods.Arrange`."""
    return [graph] if graph.size >= BANDS_FROM and _arrange_conv(graph) else None


def openvino_part(graph: PartGraph, *example: Tensor) -> list[nn.Module] | None:
    """Another part, likewise, so that an edit that begins with it has the numbers of a whole one. See `sdic_export.methods.Arrange`."""
    if graph.resolution < BANDS_FROM:
        return None
    if _arrange_conv(graph.block):
        return [graph]
    if not isinstance(graph, LastPartGraph):
        return None
    graph.block.to_rgb = LastToRGB(graph.block.to_rgb)  # type: ignore[assignment]
    return [graph]


def _arrange_conv(parent: Any) -> bool:
    """Give the second layer of a size the form of `openvino_generator`; whether that is another one."""
    if not _by_winograd(parent.conv):
        return False
    parent.conv = WinogradStyledConv(parent.conv, SeparateWinogradConv2d)
    return True


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
