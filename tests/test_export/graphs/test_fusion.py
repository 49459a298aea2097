"""Folding batch norms and equalized scales into weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdic_export.graphs.fusion import fused, round_to_half
from sdic_export.graphs.sdic import stage_modules
from sdic_train.networks.layers import BasicConv, EqualConv2d, EqualLinear
from sdic_train.networks.sdic.model import SDIC


def randomized(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.1, 4)
            part.weight.data.normal_()
            part.bias.data.normal_()
    return module.eval()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (BasicConv(3, 5, 3, 2, 1), (2, 3, 8, 8)),
        (BasicConv(3, 5, 4, 2, 1, transposed=True), (2, 3, 8, 8)),
        (BasicConv(3, 5, 3, 1, 1, volume=True), (2, 3, 4, 6, 6)),
        (BasicConv(3, 5, 4, 2, 1, volume=True, transposed=True), (2, 3, 4, 4, 4)),
        (BasicConv(3, 5, 3, 1, 1, norm=False), (2, 3, 8, 8)),
        (nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.LeakyReLU(), nn.Conv1d(6, 2, 1)), (2, 4, 9)),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)), (2, 3, 8, 8)),
        (nn.Sequential(EqualConv2d(3, 4, 3, 2, 1), EqualConv2d(4, 4, 1, bias=False)), (2, 3, 8, 8)),
        (nn.Sequential(EqualLinear(5, 3, bias=0.5, rate=0.1), EqualLinear(3, 3, activation=True)), (2, 5)),
    ],
)
def test_the_fused_module_computes_the_same(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = randomized(module)(x)
        torch.testing.assert_close(fused(module)(x), want, rtol=1e-5, atol=1e-5 * float(want.std()))


@pytest.mark.parametrize("stage", ["e4e", "dipn", "dicn"])
def test_only_norms_in_front_of_padded_convolutions_stay(model: SDIC, stage: str) -> None:
    clone = fused(stage_modules(model)[stage])
    norms = [
        (parent, name)
        for parent in clone.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    ]
    assert all(isinstance(parent, nn.Sequential) and name == "0" for parent, name in norms)


def test_the_model_itself_is_left_as_it_was(model: SDIC) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = {name: fused(module) for name, module in stage_modules(model).items()}
    for module in modules.values():
        round_to_half(module)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(modules) == 6


def test_what_is_not_folded_is_shared(model: SDIC) -> None:
    ours, theirs = fused(model.encoder), model.encoder
    assert ours.styles[0].convs[0].weight.data_ptr() == theirs.styles[0].convs[0].weight.data_ptr()
    assert ours.input_layer[0].weight.data_ptr() != theirs.input_layer[0].weight.data_ptr()


def test_rounding_keeps_small_tensors_and_those_out_of_range() -> None:
    module = nn.Module()
    values = torch.randn(300, generator=torch.Generator().manual_seed(0))
    module.large = nn.Parameter(values.clone())
    module.register_buffer("small", values[:20].clone())
    module.register_buffer("huge", values * 1e6)
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    round_to_half(module)
    assert isinstance(module.large, nn.Parameter) and module.large.dtype == torch.float32
    torch.testing.assert_close(module.large.data, values.half().float(), rtol=0, atol=0)
    assert not torch.equal(module.large.data, values)
    assert torch.equal(module.small, values[:20]) and torch.equal(module.huge, values * 1e6)
