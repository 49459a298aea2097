"""Winograd convolutions against PyTorch's in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdic_export.cpu.winograd import RowWinogradConv2d, WinogradConv2d, faster_form, toom_cook


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (6, 3), (2, 2)])
def test_the_matrices_are_an_exact_correlation(outputs: int, taps: int) -> None:
    after, kernel, before = toom_cook(outputs, taps)
    generator = np.random.default_rng(0)
    x, weight = generator.standard_normal(outputs + taps - 1), generator.standard_normal(taps)
    expected = np.correlate(x, weight, "valid")
    np.testing.assert_allclose(after @ ((kernel @ weight) * (before @ x)), expected, rtol=1e-13, atol=1e-13)
    assert after.shape == (outputs, outputs + taps - 1)


@pytest.mark.parametrize(
    ("size", "above", "below"),
    [((16, 16), 1, 1), ((64, 64), 1, 1), ((37, 64), 1, 0), ((37, 64), 0, 1), ((67, 128), 0, 0), ((6, 10), 1, 1), ((5, 7), 1, 1)],
)
@pytest.mark.parametrize("form", [WinogradConv2d, RowWinogradConv2d])
def test_equals_a_convolution_at_any_size_and_padding(form: type[nn.Module], size: tuple[int, int], above: int, below: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, *size), torch.randn(5, 6, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 1, above, below)).double(), weight.double())
    difference = (form(weight, size, above, below)(x) - expected).abs().max() / expected.std()
    assert difference < 1e-5


@pytest.mark.parametrize("form", [WinogradConv2d, RowWinogradConv2d])
def test_stays_accurate_with_many_channels(form: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 512, 16, 16), torch.randn(32, 512, 3, 3)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert (form(weight, (16, 16))(x) - expected).abs().max() / expected.std() < 3e-5


def test_few_channels_and_large_pictures_keep_the_direct_form() -> None:
    assert faster_form(512, 512, 64) is WinogradConv2d
    assert faster_form(128, 512, 64) is RowWinogradConv2d
    assert faster_form(512, 512, 128) is WinogradConv2d
    assert faster_form(128, 128, 256) is RowWinogradConv2d
    assert faster_form(64, 64, 128) is RowWinogradConv2d
    assert faster_form(64, 64, 256) is None
    assert faster_form(32, 512, 64) is None
    assert faster_form(512, 32, 64) is None
    assert faster_form(512, 512, 1024) is None
