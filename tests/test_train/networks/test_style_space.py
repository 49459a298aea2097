"""Offsets to styles: what a generator gives is what one gives that is driven by styles alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdic_train.config import FACES, TINY
from sdic_train.networks.layers import EqualLinear
from sdic_train.networks.reference import PlainGenerator, styled_conv, to_rgb
from sdic_train.networks.style_space import StyledCode, layer_widths
from sdic_train.networks.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    made = Generator(replace(TINY, resolution=128)).eval().requires_grad_(False)
    for name, weight in made.named_parameters():
        if name.endswith(".noise.weight"):
            weight.data.normal_(0, 0.1)
    return made


def styles_of_code(generator: Generator, latent: Tensor) -> list[Tensor]:
    """All styles, layer by layer: which row a layer reads follows from the published architecture."""
    rows = [0, 1]
    for block in range(len(generator.to_rgbs)):
        rows += [2 * block + 1, 2 * block + 2, 2 * block + 3]
    return [layer.modulation(latent[:, row]) for layer, row in zip(generator.modulated(), rows, strict=True)]


class Given(EqualLinear):
    """In place of a modulation: the styles themselves."""

    def __init__(self, styles: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.styles = styles

    def forward(self, style: Tensor) -> Tensor:
        return self.styles


def driven_by(generator: Generator, styles: list[Tensor]) -> Tensor:
    """The picture of styles, by grouped convolutions."""
    import copy

    driven, noises = copy.deepcopy(generator), generator.noises.maps()
    for layer, given in zip(driven.modulated(), styles, strict=True):
        layer.modulation = Given(given)
    none = torch.zeros(len(styles[0]), generator.config.style_width)
    x = styled_conv(driven.conv1, driven.input.input.repeat(len(none), 1, 1, 1), none, noises[0])
    rgb = to_rgb(driven.to_rgb1, x, none)
    for block in range(len(driven.to_rgbs)):
        for layer in (2 * block + 1, 2 * block + 2):
            x = styled_conv(driven.styled(layer), x, none, noises[layer])
        rgb = to_rgb(driven.rgb_layer(block), x, none, rgb)
    return rgb


def test_offsets_are_added_to_the_styles_of_every_layer(generator: Generator) -> None:
    latent = torch.randn(2, generator.config.rows, generator.config.style_width, generator=torch.Generator().manual_seed(1))
    styles = styles_of_code(generator, latent)
    widths = layer_widths(generator.config)
    assert [part.shape[1] for part in styles] == list(widths)
    offsets = 0.5 * torch.randn(2, sum(widths), generator=torch.Generator().manual_seed(2))
    expected = driven_by(generator, [part + offset for part, offset in zip(styles, offsets.split(widths, 1), strict=True)])
    for form in (generator, PlainGenerator(generator)):
        code = StyledCode(latent, offsets)
        picture = form.tail(*form.head(code), code)  # type: ignore[arg-type]
        assert (picture - expected).abs().max() < 2e-5 * expected.std()
    assert (driven_by(generator, styles) - expected).abs().max() > 0.1 * expected.std()


def test_no_offsets_change_no_bit(generator: Generator) -> None:
    latent = torch.randn(1, generator.config.rows, generator.config.style_width, generator=torch.Generator().manual_seed(1))
    code = StyledCode(latent, torch.zeros(1, sum(layer_widths(generator.config))))
    assert torch.equal(generator.tail(*generator.head(code), code), generator(latent))  # type: ignore[arg-type]


def test_the_released_model_has_the_layers_of_stylespace() -> None:
    assert layer_widths(FACES) == (*[512] * 15, *[256] * 3, *[128] * 3, *[64] * 3, *[32] * 2)
    assert sum(layer_widths(FACES)) == 9088
