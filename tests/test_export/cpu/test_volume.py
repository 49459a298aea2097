"""The building blocks of the optimized DIPN against PyTorch's own convolutions in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from volume_examples import BATCH, CLOSE, expected, made, random

from sdic_export.cpu.volume import (
    DepthConv,
    DepthDoubling,
    PairConv,
    Phases,
    PlainConv,
    RowConv,
    WinogradConv,
    convolution,
    leaky,
    parameters,
)


def slices(volume: Tensor) -> Tensor:
    """[N, C, D, H, W] -> [N * D, C, H, W]."""
    return volume.transpose(1, 2).flatten(0, 1)


def assert_close(found: Tensor, want: Tensor) -> None:
    assert found.dtype == torch.float32 and found.shape == want.shape
    assert float((found - want).abs().max() / want.std()) < CLOSE


@pytest.mark.parametrize("depth", [1, 2, 4, 5, 6, 7, 12, 16, 24])
def test_stride_one_along_every_depth(depth: int) -> None:
    conv, x = made(nn.Conv3d, 6, 5, 3, 1, 1), random(BATCH, 6, depth, 7, 9)
    assert_close(DepthConv(conv, depth)(slices(x)), slices(expected(conv, x)))


def test_fewer_multiplications_along_the_depth() -> None:
    module = DepthConv(made(nn.Conv3d, 6, 5, 3, 1, 1), 24)
    assert module.depth.groups * module.depth.tiles == 32  # of the 72 of a plain convolution


@pytest.mark.parametrize("depth", [2, 6, 8])
def test_stride_two(depth: int) -> None:
    conv, x = made(nn.Conv3d, 4, 6, 3, 2, 1), random(BATCH, 4, depth, 8, 10)
    assert_close(PairConv(conv, depth)(slices(x)), slices(expected(conv, x)))


@pytest.mark.parametrize("depth", [1, 2, 5, 6, 12])
def test_transposed_along_every_depth(depth: int) -> None:
    conv, x = made(nn.ConvTranspose3d, 6, 5, 4, 2, 1), random(BATCH, 6, depth, 5, 7)
    assert_close(DepthDoubling(conv, depth)(slices(x)), slices(expected(conv, x)))


def test_transposed_in_the_plane() -> None:
    conv, x = made(nn.ConvTranspose2d, 6, 5, 4, 2, 1), random(BATCH, 6, 5, 7)
    assert_close(Phases(conv.weight.transpose(0, 1), conv.bias)(x), expected(conv, x))


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("height", [4, 7, 16])
def test_rows(taps: int, height: int) -> None:
    conv, x = made(nn.Conv2d, 6, 5, taps, 1, taps // 2), random(BATCH, 6, height, 9)
    assert_close(RowConv(conv.weight, conv.bias, height)(x), expected(conv, x))
    assert_close(PlainConv(conv.weight, conv.bias, leaky)(x), expected(conv, x))


@pytest.mark.parametrize(
    ("channels", "taps", "height", "kind"),
    [(192, 3, 64, WinogradConv), (32, 3, 256, PlainConv), (48, 5, 32, RowConv), (16, 5, 128, PlainConv)],
)
def test_the_form_that_pays(channels: int, taps: int, height: int, kind: type[nn.Module]) -> None:
    conv, x = made(nn.Conv2d, channels, channels, taps, 1, taps // 2), random(1, channels, height, height)
    form = convolution(*parameters(conv), height)
    assert type(form) is kind
    assert_close(form(x), expected(conv, x))
