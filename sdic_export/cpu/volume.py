"""Convolutions over a volume, and transposed ones, as 2D convolutions and matrix products.

ONNX Runtime's 3D convolutions copy every window into a matrix, on one core, and so do its transposed ones; its 2D convolutions read the
picture where it lies, in blocks of channels. A volume is therefore kept as [N * D, C, H, W], and what happens along the depth D becomes
matrix products and more channels: a 3 x 3 x 3 convolution needs 8 multiplications for 6 slices instead of 18 (Toom-Cook, see
`sdic_export.cpu.winograd`), one with stride two joins slices to pairs, and a transposed one becomes a convolution for each position of an
output pixel between the input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.winograd import POINTS, TAPS, faster_form, toom_cook
from sdic_export.graphs.folded import constant
from sdic_train.networks.layers import BasicConv

SLOPE = 0.01  # of the discrepancy networks' leaky ReLU
# A transposed convolution with kernel 4, stride 2 and padding 1: the taps that make output 2j read the inputs j - 1 and j, those of
# output 2j + 1 read j and j + 1.
PHASE_TAPS = ((3, 1), (2, 0))
PHASES = tuple((row, column) for row in range(2) for column in range(2))


class PairConv(nn.Module):
    """A 3 x 3 x 3 convolution with stride two and a leaky ReLU: [N * D, C, H, W] -> [N * D/2, O, H/2, W/2].

    Output j reads the slices 2j and 2j + 1, which are pair j, and 2j - 1, the second slice of pair j - 1: its part is computed at
    pair j - 1 and added one slice further on.
    """

    weight: Tensor
    bias: Tensor
    carried: Tensor

    def __init__(self, conv: nn.Module, depth: int) -> None:
        super().__init__()
        self.pairs = depth // 2
        weight, bias = parameters(conv)  # [O, C, 3, 3, 3]
        before, first, second = weight.unbind(2)
        constant(self, "weight", torch.cat((first, second), 1))
        constant(self, "carried", torch.cat((torch.zeros_like(before), before), 1))
        constant(self, "bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.reshape(-1, self.weight.shape[1], *x.shape[2:])
        x = F.conv2d(pairs, self.weight, self.bias, stride=2, padding=1).unflatten(0, (-1, self.pairs))
        carried = F.conv2d(pairs, self.carried, stride=2, padding=1).unflatten(0, (-1, self.pairs))
        return leaky(x + shifted(carried, 1)).flatten(0, 1)


class Depth(nn.Module):
    """Toom-Cook's transforms along the depth of a volume, for one or more convolutions whose outputs alternate.

    `analysis`: [N * D, C, H, W] -> [N * tiles, groups * C, H, W]; `synthesis`: the products [N * tiles, groups * O, H, W] -> a leaky
    ReLU of the sums, [N * D * len(starts), O, H, W]. Convolution i reads `taps` slices, from output + starts[i] on.
    """

    matrix_in: Tensor
    matrix_out: Tensor

    def __init__(self, depth: int, taps: int, starts: Sequence[int]) -> None:
        super().__init__()
        matrix_a, kernel, matrix_b = (torch.from_numpy(matrix) for matrix in toom_cook(_tile(depth, taps), taps))
        tile, products = matrix_a.shape
        self.inputs, self.outputs = depth, depth * len(starts)
        self.tiles, self.groups, self.kernel = -(-depth // tile), products * len(starts), kernel
        self.shares = torch.linalg.pinv(matrix_a).sum(1).repeat(len(starts))  # of the bias: one in every output
        matrix_in = torch.zeros(self.tiles, len(starts), products, depth, dtype=torch.float64)
        matrix_out = torch.zeros(tile, len(starts), len(starts), products, dtype=torch.float64)
        for index, start in enumerate(starts):
            matrix_out[:, index, index] = matrix_a
            for first in range(self.tiles):
                for position in range(products):
                    if 0 <= tile * first + start + position < depth:
                        matrix_in[first, index, :, tile * first + start + position] = matrix_b[:, position]
        constant(self, "matrix_in", matrix_in.flatten(0, 2).float())
        constant(self, "matrix_out", matrix_out.flatten(2).flatten(0, 1).float())

    def analysis(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        x = torch.matmul(self.matrix_in, x.reshape(-1, self.inputs, channels * height * width))
        return x.reshape(-1, self.groups * channels, height, width)

    def synthesis(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1] // self.groups, *x.shape[2:]
        x = leaky(torch.matmul(self.matrix_out, x.reshape(-1, self.groups, channels * height * width)))
        if self.tiles * x.shape[1] != self.outputs:
            x = x.reshape(-1, self.tiles * x.shape[1], x.shape[2])[:, : self.outputs]
        return x.reshape(-1, channels, height, width)

    def products_of(self, weights: Sequence[Tensor], bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the grouped 2D convolution; one weight [O, I, taps, K, K] for each of `starts`, bias [O]."""
        weight = torch.cat([torch.einsum("uk,ockyx->uocyx", self.kernel, weight.double()) for weight in weights])
        return weight.flatten(0, 1).float(), torch.outer(self.shares, bias.double()).flatten().float()


