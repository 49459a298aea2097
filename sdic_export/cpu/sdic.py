"""Which of SDIC's stages are optimized for CPUs, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_export.cpu.dicn import cpu_dicn
from sdic_export.cpu.dipn import cpu_dipn
from sdic_export.cpu.encoder import cpu_encoder
from sdic_export.cpu.generator import cpu_preview, cpu_tail
from sdic_export.cpu.head import cpu_head
from sdic_export.cpu.parts import PARTS

if TYPE_CHECKING:
    from sdic_export.methods import Arrange

CPU: dict[str, Arrange] = {
    "e4e": cpu_encoder,
    "generator_head": cpu_head,
    "generator_preview": cpu_preview,
    "dipn": cpu_dipn,
    "dicn": cpu_dicn,
    "generator_tail": cpu_tail,
    **PARTS,
}

# By measurement (OpenVINO 2026.4, Zen 4, 1024, seconds of one CPU): standard graph -> CPU-optimized graph.
#   in bf16: head .080 -> .057, DICN .31 -> .17; e4e .70 -> .80, DIPN .50 -> .57
#   in fp32: head .145 -> .107, DICN .60 -> .24; e4e 1.43 -> 1.19, DIPN .99 -> .99
# The generator behind layer 7 is in bands, which OpenVINO does not need.
OPENVINO = ("generator_head", "dicn")
