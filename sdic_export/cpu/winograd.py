"""3 x 3 convolutions with fewer multiplications, as matrix products (Winograd 1980; Lavin and Gray 2016), for CPUs.

A convolution by r taps that makes m neighbouring outputs needs m + r - 1 multiplications instead of m r: y = A ((G w) * (B x)), with A
and B the transposes of evaluation and interpolation of polynomials (Toom-Cook). In two dimensions F(4 x 4, 3 x 3) needs 36
multiplications for 16 outputs instead of 144. The transforms are small matrix products over windows that a Gather copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import gcd, hypot, lcm, log2

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.folded import constant

TILE = 4  # outputs of a tile, per axis; in two dimensions larger ones lose too much accuracy
ROW_TILE = 6  # along the rows alone
TAPS = 3
SHORT = 96  # columns
# Finite evaluation points by their number: symmetric ones with neighbours whose product is one keep float32 accurate
# (Barabasz et al. 2020).
POINTS = {
    1: ((0, 1),),
    2: ((0, 1), (1, 1)),
    3: ((0, 1), (1, 1), (-1, 1)),
    4: ((0, 1), (1, 1), (-1, 1), (1, 2)),
    5: ((0, 1), (2, 3), (-2, 3), (3, 2), (-3, 2)),
    6: ((0, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (1, 1)),
    7: ((0, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (1, 1), (-1, 1)),
}


@cache
def toom_cook(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices A [outputs, a], G [a, taps], B [a, a] of y = A ((G w) * (B x)) with a = outputs + taps - 1, in double precision.

    y[i] = sum over k of w[k] x[i + k]. The last of the `a` evaluation points is infinity. Rows of B are whole numbers scaled to about unit
    length by powers of two, which G takes back: with five points they are exact in bfloat16.
    """
    products = outputs + taps - 1
    points = [Fraction(*point) for point in POINTS[products - 1]]

    def evaluation(terms: int) -> list[list[Fraction]]:
        return [[point**power for power in range(terms)] for point in points] + [[Fraction(0)] * (terms - 1) + [Fraction(1)]]

    rows, scales = zip(*map(_whole, zip(*_inverse(evaluation(products)), strict=True)), strict=True)
    return np.array(evaluation(outputs), float).T, np.array(evaluation(taps), float) * np.array(scales)[:, None], np.array(rows)


