"""DICN optimized for CPUs against DICN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdic_export.cpu.dicn import cpu_dicn, halfway
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import DICNGraph
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC


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


@pytest.mark.parametrize("working", [64, 128])
def test_dicn_of_a_model(working: int) -> None:
    torch.manual_seed(0)
    model = SDIC(replace(TINY, resolution=128, working=working)).eval().requires_grad_(False)
    for parameter in model.dicn.parameters():  # the last layers begin as zeros
        parameter.normal_(0, 0.2)
    method = method_of(METHODS["sdic"], model.config)
    inputs = [torch.randn(method.shape(name, 2)) for name in method.stages["dicn"].inputs]
    graph = DICNGraph(model).eval()
    expected = graph(*inputs)
    (cpu,) = cpu_dicn(fused(graph), *inputs)
    assert isinstance(cpu, DICNGraph)
    for actual, one in zip(cpu(*inputs), expected, strict=True):
        assert largest(actual, one) < 1e-5
    assert (cpu.dicn.condition_shift3[2].stride == (2, 2)) == (working == 128)
    for again, one in zip(graph(*inputs), expected, strict=True):  # the graph that it comes from is left as it was
        torch.testing.assert_close(again, one)
