"""A volume as a list of slices [N, C, H, W], for its finest scale: nothing leaves the layout of ONNX Runtime's convolutions.

One slice fits a core's cache, and ONNX Runtime keeps blocks of channels together (NCHWc) for as long as nothing but convolutions, sums
and products of slices follow each other. Factors are depthwise 1 x 1 convolutions, into which it fuses the sum with another slice or a
leaky ReLU; a leaky ReLU behind a sum needs such a convolution of its own, which then also brings the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.volume import (
    PHASES,
    SLOPE,
    PlainConv,
    basic,
    convolution,
    interleaved,
    parameters,
    phase_of,
    shifted,
    slice_parameters,
)
from sdic_export.cpu.winograd import toom_cook
from sdic_export.graphs.folded import constant
from sdic_train.networks.sdic.dipn import ContextFusion

TILE = 4  # outputs along the depth; longer tiles need more passes over slices than they save
TAPS = 3
BLOCK = 16  # channels of a block with AVX-512; others are padded


class Finish(nn.Module):
    """A factor, a bias [C] and a leaky ReLU, in one pass over a slice."""

    factor: Tensor
    bias: Tensor

    def __init__(self, bias: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        constant(self, "factor", torch.full((len(bias), 1, 1, 1), factor))
        constant(self, "bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(x, self.factor, self.bias, groups=x.shape[1]), SLOPE)


class Multiple(nn.Module):
    """a + factor * b of two slices; one that is missing is zero."""

    factor: Tensor

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        self.is_one = factor == 1
        constant(self, "factor", torch.full((channels, 1, 1, 1), float(factor)))

    def forward(self, a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if b is not None and not self.is_one:
            b = F.conv2d(b, self.factor, groups=b.shape[1])
        return b if a is None else a if b is None else b + a


class StemSlices(nn.Module):
    """The stem and the first halving: [N, D, H, W] -> D/2 slices [N, O, H/2, W/2].

    The stem makes pairs of slices 2j and 2j + 1 from four slices of its input. Output j reads pair j and the second slice of pair
    j - 1.
    """

    stem: Tensor
    stem_bias: Tensor
    weight: Tensor
    carried: Tensor

    def __init__(self, stem: nn.Module, stride: nn.Module, depth: int) -> None:
        super().__init__()
        self.pairs = depth // 2
        weight, bias = parameters(stem)  # [C, 1, 3, 3, 3]
        weight = weight.squeeze(1)
        constant(self, "stem", torch.cat((F.pad(weight, (0, 0, 0, 0, 0, 1)), F.pad(weight, (0, 0, 0, 0, 1, 0)))))
        constant(self, "stem_bias", bias.repeat(2))
        weight, bias = parameters(stride)  # [O, C, 3, 3, 3]
        before, first, second = weight.unbind(2)
        constant(self, "weight", torch.cat((first, second), 1))
        constant(self, "carried", torch.cat((torch.zeros_like(before), before), 1))
        self.finish = Finish(bias)

    def forward(self, volume: Tensor) -> list[Tensor]:
        volume = F.pad(volume, (0, 0, 0, 0, 1, 1))
        slices: list[Tensor] = []
        carried: Tensor | None = None
        for index in range(self.pairs):
            pair = F.conv2d(volume[:, 2 * index : 2 * index + 4], self.stem, self.stem_bias, padding=1)
            pair = F.leaky_relu(pair, SLOPE)
            x = F.conv2d(pair, self.weight, stride=2, padding=1)
            slices.append(self.finish(x if carried is None else x + carried))
            if index + 1 < self.pairs:
                carried = F.conv2d(pair, self.carried, stride=2, padding=1)
        return slices


class StrideSlices(nn.Module):
    """A 3 x 3 x 3 convolution with stride two and a leaky ReLU: D slices -> [N * D/2, O, H/2, W/2]."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        weight, bias = parameters(conv)
        for tap in range(TAPS):
            constant(self, f"weight{tap}", weight[:, :, tap])
        self.finish = Finish(bias)

    def forward(self, slices: Sequence[Tensor]) -> Tensor:
        outputs = [self.finish(self._output(slices, first)) for first in range(-1, len(slices) - 1, 2)]
        return torch.stack(outputs, 1).flatten(0, 1)

    def _output(self, slices: Sequence[Tensor], first: int) -> Tensor:
        terms = [
            F.conv2d(slices[first + tap], self.get_buffer(f"weight{tap}"), stride=2, padding=1)
            for tap in range(TAPS)
            if 0 <= first + tap < len(slices)
        ]
        return _sum(terms)


