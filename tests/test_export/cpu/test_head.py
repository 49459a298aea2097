"""The head optimized for CPUs, against the head as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sdic_export.cpu import head as forms
from sdic_export.cpu.generator import BandUp
from sdic_export.cpu.head import WinogradStyledConv, cpu_head
from sdic_export.graphs.exporter import export_alone, export_stage
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import FoldedBlock, HeadGraph
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

METHOD = method_of(METHODS["sdic"], TINY)
HEAD = METHOD.stages["generator_head"]


@pytest.fixture(params=(1, 16, 32), ids=lambda size: f"from {size}")
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The other forms also for narrow layers, and for all pictures from some size on."""
    monkeypatch.setattr(forms, "CHANNELS_FROM", 1)
    for name in ("WINOGRAD_FROM", "PHASES_FROM"):
        monkeypatch.setattr(forms, name, request.param)
    return int(request.param)


def optimized(model: SDIC) -> HeadGraph:
    modules = cpu_head(fused(HeadGraph(model)))
    assert modules is not None and isinstance(modules[0], HeadGraph)
    return modules[0]


def latents(model: SDIC, batch: int) -> torch.Tensor:
    return torch.randn(METHOD.shape("latent", batch), generator=torch.Generator().manual_seed(3))


def test_the_other_forms_compute_the_head(model: SDIC, everywhere: int) -> None:
    latent = latents(model, 3)
    expected = HeadGraph(model)(latent)
    head = optimized(model)
    replaced = sum(isinstance(part, BandUp | WinogradStyledConv) for part in head.modules())
    assert replaced == {1: 7, 16: 5, 32: 3}[everywhere]
    for actual, wanted in zip(head(latent), expected, strict=True):
        assert actual.shape == wanted.shape
        assert (actual - wanted).abs().max() / wanted.std() < 3e-5


def test_wide_layers_of_large_pictures_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released channels."""
    torch.manual_seed(0)
    wide = SDIC(replace(TINY, channels={**TINY.channels, 16: 256, 32: 256, 64: 256}))
    head = optimized(wide)
    blocks = [block for block in head.blocks if isinstance(block, FoldedBlock)]
    kinds = [[type(layer).__name__ for layer in (block.up, block.conv)] for block in blocks]
    assert kinds == [["FoldedStyledConv"] * 2, ["FoldedStyledConv"] * 2, ["BandUp", "WinogradStyledConv"]]
    assert isinstance(head.up, BandUp)


def test_a_narrow_head_stays_as_it_is(model: SDIC) -> None:
    graph = HeadGraph(model)
    layers = list(graph.modules())
    assert cpu_head(graph) is None
    assert list(graph.modules()) == layers


@pytest.mark.parametrize("everywhere", [16], indirect=True)
def test_the_graph_takes_any_batch_and_has_one_for_the_rgb_alone(model: SDIC, everywhere: int, tmp_path: Path) -> None:
    cpu, partial = tmp_path / "head.cpu.onnx", tmp_path / "head.cpu.rgb.onnx"
    export_stage(optimized(model), HEAD, METHOD, cpu)
    export_alone(cpu, "rgb", partial)
    whole, rgb = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (cpu, partial))
    for batch in (1, 3):
        latent = latents(model, batch)
        found = dict(zip(HEAD.outputs, whole.run(list(HEAD.outputs), {"latent": latent.numpy()}), strict=True))
        for name, tensor in zip(HEAD.outputs, HeadGraph(model)(latent), strict=True):
            assert np.abs(found[name] - tensor.numpy()).max() / tensor.std() < 3e-5
        np.testing.assert_array_equal(rgb.run(["rgb"], {"latent": latent.numpy()})[0], found["rgb"])
