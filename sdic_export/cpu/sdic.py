"""Which of SDIC's stages are optimized for CPUs, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_export.cpu.dicn import cpu_dicn
from sdic_export.cpu.dipn import cpu_dipn
from sdic_export.cpu.encoder import cpu_encoder
from sdic_export.cpu.generator import cpu_preview, cpu_tail
from sdic_export.cpu.head import cpu_head
from sdic_export.cpu.openvino import openvino_dicn, openvino_dipn, openvino_encoder, openvino_entrance, openvino_generator, openvino_part
from sdic_export.cpu.parts import PARTS
from sdic_train.methods.cuts import FIRST

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

# By measurement (OpenVINO 2026.4, Zen 4, 1024, seconds of one CPU in bf16): standard graph -> that of ONNX Runtime -> one of its own.
#   head .080 -> .060 -> .065, DICN .31 -> .19 -> .165, DIPN .53 -> .57 -> .47, e4e .74 -> .80 -> .67; preview .75 -> .63, tail .80 -> .69
# and in fp32, of two: preview 1.69 -> 1.30, DIPN 1.06 -> 1.04 -> .91, tail 1.78 -> 1.34, e4e 1.49 -> 1.50 -> 1.32
OPENVINO: dict[str, Arrange | None] = {
    "e4e": openvino_encoder,
    "generator_head": None,
    "generator_preview": openvino_generator,
    "dipn": openvino_dipn,
    "dicn": openvino_dicn,
    "generator_tail": openvino_generator,
    **{name: openvino_entrance if name == FIRST else openvino_part for name in PARTS},
}
