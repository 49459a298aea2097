"""The parts of the generator's tail in bands of rows, as `generator` has the whole, for edits that begin in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdic_export.cpu.generator import (
    BANDS,
    BANDS_FROM,
    STRIP_ROWS,
    STRIPED_FROM,
    BandConv,
    BandRGB,
    BandUp,
    Rows,
    TailStrip,
    bands,
    skip_rows,
    strips,
    together,
)
from sdic_export.graphs.folded import FoldedToRGB
from sdic_export.graphs.parts import EntranceGraph, FusedEntranceGraph, LastPartGraph, PartGraph, SummedEntranceGraph
from sdic_export.graphs.sdic import FoldedBlock
from sdic_train.config import FACES, FEATURE_SIZE
from sdic_train.methods.cuts import FIRST, sizes_of
from sdic_train.networks.hfgi.model import fuse

if TYPE_CHECKING:
    from sdic_export.methods import Arrange


class BandEntrance(nn.Module):
    """feature, latent -> the rows `rows` of the feature behind layer 8."""

    def __init__(self, graph: EntranceGraph, rows: Rows) -> None:
        super().__init__()
        self.conv = BandConv(graph.conv, rows)
        self.rows = slice(self.conv.needs.first, self.conv.needs.last)

    def forward(self, feature: Tensor, latent: Tensor) -> Tensor:
        return self.entered(feature[:, :, self.rows], latent)

    def entered(self, feature: Tensor, latent: Tensor) -> Tensor:
        """`feature`: the rows of it that are read."""
        made: Tensor = self.conv(feature, latent[:, 8])
        return made


class SummedBandEntrance(BandEntrance):
    """feature, residual, latent -> the same."""

    def forward(self, feature: Tensor, residual: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.entered(feature[:, :, self.rows] + residual[:, :, self.rows], latent)


class FusedBandEntrance(BandEntrance):
    """feature, scale, shift, latent -> the same."""

    def forward(self, feature: Tensor, scale: Tensor, shift: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        rows = self.rows
        return self.entered(fuse(feature[:, :, rows], scale[:, :, rows], shift[:, :, rows]), latent)


class FeatureStrip(nn.Module):
    """Some rows of the two layers of a size."""

    def __init__(self, block: FoldedBlock, rows: Rows) -> None:
        super().__init__()
        self.first = block.first
        self.conv = BandConv(block.conv, rows)
        self.up = BandUp(block.up, self.conv.needs)
        self.needs = self.up.needs

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        made: Tensor = self.conv(self.up(x, latent[:, self.first]), latent[:, self.first + 1])
        return made


class BelowRGB(nn.Module):
    """Some rows of the RGB sum of the size below, from the whole feature of that size and the whole sum before."""

    def __init__(self, layer: FoldedToRGB, rows: Rows) -> None:
        super().__init__()
        skip = skip_rows(rows)
        self.rows, self.skip = slice(rows.first, rows.last), slice(skip.first, skip.last)
        self.layer = BandRGB(layer, rows, rows, skip)

    def forward(self, feature: Tensor, style: Tensor, rgb: Tensor) -> Tensor:
        summed: Tensor = self.layer(feature[:, :, self.rows], style, rgb[:, :, self.skip])
        return summed


class BandPart(nn.Module):
    """The rows `rows` of the feature of a size, and as large a share of the RGB sum of the size below."""

    def __init__(self, graph: PartGraph, rows: Rows) -> None:
        super().__init__()
        self.first = graph.block.first
        self.below = BelowRGB(graph.below, Rows(rows.first // 2, rows.last // 2, rows.size // 2))
        cut = strips(rows, STRIP_ROWS) if rows.size >= STRIPED_FROM else [rows]
        self.strips = nn.ModuleList(FeatureStrip(graph.block, strip) for strip in cut)
        self.reads = [slice(strip.needs.first, strip.needs.last) for strip in self.strips]  # type: ignore[union-attr]

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        parts = [strip(feature[:, :, read], latent) for strip, read in zip(self.strips, self.reads, strict=True)]
        return torch.cat(parts, 2), self.below(feature, latent[:, self.first], rgb)


class LastBandPart(nn.Module):
    """The rows `rows` of the picture."""

    def __init__(self, graph: LastPartGraph, rows: Rows) -> None:
        super().__init__()
        self.first = graph.block.first
        made = [TailStrip(graph.block, strip) for strip in strips(rows, STRIP_ROWS)]
        colours = together([strip.colours for strip in made])
        self.below = BelowRGB(graph.below, colours)
        self.cuts = [(slice(strip.needs.first, strip.needs.last), strip.colours.within(colours)) for strip in made]
        self.strips = nn.ModuleList(made)

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        rgb = self.below(feature, latent[:, self.first], rgb)
        parts = [strip(feature[:, :, read], rgb[:, :, skip], latent) for strip, (read, skip) in zip(self.strips, self.cuts, strict=True)]
        return torch.cat(parts, 2)


ENTRANCES: dict[type[EntranceGraph], type[BandEntrance]] = {
    EntranceGraph: BandEntrance,
    SummedEntranceGraph: SummedBandEntrance,
    FusedEntranceGraph: FusedBandEntrance,
}


def cpu_entrance(graph: EntranceGraph, *example: Tensor) -> list[nn.Module] | None:
    """The first part in bands; None where the picture is too small. See `sdic_export.methods.Arrange`."""
    if graph.size < BANDS_FROM:
        return None
    return [ENTRANCES[type(graph)](graph, rows) for rows in bands(FEATURE_SIZE, BANDS)]


def cpu_part(graph: PartGraph, *example: Tensor) -> list[nn.Module] | None:
    """Another part in bands; None where the picture is too small. See `sdic_export.methods.Arrange`."""
    if graph.resolution < BANDS_FROM:
        return None
    rows = bands(graph.size, BANDS)
    return [LastBandPart(graph, band) if isinstance(graph, LastPartGraph) else BandPart(graph, band) for band in rows]


PARTS: dict[str, Arrange] = {FIRST: cpu_entrance} | {f"generator_{size}": cpu_part for size in sizes_of(FACES)}
