"""DIPN arranged for processors against DIPN, in PyTorch and in ONNX Runtime."""

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
from sdic_runtime.stages import STAGES
from sdic_train.config import DEMO, FACES, TINY, ModelConfig
from sdic_train.networks.sdic.dipn import DIPN

STAGE = STAGES["dipn"]
CLOSE = 2e-5  # of the standard deviation; the tolerance of a bundle is ten times as much
# Depths of 24, 12, 6 and 3 slices, which no tile but one of three or six fits.
THREES = replace(TINY, discrepancy=replace(TINY.discrepancy, descriptor=12))
# Channels that fill a block of the layout of ONNX Runtime's convolutions: lists of slices; 8, 4, 2 and 1 of them.
BLOCKS = replace(TINY, discrepancy=replace(TINY.discrepancy, descriptor=4, volume=(4, 16, 4, 8)))


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


def off(found: np.ndarray, want: Tensor) -> float:
    assert found.shape == tuple(want.shape)
    return float(np.abs(found - want.numpy()).max() / want.numpy().std())


@pytest.mark.parametrize("config", [TINY, DEMO, BLOCKS], ids=["tiny", "demo", "blocks"])
def test_the_same_numbers_in_onnx_runtime(config: ModelConfig, tmp_path: Path) -> None:
    model = network(config)
    export_stage(cpu_dipn(model, config.working), STAGE, config.sizes, tmp_path / "dipn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "dipn.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        given = pictures(config, count)
        feed = {name: tensor.numpy() for name, tensor in zip(STAGE.inputs, given, strict=True)}
        assert off(session.run(list(STAGE.outputs), feed)[0], model(*given)) < CLOSE


@pytest.mark.parametrize("count", [1, 3])
def test_depths_that_no_tile_of_two_fits(count: int) -> None:
    model, given = network(THREES), pictures(THREES, count)
    assert off(cpu_dipn(model, THREES.working)(*given).numpy(), model(*given)) < CLOSE


@pytest.mark.parametrize(("config", "listed"), [(TINY, False), (BLOCKS, True), (FACES, True)], ids=["tiny", "blocks", "faces"])
def test_lists_of_slices_where_channels_fill_blocks(config: ModelConfig, listed: bool) -> None:
    assert any(isinstance(part, DepthSlices) for part in cpu_dipn(network(config), config.working).modules()) == listed


def test_no_3d_and_no_transposed_convolution_is_left() -> None:
    module = cpu_dipn(network(TINY), TINY.working)
    kinds = nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    assert not [name for name, part in module.named_modules() if isinstance(part, kinds)]


def test_the_given_network_stays_as_it_was() -> None:
    model, given = network(TINY), pictures(TINY, 1)
    before = model(*given)
    names = [name for name, _ in model.named_modules()]
    found = cpu_dipn(model, TINY.working)(*given)
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(model(*given), before)
    assert off(found.numpy(), before) < CLOSE
