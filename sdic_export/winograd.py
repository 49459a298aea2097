"""3 x 3 convolutions with fewer multiplications, as matrix products (Winograd 1980; Lavin and Gray 2016), for processors.

A convolution by r taps that makes m neighbouring outputs needs m + r - 1 multiplications instead of m r: y = A ((G w) * (B x)), with A
and B the transposes of evaluation and interpolation of polynomials (Toom-Cook). In two dimensions F(4 x 4, 3 x 3) needs 36
multiplications for 16 outputs instead of 144. The transforms are banded matrices over a whole row or column, so that the graph needs
nothing but matrix products and two transpositions, and zero padding costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.folded import constant

TILE = 4  # outputs of a tile, per axis; in two dimensions larger ones lose too much accuracy
ROW_TILE = 6  # along the rows alone
TAPS = 3
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

    y[i] = sum over k of w[k] x[i + k]. The last of the `a` evaluation points is infinity. Rows of B are scaled to about unit length by
    powers of two, which G takes back.
    """
    products = outputs + taps - 1
    points = [Fraction(*point) for point in POINTS[products - 1]]

    def evaluation(terms: int) -> list[list[Fraction]]:
        return [[point**power for power in range(terms)] for point in points] + [[Fraction(0)] * (terms - 1) + [Fraction(1)]]

    analysis = np.array(_inverse(evaluation(products)), float).T
    scale = 2.0 ** np.round(np.log2(np.linalg.norm(analysis, axis=1)))[:, None]
    return np.array(evaluation(outputs), float).T, np.array(evaluation(taps), float) * scale, analysis / scale


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


