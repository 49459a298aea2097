"""Which of SDIC's stages are optimized for CPUs, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_export.cpu.dicn import cpu_dicn
from sdic_export.cpu.dipn import cpu_dipn
from sdic_export.cpu.encoder import cpu_encoder
from sdic_export.cpu.generator import cpu_preview, cpu_tail
from sdic_export.cpu.head import cpu_head

if TYPE_CHECKING:
    from sdic_export.methods import Arrange

CPU: dict[str, Arrange] = {
    "e4e": cpu_encoder,
    "generator_head": cpu_head,
    "generator_preview": cpu_preview,
    "dipn": cpu_dipn,
    "dicn": cpu_dicn,
    "generator_tail": cpu_tail,
}
