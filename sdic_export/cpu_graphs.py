"""Stages arranged for processors: the same numbers by fewer multiplications, or in forms that ONNX Runtime's CPU kernels like."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sdic_train.networks.sdic import SDIC


def cpu_modules(model: SDIC) -> dict[str, nn.Module]:
    """Stage -> a module with the same inputs and outputs as in `graphs.stage_modules`, for those stages that gain by another form."""
    return {}
