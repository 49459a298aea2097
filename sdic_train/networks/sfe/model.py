"""The whole of StyleFeatureEditor in PyTorch, and of its first phase, which has no editor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.config import FEATURE_SIZE, MOST_HALVINGS, ModelConfig
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.sfe.backbone import RELEASED, Backbone, Fuser, SFESizes
from sdic_train.networks.stylegan2 import Generator


class Inverter(nn.Module):
    """The backbone, and the fuser of its feature with the generator's own."""

    def __init__(self, config: ModelConfig, sizes: SFESizes) -> None:
        super().__init__()
        self.fs_backbone = Backbone(sizes, config.rows, config.style_width, config.channels[FEATURE_SIZE], config.halvings)
        self.fuser = Fuser(config.channels[FEATURE_SIZE], sizes.body)


class SFEInverter(nn.Module):
    """Phase 1: inverter and generator. `latent_avg` is the generator file's mean code in every row."""

    latent_avg: Tensor

    def __init__(self, config: ModelConfig, sizes: SFESizes = RELEASED) -> None:
        super().__init__()
        if config.halvings > MOST_HALVINGS:
            raise ArgumentError(
                f"the working size is {config.working}; StyleFeatureEditor works at {FEATURE_SIZE << MOST_HALVINGS} or less"
            )
        self.config = config
        self.inverter = Inverter(config, sizes)
        self.generator = Generator(config)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.style_width))

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [N, 3, S, S] in [-1, 1] -> latent code [N, L, C], predicted feature [N, K, 64, 64]."""
        offsets, feature = self.inverter.fs_backbone(image)
        return offsets + self.latent_avg, feature

    def fuse(self, predicted: Tensor, feature: Tensor) -> Tensor:
        """The predicted feature and the generator's, [N, K, 64, 64] -> the fused one."""
        fused: Tensor = self.inverter.fuser(predicted, feature)
        return fused

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> inverted picture [N, 3, R, R], unclamped."""
        latent, predicted = self.predict(image)
        feature, rgb = self.generator.prefix(latent)
        return self.generator.suffix(self.changed(self.fuse(predicted, feature)), rgb, latent)

    def changed(self, fused: Tensor) -> Tensor:
        """What takes the place of the generator's feature in an inversion."""
        return fused


class SFE(SFEInverter):
    """Phase 2: with the editor of the fused feature, and e4e, whose codes say what an edit changes."""

    def __init__(self, config: ModelConfig, sizes: SFESizes = RELEASED) -> None:
        super().__init__(config, sizes)
        self.editor = Fuser(config.channels[FEATURE_SIZE], sizes.body)
        self.encoder = Encoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> e4e's latent code [N, L, C]."""
        return self.encoder(image) + self.latent_avg

    def changed(self, fused: Tensor) -> Tensor:
        edited: Tensor = self.editor(fused, torch.zeros_like(fused))
        return edited


def masked(difference: Tensor, mask: Tensor) -> Tensor:
    """difference [N, K, 64, 64] without what lies under the mask [N, 1, S, S], 1 where nothing may change."""
    small = F.interpolate(mask, size=difference.shape[2:], mode="bilinear", align_corners=False)
    return difference * (1 - small)