def _whole(row: Sequence[Fraction]) -> tuple[list[float], float]:
    """Whole numbers in the ratios of `row` over a power of two, of about unit length; and what they are to be multiplied by."""
    denominator = lcm(*(value.denominator for value in row))
    factor = Fraction(denominator, gcd(*(int(value * denominator) for value in row)))
    numbers = [float(value * factor) for value in row]
    length = 2.0 ** round(log2(hypot(*numbers)))
    return [number / length for number in numbers], length / float(factor)


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """The exact inverse, by elimination."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[size:] for row in rows]


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution with stride one over pictures of one known size: [N, I, H, W] -> [N, O, H', W].

    The columns get a padding of one, the rows `above` and `below` rows of zeros. The largest error is about 1e-5 of the output's
    standard deviation, where the direct form has 2e-6.

    Channels are the last axis inside: windows are then copied in long runs, ONNX Runtime moves a tile's products in and out of its
    blocked layout the same way, and each of the 36 products is a group of a pointwise convolution, which runs at full speed.
    """

    pixels: Tensor
    analysis: Tensor
    weight: Tensor
    synthesis: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int], above: int = 1, below: int = 1) -> None:
        """weight [O, I, 3, 3], size (H, W)."""
        super().__init__()
        height, width = size
        self.size = (height + above + below - TAPS + 1, width)
        self.tiles = (-(-self.size[0] // TILE), -(-self.size[1] // TILE))
        after, kernel, before = toom_cook(TILE, TAPS)
        rows, columns = _windows(self.tiles[0], above), _windows(self.tiles[1], 1)
        nearest_rows, nearest_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        constant(self, "pixels", (nearest_rows[:, None, :, None] * width + nearest_columns[None, :, None]).flatten())
        self._analyse_by(before, (rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
        constant(self, "synthesis", torch.from_numpy(np.kron(after, after)).float())
        taps = torch.from_numpy(kernel)
        products = torch.einsum("ua,vb,oiab->uvoi", taps, taps, weight.detach().double())
        self.products = len(kernel) ** 2
        constant(self, "weight", products.flatten(0, 2)[:, :, None, None].float())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.index_select(x.permute(0, 2, 3, 1).flatten(1, 2), 1, self.pixels).unflatten(1, (-1, self.products))
        x = self.analysed(x).flatten(2).unflatten(1, self.tiles)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.weight, groups=self.products).permute(0, 2, 3, 1)
        x = self.synthesised(x.flatten(1, 2).unflatten(2, (self.products, -1)))
        x = x.unflatten(2, (TILE, TILE)).unflatten(1, self.tiles).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x[:, : self.size[0], : self.size[1]].permute(0, 3, 1, 2)

    def analysed(self, windows: Tensor) -> Tensor:
        """[N, tiles, products, I] -> what the products read, as large."""
        return torch.matmul(self.analysis, windows)

    def synthesised(self, products: Tensor) -> Tensor:
        """[N, tiles, products, O] -> the outputs of each tile [N, tiles, TILE * TILE, O]."""
        return torch.matmul(self.synthesis, products)

    def _analyse_by(self, before: np.ndarray, rows: Tensor, columns: Tensor) -> None:
        """`rows`, `columns`: which pixels of each tile lie inside the picture. What lies outside is not read as zero but multiplied by
        zero: padding would copy the picture."""
        inside = rows[:, None, :, None] & columns[None, :, None]
        constant(self, "analysis", (torch.from_numpy(np.kron(before, before)) * inside.flatten(2).flatten(0, 1)[:, None]).float())


class RowWinogradConv2d(nn.Module):
    """The same along the rows alone, for larger pictures and fewer channels: half the multiplications, and smaller transforms.

    Each kind of product is a group of a convolution by one row of taps.
    """

    pixels: Tensor
    analysis: Tensor
    weight: Tensor
    synthesis: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int], above: int = 1, below: int = 1) -> None:
        super().__init__()
        height, width = size
        self.outputs = height + above + below - TAPS + 1
        tiles = -(-self.outputs // ROW_TILE)
        together = max(1, SHORT // width)  # products with rows shorter than that are worth some zeros in their matrices
        self.blocks = max(count for count in range(1, tiles + 1) if tiles % count == 0 and tiles // count >= min(together, tiles))
        self.tiles = tiles // self.blocks
        after, kernel, before = toom_cook(ROW_TILE, TAPS)
        self.products = len(kernel)
        read = ROW_TILE * self.tiles + TAPS - 1
        rows = ROW_TILE * self.tiles * torch.arange(self.blocks)[:, None] + torch.arange(read) - above
        constant(self, "pixels", rows.clamp(0, height - 1).flatten())
        analysis = np.zeros((self.products, self.tiles, read))
        synthesis = np.zeros((self.tiles, ROW_TILE, self.products, self.tiles))
        for tile in range(self.tiles):
            analysis[:, tile, ROW_TILE * tile : ROW_TILE * tile + self.products] = before
            synthesis[tile, :, :, tile] = after
        inside = (rows >= 0) & (rows < height)
        constant(self, "analysis", (torch.from_numpy(analysis.reshape(-1, read)) * inside[:, None]).float())
        constant(self, "synthesis", torch.from_numpy(synthesis.reshape(self.tiles * ROW_TILE, -1)).float())
        weights = torch.einsum("ua,oiab->uoib", torch.from_numpy(kernel), weight.detach().double())
        constant(self, "weight", weights.flatten(0, 1)[:, :, None].float())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.analysis, torch.index_select(x, 2, self.pixels).unflatten(2, (self.blocks, -1)))
        x = x.unflatten(3, (self.products, self.tiles)).permute(0, 3, 1, 2, 4, 5)
        x = F.conv2d(x.flatten(3, 4).flatten(1, 2), self.weight, padding=(0, 1), groups=self.products)
        x = x.unflatten(2, (self.blocks, self.tiles)).unflatten(1, (self.products, -1)).permute(0, 2, 3, 1, 4, 5)
        return torch.matmul(self.synthesis, x.flatten(3, 4)).flatten(2, 3)[:, :, : self.outputs]


def _windows(tiles: int, before: int) -> Tensor:
    """The pixels of one axis that each tile reads [tiles, TILE + TAPS - 1], some of them outside."""
    return TILE * torch.arange(tiles)[:, None] + torch.arange(TILE + TAPS - 1) - before


@dataclass(frozen=True)
class Form:
    """Where a form takes less time in ONNX Runtime than a direct convolution, by measurement (x86-64, AVX-512)."""

    module: type[WinogradConv2d] | type[RowWinogradConv2d]
    channels: int  # inputs and outputs from which it gains
    sizes: range  # columns of the picture


# The weights take 4 times (in both axes) or 2.7 times the room of the direct ones: small pictures do not pay for reading and loading them.
FORMS = (
    Form(WinogradConv2d, 256, range(48, 129)),
    Form(RowWinogradConv2d, 128, range(24, 257)),
    Form(RowWinogradConv2d, 64, range(24, 129)),
)


def faster_form(inputs: int, outputs: int, columns: int) -> type[WinogradConv2d] | type[RowWinogradConv2d] | None:
    """The first form that gains for so many channels, and pictures with so many columns; None where the direct one is as good."""
    gaining = (form.module for form in FORMS if min(inputs, outputs) >= form.channels and columns in form.sizes)
    return next(gaining, None)
