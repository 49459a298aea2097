"""Stages arranged for processors: the same numbers by fewer multiplications, or in forms that ONNX Runtime's CPU kernels like."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sdic_train.networks.sdic.model import SDIC

BANDS = 2  # of rows; each runs on a core or a share of the cores, and reads some rows of its neighbours
BANDS_FROM = 512  # rows of the generator's picture; smaller ones are not worth the neighbours' rows


def cpu_modules(model: SDIC) -> dict[str, list[nn.Module]]:
    """Stage -> modules with the same inputs and outputs as in `graphs.stage_modules`, for those stages that gain by another form.

    Several modules are bands of rows from top to bottom of every output (axis 2), which are exported for one picture.
    """
    import torch

    from sdic_export.cpu.dicn import CpuDICN
    from sdic_export.cpu.dipn import cpu_dipn
    from sdic_export.cpu.encoder import CpuEncoder
    from sdic_export.cpu.generator import BandPreview, BandTail, bands
    from sdic_export.cpu.head import cpu_head
    from sdic_export.graphs.fusion import fused
    from sdic_export.graphs.sdic import DICNGraph, EncoderGraph, HeadGraph, PreviewGraph, TailGraph
    from sdic_runtime.stages import STAGES

    config = model.config

    def example(stage: str) -> list[torch.Tensor]:
        return [torch.zeros(config.sizes.shape(name, 1)) for name in STAGES[stage].inputs]

    with torch.no_grad():
        modules: dict[str, list[nn.Module]] = {
            "e4e": [CpuEncoder(fused(EncoderGraph(model)), *example("e4e"))],
            "dipn": [cpu_dipn(model.dipn, config.working)],
            "dicn": [CpuDICN(fused(DICNGraph(model)), *example("dicn"))],
        }
        head = cpu_head(fused(HeadGraph(model)))
        if head is not None:
            modules["generator_head"] = [head]
        if config.resolution >= BANDS_FROM:
            tail, preview = fused(TailGraph(model)), fused(PreviewGraph(model))
            modules["generator_tail"] = [BandTail(tail, rows) for rows in bands(config.resolution, BANDS)]
            if preview.sampled is not None:
                modules["generator_preview"] = [BandPreview(preview, rows) for rows in bands(config.working, BANDS)]
    return {stage: [module.eval() for module in parts] for stage, parts in modules.items()}
