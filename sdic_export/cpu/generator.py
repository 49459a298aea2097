"""The generator behind layer 7 in bands of rows that run side by side, its middle layers by Winograd's algorithm.

ONNX Runtime spreads convolutions over the cores, but not the copies between layouts. Bands of the picture that know the few rows of
their neighbours which they need run on a core each from end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.cpu.volume import PHASES
from sdic_export.cpu.winograd import faster_form
from sdic_export.graphs.folded import FoldedStyledConv, FoldedToRGB, constant
from sdic_export.graphs.sdic import FoldedBlock, PreviewGraph, SampledConv, TailGraph
from sdic_export.graphs.sfe import SuffixGraph
from sdic_train.networks.layers import LEAKY_SLOPE

Entrance: TypeAlias = TailGraph | PreviewGraph  # begin behind layer 7
Tail: TypeAlias = TailGraph | SuffixGraph  # the latter begins one layer later
BANDS = 2  # of rows; each runs on a core or a share of the cores, and reads some rows of its neighbours
BANDS_FROM = 512  # rows of the generator's picture; smaller ones are not worth the neighbours' rows
STRIPED_FROM = 512  # rows of a block's picture; the tensors of larger blocks are kept in caches by computing it in strips
STRIP_ROWS = 43  # tensors of 5.6 MB in the released blocks of 512 and 1024, instead of 67 and 134


@dataclass(frozen=True)
class Rows:
    """The rows `first` to `last` - 1 of a picture with `size` rows."""

    first: int
    last: int
    size: int

    def __len__(self) -> int:
        return self.last - self.first

    def widened(self, above: int, below: int) -> Rows:
        """With some rows more on both sides, as far as the picture goes."""
        return Rows(max(self.first - above, 0), min(self.last + below, self.size), self.size)

    def within(self, other: Rows) -> slice:
        """Where these rows are in a tensor that holds the rows `other`."""
        return slice(self.first - other.first, self.last - other.first)


def cpu_tail(tail: Tail, *example: Tensor, band: type[BandTail] | None = None) -> list[nn.Module] | None:
    """feature, residual, rgb, latent -> picture in bands; None where it is too small. See `sdic_export.methods.Arrange`. Methods that enter
    the tail with other tensors have their own `band`."""
    return [(band or BandTail)(tail, rows) for rows in bands(tail.size, BANDS)] if tail.size >= BANDS_FROM else None


def cpu_preview(preview: PreviewGraph, *example: Tensor) -> list[nn.Module] | None:
    """feature, rgb, latent -> reconstruction in bands; None where it is too small. See `sdic_export.methods.Arrange`."""
    if preview.size * preview.ratio < BANDS_FROM or preview.sampled is None:
        return None
    return [BandPreview(preview, rows) for rows in bands(preview.size, BANDS)]


def bands(size: int, count: int) -> list[Rows]:
    """The rows of a picture in `count` bands from top to bottom."""
    return [Rows(size * band // count, size * (band + 1) // count, size) for band in range(count)]


def strips(rows: Rows, height: int) -> list[Rows]:
    """`rows` in strips of about `height` rows."""
    parts = bands(len(rows), max(1, round(len(rows) / height)))
    return [Rows(rows.first + part.first, rows.first + part.last, rows.size) for part in parts]


class BandConv(nn.Module):
    """The rows `rows` of a styled 3 x 3 convolution; `needs` are the rows of its input."""

    noise: Tensor

    def __init__(self, layer: FoldedStyledConv, rows: Rows) -> None:
        super().__init__()
        self.needs = rows.widened(1, 1)
        self.above, self.below = int(rows.first == 0), int(rows.last == rows.size)
        self.modulation, self.bias = layer.modulation, layer.bias
        constant(self, "noise", layer.noise[:, :, rows.first : rows.last])
        outputs, inputs = layer.weight.shape[:2]
        form = faster_form(inputs, outputs, rows.size)
        self.faster = None if form is None else form(layer.weight, (len(self.needs), rows.size), self.above, self.below)
        if self.faster is None:
            self.weight = layer.weight

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, demodulation = self.modulation(style)
        x = x * scales[:, :, None, None]
        x = self.faster(x) if self.faster else F.conv2d(F.pad(x, (1, 1, self.above, self.below)), self.weight)
        return F.leaky_relu(x * demodulation[:, :, None, None] + self.noise + self.bias, LEAKY_SLOPE)


class BandUp(nn.Module):
    """The rows `rows` of an upsampling styled convolution; `needs` are the rows of its input, half the size.

    The transposed convolution makes 2 H + 1 rows of H, and the blur reads the rows i - 1 to i + 2 of these for its row i. Pixels of even
    and odd rows and columns are convolutions of their own, because ONNX Runtime's transposed convolution adds its parts one by one:
    row 2 r is w2 x[r - 1] + w0 x[r], row 2 r + 1 is w1 x[r]; columns likewise. They interleave with channels last, where neighbouring
    columns are neighbouring channels. A row too many at either end, which has no partner, is multiplied by a tap of zero: cutting it off
    would copy the others.
    """

    noise: Tensor
    spread: Tensor
    vertical: Tensor

    def __init__(self, layer: FoldedStyledConv, rows: Rows) -> None:
        super().__init__()
        half = rows.size // 2
        first, last = max(rows.first - 1, 0), rows.last + 2  # of what the blur reads
        self.above = first - (rows.first - 1)
        pairs = Rows(first // 2, (last - 1) // 2 + 1, half + 1)
        reads_before = first % 2 == 0 and first > 0  # an even row first, which reads the row before its partner
        self.top, self.bottom = int(not reads_before), int(pairs.last > half)
        self.needs = Rows(pairs.first - int(reads_before), min(pairs.last, half), half)
        self.columns = half + 1
        self.modulation, self.bias, self.horizontal = layer.modulation, layer.bias.flatten(), layer.horizontal
        constant(self, "vertical", F.pad(layer.vertical, (0, 0, first - 2 * pairs.first, 2 * pairs.last - last)))
        constant(self, "noise", layer.noise[:, :, rows.first : rows.last])
        taps = (slice(0, None, 2), slice(1, 2))  # of the even and of the odd pixels
        weight = layer.weight.transpose(0, 1)
        for row, column in PHASES:
            constant(self, f"weight{row}{column}", weight[:, :, taps[row]][:, :, :, taps[column]].flip((2, 3)))
        constant(self, "spread", torch.ones_like(layer.vertical[:, :, :1]))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales, demodulation = self.modulation(style)
        lines = self._lines(x * scales[:, :, None, None])
        # For all columns at once: ONNX Runtime multiplies run by run of what is repeated, and runs of some channels are short.
        x = torch.stack(lines, 2) * demodulation.repeat(1, 2 * self.columns).unflatten(1, (self.columns, -1))[:, None, None]
        x = x.flatten(1, 2).unflatten(3, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)
        x = F.conv2d(F.pad(x, (0, 0, self.above, 0)), self.vertical, groups=x.shape[1])
        x = F.conv2d(F.pad(x, (1, 0)), self.horizontal, groups=x.shape[1])
        # Noise and bias as a convolution are added by the one in front. Without the style it would be folded into a constant of full size.
        noise = self.noise + 0 * style[:, :1, None, None]
        return F.leaky_relu(x + F.conv2d(noise, self.spread, self.bias), LEAKY_SLOPE)

    def _lines(self, x: Tensor) -> list[Tensor]:
        """The even and the odd rows of the transposed convolution, [N, rows, columns / 2, 2 O] each: even columns, then odd ones."""
        lines = []
        for row in (0, 1):
            # Zeros behind the input make the phases equally large; they add a column of zeros at the end, and a row at the picture's end,
            # which the blur reads.
            edges = (self.top * (1 - row), self.bottom)
            parts = [F.conv2d(F.pad(x, (1 - column, 1, *edges)), self.get_buffer(f"weight{row}{column}")) for column in (0, 1)]
            lines.append(torch.cat(parts, 1).permute(0, 2, 3, 1))
        return [lines[0], lines[1][:, 1 - self.top :]]


class BandRGB(nn.Module):
    """The rows `rows` of an RGB layer, from tensors that hold the rows `held` of the feature and `skip` of the smaller RGB picture."""

    def __init__(self, layer: FoldedToRGB, rows: Rows, held: Rows, skip: Rows) -> None:
        super().__init__()
        self.layer, self.cut = layer, rows.within(held)
        # A 4 x 4 transposed convolution with stride 2 whose first row is the row 2 skip.first - 1 of the picture.
        self.skip_cut = slice(rows.first - 2 * skip.first + 1, rows.last - 2 * skip.first + 1)

    def forward(self, x: Tensor, style: Tensor, skip: Tensor) -> Tensor:
        rgb = torch.matmul(self.layer.matrix(style), x.flatten(2)).unflatten(2, (x.shape[2], x.shape[3])) + self.layer.bias
        skip = F.conv_transpose2d(skip, self.layer.kernel, stride=2, padding=(0, 1), groups=3)
        return rgb[:, :, self.cut] + skip[:, :, self.skip_cut]


class BandBlock(nn.Module):
    """Upsampling convolution, convolution and RGB of one size: the feature's rows `rows`, of which `colours` are needed as RGB."""

    def __init__(self, block: FoldedBlock, rows: Rows, colours: Rows) -> None:
        super().__init__()
        self.first = block.first
        self.conv = BandConv(block.conv, rows)
        self.up = BandUp(block.up, self.conv.needs)
        self.needs = self.up.needs
        self.colours = skip_rows(colours)
        self.to_rgb = BandRGB(block.to_rgb, colours, rows, self.colours)

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.up(x, latent[:, self.first]), latent[:, self.first + 1])
        return x, self.to_rgb(x, latent[:, self.first + 2], rgb)


