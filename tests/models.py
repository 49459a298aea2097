"""Small models with random weights for the tests of training and export, and how far two tensors are apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sdic_train.config import TINY, ModelConfig
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import ToRGB

LARGER = replace(TINY, resolution=256, channels={**TINY.channels, 256: 8})
SMALLEST = replace(TINY, resolution=64, channels={size: width for size, width in TINY.channels.items() if size <= 64})
AFFINE = replace(TINY, discrepancy=replace(TINY.discrepancy, fusion="affine"))
LARGEST = replace(LARGER, resolution=512, channels={**LARGER.channels, 512: 4})


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every one-dimensional parameter and every batch statistic away from its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.data if parameter.ndim == 1 else 0)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith(("running_mean", "latent_avg")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    for layer in module.modules():
        if isinstance(layer, ToRGB):  # pictures that mostly stay within [-1, 1], so that the clamp is tested and not all there is
            layer.conv.weight.data *= 0.2
    return module.eval()


def model_of(config: ModelConfig) -> SDIC:
    model = randomized(SDIC(config))
    assert isinstance(model, SDIC)
    return model


def ratio(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.std()).item()
