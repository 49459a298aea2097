"""The convolutions over lists of slices against PyTorch's own convolutions in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from volume_examples import BATCH, CLOSE, expected, made, random

from sdic_export.cpu.slices import DepthSlices, DoublingSlices, FusionSlices, JoinSlices, StemSlices, StrideSlices
from sdic_export.graphs.fusion import fused
from sdic_train.networks.sdic.dipn import ContextFusion


def slices(volume: Tensor) -> list[Tensor]:
    """[N, C, D, H, W] -> D times [N, C, H, W]."""
    return list(volume.unbind(2))


def assert_close(found: Sequence[Tensor] | Tensor, want: Tensor) -> None:
    if not isinstance(found, Tensor):
        found = torch.stack(list(found), 2)
    assert found.dtype == torch.float32 and found.shape == want.shape
    assert float((found - want).abs().max() / want.std()) < CLOSE


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 12])
def test_stride_one_along_every_depth(depth: int) -> None:
    conv, x = made(nn.Conv3d, 6, 5, 3, 1, 1), random(BATCH, 6, depth, 7, 9)
    assert_close(DepthSlices(conv)(slices(x)), expected(conv, x))


@pytest.mark.parametrize("depth", [2, 6, 8])
def test_stride_two(depth: int) -> None:
    conv, x = made(nn.Conv3d, 4, 6, 3, 2, 1), random(BATCH, 4, depth, 8, 10)
    found = StrideSlices(conv)(slices(x)).unflatten(0, (BATCH, -1)).transpose(1, 2)
    assert_close(found, expected(conv, x))


@pytest.mark.parametrize("depth", [2, 8])
def test_stem_and_first_halving(depth: int) -> None:
    stem, stride, x = made(nn.Conv3d, 1, 3, 3, 1, 1), made(nn.Conv3d, 3, 5, 3, 2, 1), random(BATCH, 1, depth, 6, 8)
    assert_close(StemSlices(stem, stride, depth)(x.squeeze(1)), expected(stride, expected(stem, x)))


def test_joined_volumes() -> None:
    layers = [made(nn.Conv3d, 10, 5, 1), made(nn.Conv3d, 5, 5, 3, 1, 1), made(nn.Conv3d, 5, 5, 3, 1, 1)]
    x, skip = random(BATCH, 5, 6, 7, 9), random(BATCH, 5, 6, 7, 9).flip(3)
    want = torch.cat((x, skip), 1)
    for layer in layers:
        want = expected(layer, want)
    assert_close(JoinSlices(layers)(x.transpose(1, 2).flatten(0, 1), slices(skip)), want)


def test_context() -> None:
    torch.manual_seed(0)
    fusion = fused(ContextFusion(4, 6).eval()).double()
    x, context = random(BATCH, 4, 3, 8, 8), random(BATCH, 6, 8, 8)
    want = fusion(x.double(), context.double())
    assert_close(FusionSlices(fusion.float(), 8)(slices(x), context), want)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_transposed_to_one_channel(depth: int) -> None:
    conv, x = made(nn.ConvTranspose3d, 6, 1, 4, 2, 1, bias=False), random(BATCH, 6, depth, 5, 7)
    assert_close(DoublingSlices(conv)(slices(x)), expected(conv, x, False).squeeze(1))
