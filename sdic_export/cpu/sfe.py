"""The stages of StyleFeatureEditor optimized for CPUs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from sdic_export.cpu.encoded import cpu_plain
from sdic_export.cpu.encoder import cpu_encoder
from sdic_export.cpu.generator import BandTail, cpu_tail
from sdic_export.cpu.head import cpu_head

if TYPE_CHECKING:
    from sdic_export.methods import Arrange


class SuffixBand(BandTail):
    """changed, rgb, latent -> the rows `rows` of the picture."""

    def forward(self, changed: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.picture(changed[:, :, self.path.needs], rgb, latent)


INVERTER: dict[str, Arrange] = {
    "inverter": cpu_plain,
    "generator_prefix": cpu_head,
    "fuser": cpu_plain,
    "generator_suffix": partial(cpu_tail, band=SuffixBand),
}
SFE: dict[str, Arrange] = {**INVERTER, "encoder": cpu_encoder, "editor": cpu_plain}
