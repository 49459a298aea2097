"""The modules that are exported compute what the networks compute."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from models import AFFINE, LARGER, LARGEST, model_of, ratio

from sdic_export.graphs.folded import FoldedStyledConv
from sdic_export.graphs.hyperstyle import TunedStyledConv
from sdic_export.graphs.sdic import stage_modules
from sdic_train.config import TINY, ModelConfig
from sdic_train.methods import method_named
from sdic_train.networks.stylegan2 import ModulatedConv2d


@pytest.mark.parametrize(
    "config",
    [TINY, LARGER, LARGEST, AFFINE],
    ids=lambda config: f"ratio {config.resolution // config.working}, {config.discrepancy.fusion}",
)
def test_every_stage_graph_equals_the_network(config: ModelConfig) -> None:
    model = model_of(config)
    stages, tables = stage_modules(model), method_named("sdic").tables(config).stages
    assert list(stages) == list(tables)
    image = torch.rand(2, 3, config.working, config.working) * 2 - 1
    with torch.no_grad():
        want = model.invert(image)._asdict()
        _, want["rgb"] = model.generator.head(want["latent"])
        want["image"] = image
        for name, stage in tables.items():
            inputs = [want["latent_enhanced" if (name, key) == ("generator_tail", "latent") else key] for key in stage.inputs]
            if name == "generator_tail":
                inputs[stage.inputs.index("rgb")] = model.generator.head(want["latent_enhanced"])[1]
            got = stages[name](*inputs)
            for key, value in zip(stage.outputs, got if isinstance(got, tuple) else (got,), strict=True):
                assert ratio(value, want[key]) < 5e-5, (name, key)


@pytest.mark.parametrize("crop", [None, (16, 112), (0, 16)], ids=str)
def test_encoder_graph_omits_only_taps_that_read_padding(crop: tuple[int, int] | None) -> None:
    config = replace(TINY, working=128, encoder=replace(TINY.encoder, crop=crop))
    model = model_of(config)
    graph = stage_modules(model)["e4e"]
    with torch.no_grad():
        image = torch.rand(2, 3, config.working, config.working) * 2 - 1
        assert ratio(graph(image), model.encode(image)) < 1e-5
    kernels = {block.convs[-2].weight.shape[-1] for block in graph.encoder.styles}  # type: ignore[union-attr]
    assert kernels == ({3} if crop == (0, 16) else {2})
    assert all(block.convs[-2].weight.shape[-1] == 3 for block in model.encoder.styles)  # the model itself is as it was


def test_scaled_weights_change_nothing_where_demodulation_cancels_it() -> None:
    model = model_of(TINY)
    scaled = deepcopy(model)
    for layer in [scaled.generator.conv1, *scaled.generator.convs]:
        assert isinstance(layer.conv, ModulatedConv2d)
        layer.conv.weight.data *= 8
    latent = torch.randn(1, TINY.rows, TINY.style_width)
    with torch.no_grad():
        for got, want in zip(stage_modules(scaled)["generator_head"](latent), stage_modules(model)["generator_head"](latent), strict=True):
            assert ratio(got, want) < 1e-4


@pytest.mark.parametrize("zero", ["weight", "styles", "both"])
@pytest.mark.parametrize("number", [0, 1])
def test_layers_of_zeros_are_no_division_by_zero(zero: str, number: int) -> None:
    model = model_of(TINY)
    layer, noise = model.generator.styled(number), model.generator.noises.maps()[number]
    assert isinstance(layer.conv, ModulatedConv2d)
    if zero != "styles":
        layer.conv.weight.data.zero_()
    if zero != "weight":
        layer.conv.modulation.weight.data.zero_()
        layer.conv.modulation.bias.data.zero_()
    side = noise.shape[-1] // (2 if layer.conv.upsample else 1)
    x, style = torch.randn(2, layer.conv.weight.shape[2], side, side), torch.randn(2, TINY.style_width)
    tuned = TunedStyledConv(layer, noise)
    with torch.no_grad():
        want = layer(x, style, noise)
        assert ratio(FoldedStyledConv(layer, noise)(x, style), want) < 1e-5
        assert ratio(tuned(x[:1], style[:1], torch.zeros(1, *layer.conv.weight.shape[1:3])), want[:1]) < 1e-5