class DepthConv(nn.Module):
    """A 3 x 3 x 3 convolution with stride one and a leaky ReLU: [N * D, C, H, W] -> [N * D, O, H, W]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Module, depth: int) -> None:
        super().__init__()
        self.depth = Depth(depth, 3, (-1,))
        weight, bias = self.depth.products_of([parameters(conv)[0]], parameters(conv)[1])
        constant(self, "weight", weight)
        constant(self, "bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.depth.analysis(x), self.weight, self.bias, padding=1, groups=self.depth.groups)
        return self.depth.synthesis(x)


class RowConv(nn.Module):
    """A K x K convolution with stride one and a leaky ReLU, Toom-Cook's along the rows: [N, I, H, W] -> [N, O, H, W]."""

    matrix_in: Tensor
    matrix_out: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, height: int) -> None:
        super().__init__()
        self.taps = weight.shape[-1]
        matrix_a, matrix_g, matrix_b = (torch.from_numpy(matrix) for matrix in toom_cook(_tile(height, self.taps), self.taps))
        tile, self.products = matrix_a.shape
        self.tiles = -(-height // tile)
        matrix_in = torch.zeros(self.products, self.tiles, height, dtype=torch.float64)
        matrix_out = torch.zeros(tile * self.tiles, self.products, self.tiles, dtype=torch.float64)
        for index in range(self.tiles):
            matrix_out[tile * index : tile * (index + 1), :, index] = matrix_a
            for position in range(self.products):
                if 0 <= tile * index + position - self.taps // 2 < height:
                    matrix_in[:, index, tile * index + position - self.taps // 2] = matrix_b[:, position]
        constant(self, "matrix_in", matrix_in.flatten(0, 1).float())
        constant(self, "matrix_out", matrix_out[:height].flatten(1).float())
        constant(self, "weight", torch.einsum("uk,ockx->uocx", matrix_g, weight.double()).flatten(0, 1)[:, :, None].float())
        constant(self, "bias", torch.outer(torch.linalg.pinv(matrix_a).sum(1), bias.double()).flatten().float())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.matrix_in, x).unflatten(2, (self.products, self.tiles)).transpose(1, 2).flatten(1, 2)
        x = F.conv2d(x, self.weight, self.bias, padding=(0, self.taps // 2), groups=self.products)
        x = x.unflatten(1, (self.products, -1)).transpose(1, 2).flatten(2, 3)
        return leaky(torch.matmul(self.matrix_out, x))


class PlainConv(nn.Module):
    """A convolution with stride one that keeps the size, and an activation."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        constant(self, "weight", weight)
        constant(self, "bias", bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2))


class WinogradConv(nn.Module):
    """A 3 x 3 convolution with stride one and a leaky ReLU in a form of `sdic_export.cpu.winograd`."""

    bias: Tensor

    def __init__(self, convolution: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.convolution = convolution
        constant(self, "bias", bias[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return leaky(self.convolution(x) + self.bias)


class Phases(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1): [N, I, H, W] -> [N, O, 2H, 2W].

    Each of the four positions of an output pixel between the input pixels has a 2 x 2 convolution of its own.
    """

    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, groups: int = 1, activation: bool = True) -> None:
        """weight [O, I / groups, 4, 4]: output channels first, as in a convolution."""
        super().__init__()
        self.groups, self.activation = groups, activation
        for row, column in PHASES:
            constant(self, f"weight{row}{column}", phase_of(weight, row, column))
        constant(self, "bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return interleaved([self._conv(x, row, column) for row, column in PHASES])

    def _conv(self, x: Tensor, row: int, column: int) -> Tensor:
        padded = F.pad(x, (1 - column, column, 1 - row, row))
        x = F.conv2d(padded, self.get_buffer(f"weight{row}{column}"), self.bias, groups=self.groups)
        return leaky(x) if self.activation else x


class DepthDoubling(nn.Module):
    """A transposed 4 x 4 x 4 convolution (stride 2, padding 1) and a leaky ReLU: [N * D, I, H, W] -> [N * 2D, O, 2H, 2W].

    Even and odd output slices are convolutions by two taps along the depth.
    """

    def __init__(self, conv: nn.Module, depth: int) -> None:
        super().__init__()
        weight, bias = parameters(conv)  # [I, O, 4, 4, 4]
        self.depth = Depth(depth, 2, (-1, 0))
        weights = [weight[:, :, taps].transpose(0, 1) for taps in PHASE_TAPS]
        self.phases = Phases(*self.depth.products_of(weights, bias), groups=self.depth.groups, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.depth.synthesis(self.phases(self.depth.analysis(x)))


def convolution(weight: Tensor, bias: Tensor, height: int) -> nn.Module:
    """A convolution with stride one and a leaky ReLU in the form that costs less for pictures of this height, and as wide."""
    outputs, inputs, taps, _ = weight.shape
    if taps == TAPS:
        form = faster_form(inputs, outputs, height)
        return PlainConv(weight, bias, leaky) if form is None else WinogradConv(form(weight, (height, height)), bias)
    tile = _tile(height, taps)
    rows = -(-height // tile) * (tile + taps - 1)
    transforms = rows * (inputs + outputs) * (2 * height + 40)  # matrix products at half the speed, and the passes around them
    pays = inputs * outputs * taps * rows + transforms < inputs * outputs * taps**2 * height
    return RowConv(weight, bias, height) if pays else PlainConv(weight, bias, leaky)


def leaky(x: Tensor) -> Tensor:
    """The leaky ReLU of the discrepancy networks."""
    return F.leaky_relu(x, SLOPE)


def _tile(size: int, taps: int) -> int:
    """Outputs of a Toom-Cook tile for which `size` outputs need the fewest products."""
    tiles = [points + 2 - taps for points in POINTS if points + 2 > taps]
    return min(tiles, key=lambda tile: (-(-size // tile) * (tile + taps - 1), tile))


def phase_of(weight: Tensor, row: int, column: int) -> Tensor:
    """The 2 x 2 kernel [..., 2, 2] at one position of an output pixel, of kernels [..., 4, 4]."""
    return weight[..., PHASE_TAPS[row], :][..., PHASE_TAPS[column]]


def shifted(volume: Tensor, slices: int) -> Tensor:
    """[N, D, C, H, W] moved along the depth; zeros come in."""
    return F.pad(volume, (0, 0, 0, 0, 0, 0, slices, -slices))


def interleaved(phases: Sequence[Tensor]) -> Tensor:
    """The four positions of PHASES, [..., H, W] each -> [..., 2H, 2W]."""
    rows = [torch.stack(tuple(phases[index : index + 2]), -1).flatten(-2) for index in (0, 2)]
    return torch.stack(rows, -2).flatten(-3, -2)


def parameters(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution; zeros where it has none."""
    assert isinstance(conv, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
    return conv.weight.detach(), bias.detach()


def slice_parameters(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [O, I, K, K] and bias of a convolution that stays within a slice, 1 x K x K."""
    weight, bias = parameters(conv)
    return weight.squeeze(2), bias


def basic(block: nn.Module) -> BasicConv:
    """`block`, which is known to be a `BasicConv`."""
    assert isinstance(block, BasicConv)
    return block
