"""Bundles with style space: every method has it as data, and the graphs give what PyTorch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_methods as small
import small_parts
import torch
from small_bundles import small_bundle, styled_bundle

from sdic_export.cpu import generator as cpu_generator
from sdic_export.cpu import head as cpu_head
from sdic_export.graphs.style_space import StyledGraph, styled_export
from sdic_export.methods import EXPORTS
from sdic_export.verify import verify
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import STYLES
from sdic_runtime.styles import StyleDirection
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.style_space import NO_STYLES, with_style_space
from sdic_train.methods.trace import method_of
from sdic_train.networks.style_space import StyledCode, layer_widths

CONFIGS = dict.fromkeys(METHODS, small.SMALL) | {
    "sdic": TINY,
    "hyperstyle": small_parts.HYPER,
    "clcae": small_parts.ATTENTIVE,
    "fs": small_parts.STYLED,
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_style_space_as_data(name: str) -> None:
    code = METHODS[name].iterating(2 if METHODS[name].iterations else None)
    plain, method = method_of(code, CONFIGS[name]), method_of(with_style_space(code), CONFIGS[name])
    assert method.moves == plain.moves and method.keeps == (*plain.keeps, STYLES)
    for stage, table in method.stages.items():
        assert (STYLES in table.inputs) == stage.startswith("generator"), stage
    for program in {move.program for move in method.moves.values()}:
        assert STYLES in method.programs[program].takes
        reading = [step for step in method.programs[program].steps if step.stage.startswith("generator")]
        assert reading and all(step.inputs[STYLES] == STYLES for step in reading)
    first, *rest = method.programs["invert"].steps
    assert first.stage == NO_STYLES and [step.stage for step in rest] == [step.stage for step in plain.programs["invert"].steps]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return styled_bundle(tmp_path_factory)


def test_a_bundle_verifies_and_its_style_edits_are_those_of_pytorch(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert not verify(bundle, checkpoint=small_bundle(tmp_path_factory, "e4e").parent / "small.pt").failures
    model, image = small.small_model("e4e"), small.small_images(small.SMALL).numpy()
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        inversion = pipeline.invert(image)
        style = StyleDirection(np.random.default_rng(0).normal(0, 0.3, sum(layer_widths(small.SMALL))).astype(np.float32))
        direction = np.random.default_rng(1).normal(0, 0.2, (1, small.SMALL.style_width)).astype(np.float32)
        with torch.no_grad():
            latent = model.encode(torch.from_numpy(image))
            code = StyledCode(latent + torch.from_numpy(0.5 * direction), torch.from_numpy(2 * style.vector)[None].expand(2, -1))
            expected = model.generator.tail(*model.generator.head(code), code).numpy()  # type: ignore[arg-type]
            plain = model.generator(latent).numpy()
        assert np.abs(inversion.pixels - plain).max() <= 2e-4 * plain.std()
        edited = pipeline.edit(inversion, [(style, 2.0), (direction, 0.5)]).pixels
        assert np.abs(edited - expected).max() <= 2e-4 * expected.std()
        np.testing.assert_array_equal(pipeline.edit(inversion, style, 0).pixels, inversion.pixels)
        one = pipeline.edit(inversion, EditOrder.parse("2/3:5").edit(pipeline.bundle)).pixels
        assert np.abs(one - inversion.pixels).max() > 1e-2 * expected.std()


def test_a_head_optimized_for_cpus_takes_offsets_too() -> None:
    """By phases and by Winograd's algorithm, as released models have it."""
    export = styled_export(EXPORTS["e4e"])
    model = small.small_model("e4e")
    latent, styles = torch.randn(2, 12, small.SMALL.style_width), 0.3 * torch.randn(2, sum(layer_widths(small.SMALL)))
    expected = model.generator.head(StyledCode(latent, styles))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_head, "CHANNELS_FROM", 1)
        (arranged,) = export.cpu["generator_head"](export.modules(model)["generator_head"], latent, styles) or ()
    assert isinstance(arranged, StyledGraph)
    for got, want in zip(arranged(latent, styles), expected, strict=True):
        assert (got - want).abs().max() < 2e-5 * want.std()


def test_bands_take_offsets_too() -> None:
    export = styled_export(EXPORTS["e4e"])
    model = small.small_model("e4e")
    latent, styles = torch.randn(1, 12, small.SMALL.style_width), 0.3 * torch.randn(1, sum(layer_widths(small.SMALL)))
    code = StyledCode(latent, styles)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        feature, rgb = model.generator.head(code)  # type: ignore[arg-type]
        expected = model.generator.tail(feature, rgb, code)  # type: ignore[arg-type]
        patch.setattr(cpu_generator, "BANDS_FROM", 128)
        bands = export.cpu["generator_tail"](export.modules(model)["generator_tail"], feature, rgb, latent, styles) or ()
        picture = torch.cat([band(feature, rgb, latent, styles) for band in bands], 2)
    assert len(bands) == 2
    assert (picture - expected).abs().max() < 2e-5 * expected.std()
