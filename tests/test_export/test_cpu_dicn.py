"""DICN arranged for processors against DICN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdic_export.cpu_dicn import CpuDICN, halfway
from sdic_export.fusion import fused
from sdic_export.graphs import DICNGraph
from sdic_runtime.stages import STAGES
from sdic_train.networks.sdic import SDIC


def largest(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.std())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_convolution_and_resizing_as_one(factor: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, padding=1, bias=bias), torch.randn(2, 3, 8 * factor, 6 * factor)
    with torch.no_grad():
        expected = F.interpolate(conv(x), size=(8, 6), mode="bilinear", align_corners=False)
        assert largest(halfway(conv, factor)(x), expected) < 1e-5


def test_dicn_of_a_model(model: SDIC) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, *model.config.sizes.shape(name, 1)[1:]) for name in STAGES["dicn"].inputs]
    graph = DICNGraph(model).eval()
    with torch.no_grad():
        for actual, expected in zip(CpuDICN(fused(graph), *inputs).eval()(*inputs), graph(*inputs), strict=True):
            assert largest(actual, expected) < 1e-5
