"""The stages of e4e, pSp, ReStyle, HFGI, HyperStyle, CLCAE and FS optimized for CPUs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdic_export.cpu.convolutions import optimized
from sdic_export.cpu.encoder import CpuEncoder, cpu_encoder
from sdic_export.cpu.generator import BandTail, cpu_preview, cpu_tail
from sdic_export.cpu.head import cpu_head
from sdic_export.cpu.parts import PARTS
from sdic_export.graphs.encoded import StepGraph
from sdic_train.networks.hfgi.model import fuse

if TYPE_CHECKING:
    from sdic_export.methods import Arrange


class PlainBandTail(BandTail):
    """feature, rgb, latent -> the rows `rows` of the picture."""

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.picture(feature[:, :, self.path.needs], rgb, latent)


class FusedBandTail(BandTail):
    """feature, scale, shift, rgb, latent -> the rows `rows` of the picture."""

    def forward(self, feature: Tensor, scale: Tensor, shift: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        needs = self.path.needs
        return self.picture(fuse(feature[:, :, needs], scale[:, :, needs], shift[:, :, needs]), rgb, latent)


class CpuStep(CpuEncoder):
    """image, reconstruction, previous -> latent, as `StepGraph`."""

    def forward(self, image: Tensor, reconstruction: Tensor, previous: Tensor) -> Tensor:  # type: ignore[override]
        return previous + self.offsets(torch.cat((image, reconstruction), 1))


def cpu_step(graph: StepGraph, *example: Tensor) -> list[nn.Module]:
    """image, reconstruction, previous -> latent. See `sdic_export.methods.Arrange`."""
    image, reconstruction, _ = example
    return [CpuStep(graph, torch.cat((image, reconstruction), 1))]


def cpu_plain(graph: nn.Module, *example: Tensor) -> list[nn.Module]:
    """Any network of plain convolutions. See `sdic_export.methods.Arrange`."""
    return [optimized(graph, *example)]


TAIL: dict[str, Arrange] = {"generator_tail": partial(cpu_tail, band=PlainBandTail), **PARTS}
ENCODED: dict[str, Arrange] = {"encoder": cpu_encoder, "generator_head": cpu_head, **TAIL}
RESTYLE: dict[str, Arrange] = {**ENCODED, "encoder": cpu_step}
HFGI: dict[str, Arrange] = {
    **ENCODED,
    "generator_preview": cpu_preview,
    "aligner": cpu_plain,
    "consultation": cpu_plain,
    "generator_tail": partial(cpu_tail, band=FusedBandTail),
}
HYPERSTYLE: dict[str, Arrange] = {"encoder": cpu_plain, "backbone": cpu_plain}
CUT: dict[str, Arrange] = {"encoder": cpu_plain, "generator_middle": cpu_head, **TAIL}
