"""Strided convolutions of one pixel: their gradient must not crash, and must be that of plain arithmetic."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from sdic_train.networks.layers import EqualConv2d, PixelConv2d, ShortcutConv2d, strided

# In a process of its own: a write outside the memory ends it, sooner or later.
STEPS = """
import torch
from sdic_train.networks.layers import ShortcutConv2d
torch.set_num_threads(1)
layer = ShortcutConv2d(4, 8, 2)
layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
for training in (True, False):
    layer.train(training)
    for _ in range(6):
        x = torch.randn(2, 4, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
        layer(x).square().mean().backward()
"""


def test_narrow_shortcuts_train_in_the_channels_last_layout() -> None:
    assert subprocess.run([sys.executable, "-c", STEPS], check=False).returncode == 0


@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 2), (1, 1)])
def test_values_and_gradients_are_those_of_the_convolution(kernel: int, stride: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 8, 8, generator=random, requires_grad=True)
    weight, bias = torch.randn(5, 16, kernel, kernel, generator=random, requires_grad=True), torch.randn(5, generator=random)
    results = []
    for conv in (strided, F.conv2d):
        y = conv(x, weight, bias, stride=stride, padding=kernel // 2)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight))))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_layers_use_it() -> None:
    x = torch.randn(1, 3, 8, 8)
    layer, other = ShortcutConv2d(3, 4, 2), EqualConv2d(3, 4, 1, stride=2)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, stride=2))
    layer.bias = torch.nn.Parameter(torch.randn(4))
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, stride=2))
    torch.testing.assert_close(other(x), F.conv2d(x, other.weight * other.scale, other.bias, stride=2))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_convolution_of_one_pixel_has_the_numbers_and_gradients_of_any(side: int) -> None:
    torch.manual_seed(0)
    layer, x = PixelConv2d(16, 16, 2), torch.randn(4, 16, side, side)
    plain = F.conv2d(x.double(), (weight := layer.weight.double().detach().requires_grad_()), layer.bias.double(), 2, 1)
    plain.square().sum().backward()
    junk = [torch.full_like(layer.weight, float("nan"), dtype=torch.bfloat16) for _ in range(8)]  # what new memory may hold
    del junk
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    found.float().square().sum().backward()
    assert layer.weight.grad is not None and weight.grad is not None
    torch.testing.assert_close(found.double(), plain, rtol=0, atol=0.03 * plain.std().item())
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, rtol=0, atol=0.03 * weight.grad.abs().max().item())