class StripedBlock(nn.Module):
    """The same block, computed in strips from top to bottom and put together."""

    def __init__(self, block: FoldedBlock, rows: Rows, colours: Rows) -> None:
        super().__init__()
        parts = strips(rows, STRIP_ROWS)
        ends = [colours.first, *(part.last for part in parts[:-1]), colours.last]
        wanted = [Rows(first, last, colours.size) for first, last in pairwise(ends)]
        made = [BandBlock(block, *pair) for pair in zip(parts, wanted, strict=True)]
        needs, colours_needed = [part.needs for part in made], [part.colours for part in made]
        self.needs, self.colours = together(needs), together(colours_needed)
        self.cuts = [(rows.within(self.needs), skip.within(self.colours)) for rows, skip in zip(needs, colours_needed, strict=True)]
        self.parts = nn.ModuleList(made)

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        parts = [part(x[:, :, rows], rgb[:, :, skip], latent) for part, (rows, skip) in zip(self.parts, self.cuts, strict=True)]
        features, colours = zip(*parts, strict=True)
        return torch.cat(features, 2), torch.cat(colours, 2)


def together(parts: Sequence[Rows]) -> Rows:
    return Rows(parts[0].first, parts[-1].last, parts[0].size)


def skip_rows(rows: Rows) -> Rows:
    """The rows of the smaller RGB picture that the rows `rows` read when it is upsampled."""
    return Rows(max((rows.first - 1) // 2, 0), min(rows.last // 2 + 1, rows.size // 2), rows.size // 2)


class BandPath(nn.Module):
    """From layer 7 up through `blocks`: the rows `rows` of the last feature, and the rows `colours` of its RGB picture. Without `conv` and
    `to_rgb`, from behind them."""

    def __init__(self, conv: FoldedStyledConv | None, to_rgb: FoldedToRGB | None, blocks: nn.ModuleList, rows: Rows, colours: Rows) -> None:
        super().__init__()
        bands: list[BandBlock | StripedBlock] = []
        for block in reversed(list(blocks)):
            assert isinstance(block, FoldedBlock)
            bands.insert(0, (StripedBlock if rows.size >= STRIPED_FROM else BandBlock)(block, rows, colours))
            rows, colours = bands[0].needs, bands[0].colours
        self.conv = None if conv is None else BandConv(conv, rows)
        self.skip = colours if to_rgb is None else skip_rows(colours)
        self.to_rgb = None if to_rgb is None else BandRGB(to_rgb, colours, rows, self.skip)
        self.blocks = nn.ModuleList(bands)
        entered = rows if self.conv is None else self.conv.needs
        self.needs = slice(entered.first, entered.last)  # the rows of the feature that are read

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """x: the rows `needs` of the feature; rgb [N, 3, 32, 32], or behind `to_rgb` [N, 3, 64, 64], whole."""
        x, rgb = x if self.conv is None else self.conv(x, latent[:, 8]), rgb[:, :, self.skip.first : self.skip.last]
        rgb = rgb if self.to_rgb is None else self.to_rgb(x, latent[:, 9], rgb)
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return x, rgb


class TailStrip(BandBlock):
    """The last block for a few rows of the picture."""

    def __init__(self, block: FoldedBlock, rows: Rows) -> None:
        super().__init__(block, rows, rows)

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, rgb, latent)[1]


class PhasedSampledConv(SampledConv):
    """The rows `rows` of the reconstruction, with a convolution of nine taps for each of the four pixels instead of one of sixteen.

    A window that begins one pixel later begins `ratio` - 1 pixels earlier with one output more, which is omitted.
    """

    def __init__(self, sampled: SampledConv, rows: Rows) -> None:
        nn.Module.__init__(self)
        self.ratio, self.channels, self.left, self.skip_left = sampled.ratio, sampled.channels, sampled.left, sampled.skip_left
        self.top = self.skip_top = 0
        self.modulation, self.to_rgb = sampled.modulation, sampled.to_rgb
        constant(self, "noise", sampled.noise[:, :, :, rows.first : rows.last])
        for name in ("bias", "skip"):
            constant(self, name, sampled.get_buffer(name))
        for (row, column), weight in zip(PHASES, sampled.weight.chunk(len(PHASES)), strict=True):
            constant(self, f"weight{row}{column}", weight[:, :, row : row + 3, column : column + 3])

    def convolved(self, x: Tensor) -> Tensor:
        parts = []
        for row, column in PHASES:
            before = F.pad(x, (column * (self.ratio - 1), 0, row * (self.ratio - 1), 0))
            parts.append(F.conv2d(before, self.get_buffer(f"weight{row}{column}"), stride=self.ratio)[:, :, row:, column:])
        return torch.cat(parts, 1)


class PreviewStrip(nn.Module):
    """The last upsampling convolution and the sampled layer behind it, for a few rows of the reconstruction."""

    def __init__(self, preview: PreviewGraph, rows: Rows) -> None:
        super().__init__()
        assert preview.sampled is not None and preview.up is not None
        window, self.colours = (
            Rows(step * rows.first + step // 2 - reach, step * (rows.last - 1) + step // 2 + reach, step * rows.size)
            for step, reach in ((preview.ratio, 2), (preview.ratio // 2, 1))
        )
        self.row = preview.row
        self.up = BandUp(preview.up, window)
        self.needs = self.up.needs
        self.sampled = PhasedSampledConv(preview.sampled, rows)

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        return self.sampled(self.up(x, latent[:, self.row]), rgb, latent[:, self.row + 1], latent[:, self.row + 2])


class Band(nn.Module):
    """Rows of a picture from layer 7 on: all blocks but the last at once, the last in strips from top to bottom that caches hold."""

    def __init__(self, lower: Entrance | None, blocks: nn.ModuleList, strips: Sequence[TailStrip | PreviewStrip]) -> None:
        super().__init__()
        needs, colours = [strip.needs for strip in strips], [strip.colours for strip in strips]
        held = [together(ranges) for ranges in (needs, colours)]
        conv, to_rgb = (None, None) if lower is None else (lower.conv, lower.to_rgb)
        self.path = BandPath(conv, to_rgb, blocks, *held)
        self.cuts = [[rows.within(whole) for rows in ranges] for ranges, whole in zip((needs, colours), held, strict=True)]
        self.strips = nn.ModuleList(strips)

    def picture(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        """feature: the rows `needs` of the path."""
        x, rgb = self.path(feature, rgb, latent)
        parts = [strip(x[:, :, rows], rgb[:, :, colours], latent) for strip, rows, colours in zip(self.strips, *self.cuts, strict=True)]
        return torch.cat(parts, 2)


class BandTail(Band):
    """feature, residual, rgb, latent -> the rows `rows` of the picture."""

    def __init__(self, tail: Tail, rows: Rows) -> None:
        last = tail.blocks[-1]
        assert isinstance(last, FoldedBlock)
        lower = tail if isinstance(tail, TailGraph) else None
        super().__init__(lower, tail.blocks[:-1], [TailStrip(last, strip) for strip in strips(rows, STRIP_ROWS)])

    def forward(self, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        needs = self.path.needs
        return self.picture(feature[:, :, needs] + residual[:, :, needs], rgb, latent)


class BandPreview(Band):
    """feature, rgb, latent -> the rows `rows` of the reconstruction, for previews that only sample the last layer."""

    def __init__(self, preview: PreviewGraph, rows: Rows) -> None:
        super().__init__(preview, preview.blocks, [PreviewStrip(preview, strip) for strip in strips(rows, STRIP_ROWS // preview.ratio)])

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        return self.picture(feature[:, :, self.path.needs], rgb, latent)
