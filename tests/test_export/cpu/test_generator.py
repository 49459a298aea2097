"""Bands of the generator's tail and preview, against the graphs that compute whole pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdic_export.cpu import generator as cpu_generator
from sdic_export.cpu import winograd
from sdic_export.cpu.generator import BandPreview, BandTail, Rows, StripedBlock, bands, cpu_preview, cpu_tail, skip_rows
from sdic_export.graphs.exporter import export_stage, export_variant
from sdic_export.graphs.sdic import PreviewGraph, TailGraph
from sdic_export.inspect import multiplications
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

RESOLUTION, WORKING = 256, 64
# Also for the narrow layers and small pictures of a test.
EVERYWHERE = tuple(replace(form, channels=1, sizes=range(form.sizes.start * 2 // 3, form.sizes.stop)) for form in winograd.FORMS)


@pytest.fixture(scope="module")
def large() -> SDIC:
    """A narrow model whose preview samples the last layer."""
    torch.manual_seed(0)
    channels = dict.fromkeys((4, 8, 16, 32, 64), 8) | {128: 4, 256: 2}
    return SDIC(replace(TINY, resolution=RESOLUTION, working=WORKING, channels=channels)).eval().requires_grad_(False)


def inputs(model: SDIC) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    latent = torch.randn(1, model.config.rows, model.config.style_width)
    feature, rgb = model.generator.head(latent)
    return feature, 0.1 * torch.randn_like(feature), rgb, latent


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("forms", [winograd.FORMS, EVERYWHERE, EVERYWHERE[1:]])
def test_bands_make_the_picture(large: SDIC, count: int, forms: tuple[winograd.Form, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FORMS", forms)
    tail, tensors = TailGraph(large), inputs(large)
    expected = tail(*tensors)
    actual = torch.cat([BandTail(tail, rows)(*tensors) for rows in bands(RESOLUTION, count)], 2)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() / expected.std() < 2e-5


@pytest.mark.parametrize("count", [1, 2])
def test_blocks_in_strips(large: SDIC, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_generator, "STRIPED_FROM", 128)
    monkeypatch.setattr(cpu_generator, "STRIP_ROWS", 40)
    tail, tensors = TailGraph(large), inputs(large)
    tails = [BandTail(tail, rows) for rows in bands(RESOLUTION, count)]
    assert any(isinstance(part, StripedBlock) and len(part.parts) > 1 for part in tails[0].modules())
    expected = tail(*tensors)
    assert (torch.cat([part(*tensors) for part in tails], 2) - expected).abs().max() / expected.std() < 2e-5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bands_make_the_reconstruction(large: SDIC, count: int) -> None:
    preview, (feature, _, rgb, latent) = PreviewGraph(large), inputs(large)
    assert preview.sampled is not None
    expected = preview(feature, rgb, latent)
    actual = torch.cat([BandPreview(preview, rows)(feature, rgb, latent) for rows in bands(WORKING, count)], 2)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() / expected.std() < 2e-5
    torch.testing.assert_close(preview(feature, rgb, latent), expected)  # making bands does not change the graph they come from


def test_bands_of_several_pictures(large: SDIC) -> None:
    tail, tensors = TailGraph(large), [torch.cat([tensor, tensor.flip(2)]) for tensor in inputs(large)]
    expected = tail(*tensors)
    actual = torch.cat([BandTail(tail, rows)(*tensors) for rows in bands(RESOLUTION, 2)], 2)
    assert (actual - expected).abs().max() / expected.std() < 2e-5


def test_a_band_reads_little_more_than_its_share(large: SDIC) -> None:
    tail = TailGraph(large)
    upper, lower = (BandTail(tail, rows).path.needs for rows in bands(RESOLUTION, 2))
    assert (upper.start, lower.stop) == (0, 64)
    assert upper.stop <= 38 and lower.start >= 26


@pytest.mark.parametrize(("smallest", "count"), [(256, 2), (512, 0)])
def test_small_pictures_are_not_worth_bands(large: SDIC, smallest: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_generator, "BANDS_FROM", smallest)
    assert len(cpu_tail(TailGraph(large)) or []) == len(cpu_preview(PreviewGraph(large)) or []) == count


def test_rows() -> None:
    rows = Rows(4, 8, 16)
    assert rows.widened(1, 2) == Rows(3, 10, 16)
    assert rows.widened(9, 9) == Rows(0, 16, 16)
    assert rows.within(Rows(2, 10, 16)) == slice(2, 6)
    assert len(rows) == 4
    assert skip_rows(rows) == Rows(1, 5, 8)
    assert skip_rows(Rows(0, 16, 16)) == Rows(0, 8, 8)


def test_the_multiplications_of_a_band_are_counted(large: SDIC, tmp_path: Path) -> None:
    rows = bands(RESOLUTION, 2)[0]
    whole, band = tmp_path / "whole.onnx", tmp_path / "band.onnx"
    method = method_of(METHODS["sdic"], large.config)
    stage = method.stages["generator_tail"]
    export_stage(TailGraph(large).eval(), stage, method, whole)
    export_variant(BandTail(TailGraph(large), rows).eval(), stage, method, band, [], band=True)
    of_whole, of_band = multiplications(whole), multiplications(band)
    assert of_whole is not None and of_band is not None
    assert 0.5 < of_band / of_whole < 0.75  # the narrow layers of this model make the neighbours' rows weigh more
