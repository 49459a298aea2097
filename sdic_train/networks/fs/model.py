"""The whole of FS in PyTorch: encoder and generator, whose feature at 16 x 16 is the encoder's."""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.config import ModelConfig
from sdic_train.networks.sfe.backbone import Backbone, SFESizes
from sdic_train.networks.stylegan2 import Generator

READ = 256  # rows of the picture that the encoder reads, where it has so many
CUT = 16  # rows of the feature that it gives


class FSEncoder(Backbone):
    """image [N, 3, S, S] -> offsets [N, L, C] from the mean code, and the content feature [N, channels, 16, 16]."""

    def __init__(self, config: ModelConfig) -> None:
        sizes, channels = SFESizes(config.encoder.widths, config.encoder.units), config.channels[CUT]
        self.read = min(READ, config.working)
        super().__init__(sizes, config.rows, config.style_width, channels, int(log2(self.read // (2 * CUT))))
        self.content_layer[4] = nn.Conv2d(channels, channels, 3, 2, 1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The released code halves a picture of 1024 twice, which are the means of 4 x 4 tiles."""
        return super().forward(F.avg_pool2d(image, image.shape[-1] // self.read))


class FS(nn.Module):
    """Encoder and generator of one model. The picture is read at the generator's size."""

    latent_avg: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.working != config.resolution and config.working > READ:
            raise ArgumentError(f"the working size is {config.working}; FS reads pictures of the generator's size, or of at most {READ}")
        self.config = config
        self.fs = FSEncoder(config)
        self.generator = Generator(config)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.style_width))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [N, 3, S, S] in [-1, 1] -> latent code [N, L, C] in W+, content feature [N, channels, 16, 16]."""
        offsets, content = self.fs(image)
        return offsets + self.latent_avg, content

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> inverted picture [N, 3, R, R], unclamped."""
        latent, content = self.encode(image)
        _, rgb = self.generator.base(latent)
        feature, rgb = self.generator.middle(content, rgb, latent)
        return self.generator.tail(feature, rgb, latent)
