"""DIPN optimized for CPUs against DIPN, in PyTorch and in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sdic_export.cpu.dipn import cpu_dipn
from sdic_export.cpu.slices import DepthSlices
from sdic_export.graphs.exporter import export_stage
from sdic_export.graphs.fusion import fused
from sdic_train.config import CARS, DEMO, FACES, TINY, ModelConfig
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.dipn import DIPN

CLOSE = 2e-5  # of the standard deviation; the tolerance of a bundle is ten times as much
# Channels that fill a block of the layout of ONNX Runtime's convolutions. Depths of 8, 4, 2 and 1 slices.
BLOCKS = replace(TINY, discrepancy=replace(TINY.discrepancy, descriptor=4, volume=(4, 16, 4, 8)))
# Depths of 24, 12, 6 and 3 slices, which no tile but one of three or six fits.
THREES = replace(BLOCKS, discrepancy=replace(BLOCKS.discrepancy, descriptor=12))


def network(config: ModelConfig) -> DIPN:
    """Random weights, with batch norms that change something."""
    torch.manual_seed(3)
    model = DIPN(config).eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.7, 1.3)
            part.weight.uniform_(0.8, 1.2)
            part.bias.normal_(0, 0.1)
    return model


def pictures(config: ModelConfig, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    image, reconstruction = torch.rand((2, count, 3, config.working, config.working), generator=generator) * 2 - 1
    return image, reconstruction


def optimized(model: DIPN, config: ModelConfig) -> nn.Module:
    modules = cpu_dipn(fused(model), *pictures(config, 1))
    assert modules is not None
    (module,) = modules
    return module


def off(found: np.ndarray, want: Tensor) -> float:
    assert found.shape == tuple(want.shape)
    return float(np.abs(found - want.numpy()).max() / want.numpy().std())


def test_the_same_numbers_in_onnx_runtime(tmp_path: Path) -> None:
    config, model, method = BLOCKS, network(BLOCKS), method_of(METHODS["sdic"], BLOCKS)
    stage = method.stages["dipn"]
    export_stage(optimized(model, config), stage, method, tmp_path / "dipn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "dipn.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        given = pictures(config, count)
        feed = {name: tensor.numpy() for name, tensor in zip(stage.inputs, given, strict=True)}
        assert off(session.run(list(stage.outputs), feed)[0], model(*given)) < CLOSE


@pytest.mark.parametrize("count", [1, 3])
def test_depths_that_no_tile_of_two_fits(count: int) -> None:
    model, given = network(THREES), pictures(THREES, count)
    assert off(optimized(model, THREES)(*given).numpy(), model(*given)) < CLOSE


@pytest.mark.parametrize(
    ("config", "gains"), [(TINY, False), (DEMO, False), (FACES, True), (CARS, True)], ids=["tiny", "demo", "faces", "cars"]
)
def test_only_models_whose_channels_fill_blocks_gain(config: ModelConfig, gains: bool) -> None:
    modules = cpu_dipn(fused(network(config)), *pictures(config, 1))
    assert (modules is not None) == gains
    assert not gains or any(isinstance(part, DepthSlices) for part in modules[0].modules())


def test_no_3d_and_no_transposed_convolution_is_left() -> None:
    module = optimized(network(BLOCKS), BLOCKS)
    kinds = nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    assert not [name for name, part in module.named_modules() if isinstance(part, kinds)]


def test_the_given_network_stays_as_it_was() -> None:
    model, given = network(BLOCKS), pictures(BLOCKS, 1)
    before = model(*given)
    names = [name for name, _ in model.named_modules()]
    found = optimized(model, BLOCKS)(*given)
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(model(*given), before)
    assert off(found.numpy(), before) < CLOSE