class Axis(nn.Module):
    """The transforms of one axis: `inputs` pixels, `before` zeros in front of them, zeros behind as needed -> `outputs` pixels.

    The products of an axis are ordered (block, kind, tile), so that the last transform is one small matrix for every block of outputs,
    which has at least `block` tiles: one matrix for the whole of a long axis would be mostly zeros.
    """

    analysis: Tensor
    synthesis: Tensor
    pixels: Tensor
    windows: Tensor

    def __init__(self, inputs: int, outputs: int, before: int, tile: int, block: int) -> None:
        super().__init__()
        matrix_a, self.kernel, matrix_b = toom_cook(tile, TAPS)
        tiles = -(-outputs // tile)
        self.blocks = max(count for count in range(1, tiles + 1) if tiles % count == 0 and (count == 1 or tiles // count >= block))
        self.outputs, self.kinds, self.tiles = outputs, len(matrix_b), tiles // self.blocks
        analysis = np.zeros((self.blocks, self.kinds, self.tiles, inputs))
        for index in range(tiles):
            for position in range(self.kinds):
                pixel = tile * index + position - before
                if 0 <= pixel < inputs:
                    analysis[index // self.tiles, :, index % self.tiles, pixel] = matrix_b[:, position]
        synthesis = np.zeros((tile * self.tiles, self.kinds, self.tiles))
        for index in range(self.tiles):
            synthesis[tile * index : tile * (index + 1), :, index] = matrix_a
        constant(self, "analysis", torch.from_numpy(analysis.reshape(-1, inputs)).float())
        constant(self, "synthesis", torch.from_numpy(synthesis.reshape(tile * self.tiles, -1)).float())
        width = min(tile * self.tiles + TAPS - 1, inputs)  # the pixels that one block reads
        starts = [min(max(tile * self.tiles * part - before, 0), inputs - width) for part in range(self.blocks)]
        constant(self, "pixels", torch.cat([torch.arange(start, start + width) for start in starts]))
        windows = np.stack([matrix[..., start : start + width] for matrix, start in zip(analysis, starts, strict=True)])
        constant(self, "windows", torch.from_numpy(windows.reshape(self.blocks, -1, width)).float())

    def analysed_rows(self, x: Tensor) -> Tensor:
        """[N, C, inputs, W] -> [N, C, blocks, kinds, tiles, W]; blocks of rows are cheap to gather, and spare most of the zeros."""
        x = x[:, :, self.pixels].unflatten(2, (self.blocks, -1)) if self.blocks > 1 else x[:, :, None]
        return torch.matmul(self.windows, x).unflatten(3, (self.kinds, self.tiles))

    def analysed_columns(self, x: Tensor) -> Tensor:
        """[N, C, H, inputs] -> [N, C, H, blocks * kinds * tiles]"""
        return torch.matmul(x, self.analysis.T)


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution with stride one over pictures of one known size: [N, I, H, W] -> [N, O, H', W].

    The columns get a padding of one, the rows `above` and `below` rows of zeros. The largest error is about 1e-5 of the output's
    standard deviation, where the direct form has 2e-6.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int], above: int = 1, below: int = 1) -> None:
        """weight [O, I, 3, 3], size (H, W)."""
        super().__init__()
        height, width = size
        # Transposing shorter blocks than these costs more than it saves.
        self.rows = Axis(height, height + above + below - TAPS + 1, above, TILE, block=16)
        self.columns = Axis(width, width, 1, TILE, block=16)
        kernel = torch.from_numpy(self.rows.kernel)
        constant(self, "weight", torch.einsum("ua,vb,oiab->uvoi", kernel, kernel, weight.detach().double()).flatten(0, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.rows, self.columns
        x = rows.analysed_rows(columns.analysed_columns(x)).unflatten(5, (columns.blocks, columns.kinds, columns.tiles))
        x = x.permute(0, 3, 6, 1, 2, 4, 5, 7)  # both kinds, channels, both positions
        x = torch.matmul(self.weight, x.flatten(4).flatten(1, 2))
        x = x.unflatten(3, (rows.blocks, rows.tiles, columns.blocks, columns.tiles)).unflatten(1, (rows.kinds, columns.kinds))
        x = x.permute(0, 3, 4, 1, 5, 6, 2, 7)
        x = torch.matmul(rows.synthesis, x.flatten(5).flatten(3, 4))
        x = torch.matmul(x.unflatten(4, (columns.blocks, -1)), columns.synthesis.T)
        return x.flatten(4).flatten(2, 3)[:, :, : rows.outputs, : columns.outputs]


class RowWinogradConv2d(nn.Module):
    """The same along the rows alone, for larger pictures and fewer channels: half the multiplications, and smaller transforms.

    Each kind of product is a group of a convolution by one row of taps.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int], above: int = 1, below: int = 1) -> None:
        super().__init__()
        self.rows = Axis(size[0], size[0] + above + below - TAPS + 1, above, ROW_TILE, block=5)
        kernel = torch.from_numpy(self.rows.kernel)
        constant(self, "weight", torch.einsum("ua,oiab->uoib", kernel, weight.detach().double()).flatten(0, 1)[:, :, None].float())

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows
        x = rows.analysed_rows(x).permute(0, 3, 1, 2, 4, 5)
        x = F.conv2d(x.flatten(3, 4).flatten(1, 2), self.weight, padding=(0, 1), groups=rows.kinds)
        x = x.unflatten(2, (rows.blocks, rows.tiles)).unflatten(1, (rows.kinds, -1)).permute(0, 2, 3, 1, 4, 5)
        return torch.matmul(rows.synthesis, x.flatten(3, 4)).flatten(2, 3)[:, :, : rows.outputs]


@dataclass(frozen=True)
class Form:
    """Where a form takes less time in ONNX Runtime than a direct convolution, by measurement (x86-64, AVX-512)."""

    module: type[WinogradConv2d] | type[RowWinogradConv2d]
    channels: int  # inputs and outputs from which it gains
    sizes: range  # columns of the picture


# In both axes the weights take four times the room of the direct ones: small pictures do not pay for reading them.
FORMS = (Form(WinogradConv2d, 256, range(48, 97)), Form(RowWinogradConv2d, 128, range(16, 257)))


def faster_form(inputs: int, outputs: int, columns: int) -> type[WinogradConv2d] | type[RowWinogradConv2d] | None:
    """The first form that gains for so many channels, and pictures with so many columns; None where the direct one is as good."""
    gaining = (form.module for form in FORMS if min(inputs, outputs) >= form.channels and columns in form.sizes)
    return next(gaining, None)
