"""3 x 3 convolutions with fewer multiplications, as matrix products (Winograd 1980; Lavin and Gray 2016), for processors.

A convolution by r taps that makes m neighbouring outputs needs m + r - 1 multiplications instead of m r: y = A ((G w) * (B x)), with A
and B the transposes of evaluation and interpolation of polynomials (Toom-Cook). In two dimensions F(4 x 4, 3 x 3) needs 36
multiplications for 16 outputs instead of 144. The transforms are banded matrices over a whole row or column, so that the graph needs
nothing but matrix products and two transpositions, and zero padding costs nothing.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from sdic_export.folded import constant

TILE = 4  # outputs of a tile, per axis
TAPS = 3
GAINING_SIZES = range(8, 129)  # rows and columns; beyond, the transforms cost more than they save
GAINING_CHANNELS = 192  # inputs and outputs; below, likewise
BLOCK_TILES = 8  # tiles from which the last transform is cut into blocks; one matrix for all would be mostly zeros
# Finite evaluation points by their number. Symmetric ones with neighbours whose product is one keep float32 accurate (Barabasz et al. 2020).
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


def gains(inputs: int, outputs: int, size: int) -> bool:
    """Whether ONNX Runtime takes less time for the products than for a direct convolution of `inputs` to `outputs` channels.

    Measured on x86-64 with AVX-512 for square pictures with `size` rows.
    """
    return min(inputs, outputs) >= GAINING_CHANNELS and size in GAINING_SIZES


class Axis(nn.Module):
    """The transforms of one axis: `inputs` pixels, `before` zeros in front of them, zeros behind as needed -> `outputs` pixels.

    The products of an axis are ordered (block, kind, tile), so that the last transform is one small matrix for every block of outputs.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, inputs: int, outputs: int, before: int) -> None:
        super().__init__()
        matrix_a, self.kernel, matrix_b = toom_cook(TILE, TAPS)
        tiles = -(-outputs // TILE)
        self.blocks = max(count for count in range(1, tiles + 1) if tiles % count == 0 and (count == 1 or tiles // count >= BLOCK_TILES))
        self.outputs, self.kinds, self.tiles = outputs, len(matrix_b), tiles // self.blocks
        analysis = np.zeros((self.blocks, self.kinds, self.tiles, inputs))
        for tile in range(self.blocks * self.tiles):
            for position in range(self.kinds):
                pixel = TILE * tile + position - before
                if 0 <= pixel < inputs:
                    analysis[tile // self.tiles, :, tile % self.tiles, pixel] = matrix_b[:, position]
        synthesis = np.zeros((TILE * self.tiles, self.kinds, self.tiles))
        for tile in range(self.tiles):
            synthesis[TILE * tile : TILE * (tile + 1), :, tile] = matrix_a
        constant(self, "analysis", torch.from_numpy(analysis.reshape(-1, inputs)).float())
        constant(self, "synthesis", torch.from_numpy(synthesis.reshape(TILE * self.tiles, -1)).float())


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
        self.rows = Axis(height, height + above + below - TAPS + 1, above)
        self.columns = Axis(width, width, 1)
        kernel = torch.from_numpy(self.rows.kernel)
        constant(self, "weight", torch.einsum("ua,vb,oiab->uvoi", kernel, kernel, weight.detach().double()).flatten(0, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.rows, self.columns
        x = torch.matmul(rows.analysis, torch.matmul(x, columns.analysis.T))
        x = x.unflatten(3, (columns.blocks, columns.kinds, columns.tiles)).unflatten(2, (rows.blocks, rows.kinds, rows.tiles))
        x = x.permute(0, 3, 6, 1, 2, 4, 5, 7)  # both kinds, channels, both positions
        x = torch.matmul(self.weight, x.flatten(4).flatten(1, 2))
        x = x.unflatten(3, (rows.blocks, rows.tiles, columns.blocks, columns.tiles)).unflatten(1, (rows.kinds, columns.kinds))
        x = x.permute(0, 3, 4, 1, 5, 6, 2, 7)
        x = torch.matmul(rows.synthesis, x.flatten(5).flatten(3, 4))
        x = torch.matmul(x.unflatten(4, (columns.blocks, -1)), columns.synthesis.T)
        return x.flatten(4).flatten(2, 3)[:, :, : rows.outputs, : columns.outputs]
