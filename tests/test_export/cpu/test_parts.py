"""The parts of the generator's tail: as graphs, and in bands of rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdic_export.cpu import generator as cpu_generator
from sdic_export.cpu import parts as cpu_parts
from sdic_export.cpu.generator import bands
from sdic_export.cpu.parts import BandPart, LastBandPart, SummedBandEntrance, cpu_entrance, cpu_part
from sdic_export.graphs.parts import LastPartGraph, PartGraph, SummedEntranceGraph, sdic_modules
from sdic_train.config import TINY
from sdic_train.networks.sdic.model import SDIC

RESOLUTION = 512


@pytest.fixture(scope="module")
def large() -> SDIC:
    torch.manual_seed(0)
    channels = dict.fromkeys((4, 8, 16, 32, 64), 8) | {128: 4, 256: 4, 512: 2}
    return SDIC(replace(TINY, resolution=RESOLUTION, working=64, channels=channels)).eval().requires_grad_(False)


def chain(model: SDIC, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor, count: int | None) -> tuple[Tensor, list[Tensor]]:
    """The picture by the parts, in `count` bands each or as graphs when None, and what they hand on."""
    modules, made = sdic_modules(model), []

    def run(graph: torch.nn.Module, banded: list[torch.nn.Module], *inputs: Tensor) -> tuple[Tensor, ...]:
        results = [part(*inputs) for part in (banded if count else [graph])]
        tuples = [result if isinstance(result, tuple) else (result,) for result in results]
        joined = tuple(torch.cat(parts, 2) for parts in zip(*tuples, strict=True))
        made.extend(joined)
        return joined

    first = modules["generator_64"]
    assert isinstance(first, SummedEntranceGraph)
    (x,) = run(first, [SummedBandEntrance(first, rows) for rows in bands(64, count or 1)], feature, residual, latent)
    for size in (128, 256):
        graph = modules[f"generator_{size}"]
        assert isinstance(graph, PartGraph)
        x, rgb = run(graph, [BandPart(graph, rows) for rows in bands(size, count or 1)], x, rgb, latent)
    last = modules[f"generator_{RESOLUTION}"]
    assert isinstance(last, LastPartGraph)
    (picture,) = run(last, [LastBandPart(last, rows) for rows in bands(RESOLUTION, count or 1)], x, rgb, latent)
    return picture, made


def inputs(model: SDIC, pictures: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    latent = torch.randn(pictures, model.config.rows, model.config.style_width)
    feature, rgb = model.generator.head(latent)
    return feature, 0.1 * torch.randn_like(feature), rgb, latent


@pytest.mark.parametrize("count", [None, 1, 2, 3])
def test_the_parts_make_the_picture_of_the_tail(large: SDIC, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_parts, "STRIPED_FROM", 256)  # with strips in the middle too
    feature, residual, rgb, latent = inputs(large, 2)
    expected = large.generator.tail(feature, rgb, latent, residual)
    picture, made = chain(large, feature, residual, rgb, latent, count)
    assert (picture - expected).abs().max() / expected.std() < 2e-5
    for one, other in zip(made, chain(large, feature, residual, rgb, latent, None)[1], strict=True):
        assert (one - other).abs().max() / other.std() < 2e-5


def test_small_pictures_are_not_worth_bands(large: SDIC, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = sdic_modules(large)
    first, part = modules["generator_64"], modules["generator_128"]
    assert isinstance(first, SummedEntranceGraph) and isinstance(part, PartGraph)
    for smallest, count in ((RESOLUTION, 2), (2 * RESOLUTION, 0)):
        monkeypatch.setattr(cpu_parts, "BANDS_FROM", smallest)
        assert len(cpu_entrance(first) or []) == len(cpu_part(part) or []) == count
    assert cpu_generator.BANDS == 2
