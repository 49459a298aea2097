"""e4e and plain convolutions optimized for CPUs, against the networks themselves."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import small_methods
import torch
from torch import nn

from sdic_export.cpu import mapped, winograd
from sdic_export.cpu.convolutions import SplitPReLU, optimized
from sdic_export.cpu.encoder import CpuEncoder, ParityConv, SharedFirstConv, SharedStyles, cpu_encoder
from sdic_export.cpu.mapped import MappedConv
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import EncoderGraph
from sdic_export.methods import export_code
from sdic_train.methods.trace import method_of
from sdic_train.networks.e4e import StyleBlock
from sdic_train.networks.layers import BottleneckIR
from sdic_train.networks.sdic.model import SDIC

# Also for the narrow layers and small pictures of a test.
EVERYWHERE = tuple(replace(form, channels=1, sizes=range(form.sizes.start * 2 // 3, form.sizes.stop)) for form in winograd.FORMS)


def largest(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.std())


@pytest.mark.parametrize("size", [(8, 8), (16, 32), (64, 64)])
def test_first_convolutions_of_a_level_at_once(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 5, 3, 2, 1) for _ in range(3)]
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        together = torch.stack(SharedFirstConv(layers, size)(x), 2)
        expected = torch.stack([layer(x) for layer in layers], 1)
    assert together.shape == (2, 4, 3, 5, size[0] // 4, size[1] // 4)
    for parity in range(4):
        assert largest(together[:, parity], expected[..., parity // 2 :: 2, parity % 2 :: 2]) < 1e-5


def test_second_convolution_reads_the_parities() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 5, 3, 2, 1), torch.randn(2, 6, 16, 16)
    parities = [x[..., parity // 2 :: 2, parity % 2 :: 2] for parity in range(4)]
    with torch.no_grad():
        assert largest(ParityConv(layer)(parities), layer(x)) < 1e-5


def test_style_blocks_that_share_a_level() -> None:
    torch.manual_seed(0)
    blocks, x = [StyleBlock(6, 5, 7, 32) for _ in range(3)], torch.randn(2, 6, 32, 32)
    with torch.no_grad():
        for actual, block in zip(SharedStyles(blocks, (32, 32))(x), blocks, strict=True):
            assert largest(actual, block(x)) < 1e-5


def test_encoder_of_a_model(model: SDIC, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdic_export.cpu.encoder.SHARING_FROM", 8)
    monkeypatch.setattr(winograd, "FORMS", EVERYWHERE)
    monkeypatch.setattr(mapped, "HEAVY", 1)
    torch.manual_seed(0)
    image = torch.randn(2, 3, model.config.working, model.config.working)
    graph = EncoderGraph(model).eval()
    with torch.no_grad():
        (cpu,) = cpu_encoder(fused(graph), image[:1])
        assert isinstance(cpu, CpuEncoder)
        assert any(isinstance(level, SharedStyles) for level in cpu.levels)
        assert any(isinstance(module, winograd.RowWinogradConv2d) for module in cpu.modules())
        assert any(isinstance(module, MappedConv) for module in cpu.levels[0].modules()), "the coarsest level, which is not shared"
        assert largest(cpu(image), graph(image)) < 1e-5


@pytest.mark.parametrize("name", ["e4e", "hfgi", "psp", "restyle-e4e", "restyle-psp", "sfe"])
def test_encoders_of_other_methods(name: str) -> None:
    export, model = export_code(name), small_methods.small_model(name)
    graph = export.modules(model)["encoder"].eval()
    method = method_of(export.code, model.config)
    torch.manual_seed(0)
    inputs = [torch.randn(method.shape(each, 2)) for each in method.stage("encoder").inputs]
    with torch.no_grad():
        want = graph(*inputs)
        (cpu,) = export.cpu["encoder"](fused(graph), *(each[:1] for each in inputs))
        assert (
            isinstance(cpu, CpuEncoder)
            and any(isinstance(level, SharedStyles) for level in cpu.levels) == cpu.encoder.config.encoder.pyramid
        )
        assert largest(cpu(*inputs), want) < 1e-5


def test_batch_norm_in_front_of_a_padded_convolution_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FORMS", EVERYWHERE)
    torch.manual_seed(0)
    unit, x = BottleneckIR(6, 6, reduction=2).eval(), torch.randn(2, 6, 16, 16)
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    with torch.no_grad():
        cpu = optimized(fused(copy.deepcopy(unit)), x[:1])
        assert not any(isinstance(module, nn.BatchNorm2d) for module in cpu.modules())
        assert largest(cpu(x), unit(x)) < 1e-5


@pytest.mark.parametrize("behind_convolution", [False, True])
@pytest.mark.parametrize("largest_slope", [0.9, 1.0, 3.0])
def test_prelu_with_any_slope(largest_slope: float, behind_convolution: bool) -> None:
    layer, x = nn.PReLU(5), torch.randn(2, 5, 4, 4)
    layer.weight = nn.Parameter(torch.tensor([-2.0, -0.5, 0.0, 0.25, largest_slope]))
    with torch.no_grad():
        torch.testing.assert_close(SplitPReLU(layer, behind_convolution)(x), layer(x))


@pytest.mark.parametrize("forms", [(), EVERYWHERE], ids=["direct", "winograd"])
@pytest.mark.parametrize("bias", [False, True])
def test_channels_with_slopes_above_one_are_turned(forms: tuple[winograd.Form, ...], bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FORMS", forms)
    torch.manual_seed(0)
    activation, x = nn.PReLU(5), torch.randn(2, 4, 16, 16)
    activation.weight = nn.Parameter(torch.tensor([-2.0, 0.25, 1.0, 1.5, 3.0]))
    layers = nn.Sequential(nn.Conv2d(4, 5, 3, 1, 1, bias=bias), activation, nn.Conv2d(5, 6, 3, 2, 1, bias=bias))
    with torch.no_grad():
        expected = layers(x)
        cpu = optimized(copy.deepcopy(layers), x)
        (split,) = (module for module in cpu.modules() if isinstance(module, SplitPReLU))
        assert split.is_maximum and split.behind_convolution == (not forms)
        assert largest(cpu(x), expected) < 1e-5


def test_forms_of_prelu_and_of_a_shortcut() -> None:
    torch.manual_seed(0)
    unit, x = BottleneckIR(6, 6, stride=2, reduction=2).eval(), torch.randn(2, 6, 9, 9)
    layers = nn.Sequential(unit, nn.Identity(), nn.PReLU(6))
    with torch.no_grad():
        expected = layers(x)
        cpu = optimized(layers, x)
        assert not [module for module in cpu.modules() if isinstance(module, nn.PReLU)]
        assert [module.behind_convolution for module in cpu.modules() if isinstance(module, SplitPReLU)] == [True, False]
        assert any(isinstance(module, nn.MaxPool2d) for module in cpu.modules())
        assert largest(cpu(x), expected) < 1e-5
