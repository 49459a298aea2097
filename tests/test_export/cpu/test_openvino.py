"""Stages arranged for OpenVINO, against the stages as they are."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdic_export.cpu import convolutions, encoder
from sdic_export.cpu import openvino as forms
from sdic_export.cpu.openvino import (
    PairedDoubling,
    SeparateWinogradConv2d,
    SharedFirstConvs,
    openvino_dicn,
    openvino_dipn,
    openvino_encoder,
    openvino_entrance,
    openvino_generator,
    openvino_part,
)
from sdic_export.cpu.winograd import TAPS, TILE, WinogradConv2d, toom_cook
from sdic_export.graphs.exporter import export_stage
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.parts import SummedEntranceGraph, tail_modules
from sdic_export.graphs.sdic import DICNGraph, EncoderGraph, PreviewGraph, TailGraph
from sdic_runtime.cpus import has_bfloat16
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

METHOD = method_of(METHODS["sdic"], TINY)


def example(stage: str, batch: int = 2) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(METHOD.shape(name, batch), generator=random) for name in METHOD.stages[stage].inputs]


def equal(stage: str, graph: nn.Module, arranged: nn.Module, most: float) -> None:
    inputs = example(stage)
    with torch.no_grad():
        found, expected = arranged(*inputs), graph(*inputs)
    for value, reference in zip(*((item if isinstance(item, tuple) else (item,)) for item in (found, expected)), strict=True):
        assert value.shape == reference.shape
        assert (value - reference).abs().max() / reference.std() < most


@pytest.mark.parametrize("taps", [(TILE, TAPS), (6, 3), (2, 2), (3, 3), (4, 2)])
def test_the_analysis_is_whole_numbers_over_powers_of_two(taps: tuple[int, int]) -> None:
    _, _, before = toom_cook(*taps)
    whole = before * 2.0**20
    assert (whole == whole.round()).all() and 0.7 <= np.linalg.norm(before, axis=1).min() <= np.linalg.norm(before, axis=1).max() <= 1.42


def test_one_axis_of_the_transform_is_exact_in_bfloat16() -> None:
    before = torch.from_numpy(toom_cook(TILE, TAPS)[2]).float()
    assert torch.equal(before.bfloat16().float(), before)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (6, 10), (5, 7), (67, 12)])
def test_separate_transforms_are_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, *size), torch.randn(5, 6, 3, 3)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert (SeparateWinogradConv2d(weight, size)(x) - expected).abs().max() / expected.std() < 1e-5


@pytest.mark.parametrize("size", [(2, 3, 4), (1, 1, 1), (5, 2, 7)])
def test_paired_doubling_is_the_transposed_convolution(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose3d(6, 1, 4, 2, 1, bias=False)
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(PairedDoubling(layer.weight.detach())(x), layer(x))


@pytest.mark.parametrize(("stage", "graph"), [("generator_preview", PreviewGraph), ("generator_tail", TailGraph)])
def test_the_generator_behind_layer_7(model: SDIC, stage: str, graph: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fused(graph(model))
    assert openvino_generator(deepcopy(whole)) is None, "narrow layers gain nothing"
    monkeypatch.setattr(forms, "faster_form", lambda inputs, outputs, columns: WinogradConv2d if columns <= 64 else None)
    arranged = openvino_generator(deepcopy(whole))
    assert arranged is not None
    kinds = Counter(type(part).__name__ for part in arranged[0].modules())
    assert kinds["SeparateWinogradConv2d"] == 1 and kinds["LastToRGB"] == len(whole.blocks)
    equal(stage, whole, arranged[0], 1e-4)


def test_parts_of_the_tail_have_the_forms_of_the_whole(model: SDIC, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: fused(part) for name, part in tail_modules(model.generator, SummedEntranceGraph).items()}
    first, *_, last = parts
    assert openvino_entrance(deepcopy(parts[first])) is None and openvino_part(deepcopy(parts[last])) is None, "too small to gain"
    monkeypatch.setattr(forms, "faster_form", lambda inputs, outputs, columns: WinogradConv2d if columns <= 64 else None)
    monkeypatch.setattr(forms, "BANDS_FROM", 0)
    for name, arrange, kind in ((first, openvino_entrance, "SeparateWinogradConv2d"), (last, openvino_part, "LastToRGB")):
        arranged = arrange(deepcopy(parts[name]))  # type: ignore[arg-type]
        assert arranged is not None
        assert Counter(type(part).__name__ for part in arranged[0].modules())[kind] == 1
        random = torch.Generator().manual_seed(1)
        inputs = [torch.randn(METHOD.shape(tensor, 2), generator=random) for tensor in METHOD.stage(name).inputs]
        with torch.no_grad():
            found, expected = arranged[0](*inputs), parts[name](*inputs)
        assert (found - expected).abs().max() <= 1e-4 * expected.std()


def test_dicn_and_dipn(model: SDIC, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "faster_form", lambda inputs, outputs, columns: WinogradConv2d)
    for stage, graph, arrange, form in (
        ("dicn", DICNGraph(model), openvino_dicn, SeparateWinogradConv2d),
        ("dipn", model.dipn, openvino_dipn, PairedDoubling),
    ):
        whole = fused(graph).eval()
        (made,) = arrange(deepcopy(whole), *example(stage, 1))  # type: ignore[operator]
        assert any(isinstance(part, form) for part in made.modules())
        equal(stage, whole, made, 1e-4)


def test_openvino_multiplies_the_transforms_in_bfloat16(model: SDIC, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if not has_bfloat16():
        pytest.skip("this CPU does not multiply in bfloat16")
    monkeypatch.setattr(forms, "faster_form", lambda inputs, outputs, columns: WinogradConv2d if columns <= 64 else None)
    arranged = openvino_generator(fused(TailGraph(model)))
    assert arranged is not None
    export_stage(arranged[0], METHOD.stages["generator_tail"], METHOD, tmp_path / "tail.onnx")
    network = openvino.Core().read_model(tmp_path / "tail.onnx")
    network.reshape({name: list(METHOD.shape(name, 1)) for name in METHOD.stages["generator_tail"].inputs})
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "PERF_COUNT": True})
    request = compiled.create_infer_request()
    request.infer(
        {name: value.numpy() for name, value in zip(METHOD.stages["generator_tail"].inputs, example("generator_tail", 1), strict=True)}
    )
    kinds = [item.exec_type for item in request.profiling_info if item.node_type == "MatMul"]
    assert len(kinds) >= 3 and all(kind.endswith("bf16") for kind in kinds), kinds


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (4, 4)])
def test_shared_first_convolutions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 5, 3, 2, 1) for _ in range(3)]
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        for layer, found in zip(layers, SharedFirstConvs(layers, size)(x), strict=True):
            torch.testing.assert_close(found, layer(x), atol=2e-6, rtol=1e-5)


def test_the_encoder(model: SDIC, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fused(EncoderGraph(model)).eval()
    assert openvino_encoder(deepcopy(whole), *example("e4e", 1)) is None, "small levels gain nothing"
    monkeypatch.setattr(encoder, "SHARING_FROM", 8)
    arranged = openvino_encoder(deepcopy(whole), *example("e4e", 1))
    assert arranged is not None and any(isinstance(part, SharedFirstConvs) for part in arranged[0].modules())
    equal("e4e", whole, arranged[0], 1e-4)