class DepthSlices(nn.Module):
    """A 3 x 3 x 3 convolution with stride one and a leaky ReLU, Toom-Cook's for four slices at a time.

    The evaluation points are 0, p, -p, q, -q and infinity. What two opposite points read is e + o and e - o, with e from even and o from
    odd positions, and of their products the even outputs need the sum, the odd ones the difference.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        weight, bias = parameters(conv)
        outputs, inputs = weight.shape[:2]
        after, kernel, before = toom_cook(TILE, TAPS)
        scales = before[range(TILE + TAPS - 1), (0, 4, 4, 4, 4, 5)].copy()  # what stands in front of the slice that is taken as it is
        kernel, before = kernel * scales[:, None], before / scales[:, None]
        # Output i adds the products of a point times its i-th power; the powers of p are left to the end, those of infinity go there too.
        powers = [float(after[index, 1]) for index in range(TILE)]
        kernel[5] /= powers[3]
        for index, matrix in enumerate(torch.einsum("uk,ockyx->uocyx", torch.from_numpy(kernel), weight.double()).float()):
            constant(self, f"weight{index}", matrix)
        self.ends = nn.ModuleList(
            Multiple(inputs, float(before[row, column])) for row, columns in ((0, (2, 0)), (5, (3, 1))) for column in columns
        )
        self.evens = nn.ModuleList(Multiple(inputs, float(before[row, 2])) for row in (1, 3))
        self.odds = nn.ModuleList(Multiple(inputs, float(before[row, 1] / before[row, 3])) for row in (1, 3))
        self.sums = nn.ModuleList(Multiple(inputs, float(before[row, 3])) for row in (1, 2, 3, 4))
        self.plus, self.minus = Multiple(outputs, 1), Multiple(outputs, -1)
        self.joins = nn.ModuleList(Multiple(outputs, float(after[index, 3] / after[index, 1])) for index in range(TILE))
        self.finishes = nn.ModuleList(Finish(bias, power) for power in powers)

    def forward(self, slices: Sequence[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        for first in range(0, len(slices), TILE):
            read = [slices[index] if 0 <= index < len(slices) else None for index in range(first - 1, first + TILE + 1)]
            outputs += self._tile(read, min(TILE, len(slices) - first))
        return outputs

    def _tile(self, d: Sequence[Tensor | None], count: int) -> list[Tensor]:
        even = [multiple(d[4], d[2]) for multiple in self.evens]
        odd = [multiple(d[3], d[1]) for multiple in self.odds]
        at_zero = self.ends[1](self.ends[0](d[4], d[2]), d[0])
        sums, differences = [], []
        for pair in range(2):
            one, other = (self._product(1 + 2 * pair + sign, self.sums[2 * pair + sign](even[pair], odd[pair])) for sign in range(2))
            sums.append(self.plus(one, other))
            differences.append(self.minus(one, other))
        outputs = [join(*(sums, differences)[index % 2]) for index, join in zip(range(count), self.joins, strict=False)]
        outputs[0] = _plus(self._product(0, at_zero), outputs[0])
        if count == TILE:
            outputs[3] = _plus(self._product(5, self.ends[3](self.ends[2](d[5], d[3]), d[1])), outputs[3])
        return [finish(x) for finish, x in zip(self.finishes, outputs, strict=False)]

    def _product(self, kind: int, x: Tensor | None) -> Tensor | None:
        return None if x is None else F.conv2d(x, self.get_buffer(f"weight{kind}"), padding=1)


class JoinSlices(nn.Module):
    """`aggregate`: a 1 x 1 x 1 convolution of two volumes, [N * D, C, H, W] and D slices, concatenated, and two 3 x 3 x 3 ones."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        point, *convs = layers
        weight, bias = parameters(point)
        constant(self, "weight", torch.cat(weight.squeeze(2).chunk(2, 1)[::-1], 1))
        constant(self, "bias", bias)
        self.convs = nn.Sequential(*(DepthSlices(conv) for conv in convs))

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> list[Tensor]:
        # Behind the skip: ONNX Runtime fuses sums of slices where it knows that their batch axes are equal, and reshaping hides that of x.
        slices = x.unflatten(0, (-1, len(skips))).unbind(1)
        return self.convs([self._joined(torch.cat((skip, part), 1)) for part, skip in zip(slices, skips, strict=True)])

    def _joined(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(x, self.weight, self.bias), SLOPE)


class FusionSlices(nn.Module):
    """Eq. 1 and 2 slice by slice: slices [N, V, H, W], context [N, X, H, W] -> slices."""

    def __init__(self, fusion: ContextFusion, height: int) -> None:
        super().__init__()
        first, last = fusion.att
        self.semantic = fusion.semantic
        self.attend, self.aggregate = (convolution(*slice_parameters(basic(block).conv), height) for block in (first, fusion.agg))
        self.scale = PlainConv(*slice_parameters(last), torch.sigmoid)

    def forward(self, slices: Sequence[Tensor], context: Tensor) -> list[Tensor]:
        context = self.semantic(context)
        return [self.aggregate(self.scale(self.attend(context + x)) * context + x) for x in slices]


class DoublingSlices(nn.Module):
    """A transposed 4 x 4 x 4 convolution to one channel, without activation: D slices [N, I, H, W] -> [N, 2D, 2H, 2W].

    One 2D convolution computes what each slice adds to the four output slices around it, at all four positions.
    """

    weight: Tensor

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        weight, _ = parameters(conv)  # [I, 1, 4, 4, 4], without a bias
        kernels = weight.squeeze(1).permute(1, 0, 2, 3)  # depth taps first
        constant(self, "weight", torch.stack([phase_of(kernels, row, column) for row, column in PHASES], 1).flatten(0, 1))

    def forward(self, slices: Sequence[Tensor]) -> Tensor:
        x = torch.stack([F.conv2d(part, self.weight, padding=1) for part in slices], 1)  # [N, D, 16, H + 1, W + 1]
        height, width = x.shape[3] - 1, x.shape[4] - 1
        x = x.unflatten(2, (4, 4))
        even, odd = x[:, :, 1] + shifted(x[:, :, 3], 1), x[:, :, 2] + shifted(x[:, :, 0], -1)
        doubled = [
            interleaved([part[:, :, index, row : row + height, column : column + width] for index, (row, column) in enumerate(PHASES)])
            for part in (even, odd)
        ]
        return torch.stack(doubled, 2).flatten(1, 2)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = term + total
    return total
