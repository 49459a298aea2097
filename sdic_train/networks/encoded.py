"""An encoder in front of the plain generator: e4e and pSp, and what the methods that build on them share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdic_train.config import ModelConfig
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.stylegan2 import Generator


class Encoded(nn.Module):
    """Encoder and generator of one model, and the mean latent code that the encoder's offsets start from."""

    latent_avg: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.generator = Generator(config)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.style_width))

    def encode(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] in [-1, 1] -> latent code [N, L, C] in W+."""
        return self.encoder(image) + self.latent_avg

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> the picture of its latent code [N, 3, R, R], unclamped."""
        return self.generator(self.encode(image))
