"""3D convolutions that train on a CPU: the numbers and gradients of PyTorch's own, by 2D ones where that pays and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock, patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.volumes import DEEPEST, VolumeConv, VolumeConvTranspose

KINDS = {nn.Conv3d: VolumeConv, nn.ConvTranspose3d: VolumeConvTranspose}


@pytest.fixture
def flat() -> Iterator[tuple[Mock, Mock]]:
    """The 2D convolutions, watched."""
    with patch.object(F, "conv2d", wraps=F.conv2d) as plain, patch.object(F, "conv_transpose2d", wraps=F.conv_transpose2d) as transposed:
        yield plain, transposed


def numbers(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What a layer makes of x, and the gradients of x and of the weight behind a sum with random factors."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    made = layer(x)
    made.backward(torch.randn(made.shape, generator=torch.Generator().manual_seed(1)))
    return [made.detach(), x.grad, layer.weight.grad.clone()]


@pytest.mark.parametrize(
    ("plain", "inputs", "outputs", "kernel", "stride", "padding", "depth"),
    [
        (nn.Conv3d, 1, 2, 3, 1, 1, 16),
        (nn.Conv3d, 2, 4, 3, 2, 1, 16),
        (nn.Conv3d, 3, 5, 3, 2, 1, 7),
        (nn.Conv3d, 4, 4, 3, 1, 0, 5),
        (nn.Conv3d, 4, 3, (3, 1, 5), 1, (1, 0, 2), 4),
        (nn.ConvTranspose3d, 4, 1, 4, 2, 1, 8),
        (nn.ConvTranspose3d, 3, 2, 3, 1, 1, 6),
        (nn.ConvTranspose3d, 3, 2, 2, 2, 0, 3),
    ],
)
def test_numbers_and_gradients_are_those_of_pytorch(
    flat: tuple[Mock, Mock], plain: type, inputs: int, outputs: int, kernel: object, stride: int, padding: object, depth: int
) -> None:
    torch.manual_seed(0)
    reference = plain(inputs, outputs, kernel, stride, padding, bias=False)
    layer = KINDS[plain](inputs, outputs, kernel, stride, padding, bias=False)
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(2, inputs, depth, 9, 8)
    wanted, found = numbers(reference, x), numbers(layer, x)
    assert flat[plain is nn.ConvTranspose3d].call_count == 1
    for want, got in zip(wanted, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_only_what_trains_mixes_few_slices_and_is_plain_is_rearranged(flat: tuple[Mock, Mock]) -> None:
    x = torch.randn(1, 2, 4, 5, 5)
    deep = torch.randn(1, 2, DEEPEST + 1, 5, 5)
    layer, upward = VolumeConv(2, 2, 3, 1, 1, bias=False), VolumeConvTranspose(2, 2, 4, 2, 1, bias=False)
    with torch.no_grad():
        layer(x), upward(x)
    layer(deep), upward(deep[:, :, : DEEPEST // 2 + 1])
    upward(x, output_size=[8, 10, 10])
    for other in (
        VolumeConv(2, 2, (1, 5, 5), 1, (0, 2, 2), bias=False),
        VolumeConv(2, 2, 3, 1, 1),
        VolumeConv(2, 2, 3, 1, 1, groups=2, bias=False),
        VolumeConv(2, 2, 3, (1, 2, 2), 1, bias=False),
        VolumeConv(2, 2, 3, 1, 2, dilation=2, bias=False),
        VolumeConvTranspose(2, 2, 3, 2, 1, output_padding=1, bias=False),
        VolumeConv(2, 2, 3, 1, 1, bias=False).requires_grad_(False),
    ):
        other(x)
    assert [each.call_count for each in flat] == [0, 0]
    layer(x), upward(x)
    assert [each.call_count for each in flat] == [1, 1]
