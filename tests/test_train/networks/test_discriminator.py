"""The discriminator's shapes, and what its minibatch statistic sees."""

from __future__ import annotations

import pytest
import torch

from sdic_runtime.errors import SdicError
from sdic_train.networks.discriminator import Discriminator, deviation_channel

WIDTHS = {4: 8, 8: 8, 16: 8, 32: 4, 64: 4, 128: 4}


@pytest.mark.parametrize("size", [16, 64, 128])
def test_shapes(size: int) -> None:
    network = Discriminator(size, WIDTHS)
    picture = torch.randn(4, 3, size, size)
    features = network.features(picture)
    assert [tuple(level.shape[1:]) for level in features] == [(WIDTHS[side], side, side) for side in (64, 32, 16, 8, 4) if side < size]
    assert network(picture).shape == (4, 1)
    assert torch.equal(network.score(features[-1]), network(picture))


def test_it_has_the_rosinality_names_of_the_released_1024_model() -> None:
    with torch.device("meta"):
        network = Discriminator(1024, {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32})
    state = network.state_dict()
    for name, shape in {
        "convs.0.0.weight": (32, 3, 1, 1),
        "convs.0.1.bias": (32,),
        "convs.1.conv1.0.weight": (32, 32, 3, 3),
        "convs.1.conv2.0.kernel": (4, 4),
        "convs.1.conv2.1.weight": (64, 32, 3, 3),
        "convs.1.conv2.2.bias": (64,),
        "convs.1.skip.1.weight": (64, 32, 1, 1),
        "final_conv.0.weight": (512, 513, 3, 3),
        "final_linear.0.weight": (512, 8192),
        "final_linear.1.weight": (1, 512),
    }.items():
        assert tuple(state[name].shape) == shape


def test_the_deviation_is_that_of_its_group() -> None:
    x = torch.randn(8, 3, 4, 4)
    found = deviation_channel(x)
    assert found.shape == (8, 1, 4, 4)
    for group in (slice(0, 4), slice(4, 8)):
        wanted = torch.sqrt(x[group].var(0, unbiased=False) + 1e-8).mean()
        assert torch.allclose(found[group], wanted.expand(4, 1, 4, 4))


def test_missing_widths_are_named() -> None:
    with pytest.raises(
        SdicError, match=r"^the discriminator has no number of channels for size 256; give one for every size from 4 to 256$"
    ):
        Discriminator(256, WIDTHS)
