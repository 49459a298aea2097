"""The whole of SDIC in PyTorch: invert, edit in both forms of Eq. 6, and the e4e baseline."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from sdic_train.config import ModelConfig
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.sdic.dicn import DICN
from sdic_train.networks.sdic.dipn import DIPN


class InversionTensors(NamedTuple):
    """Everything an inversion computes, named as in the stage table."""

    latent: Tensor
    feature: Tensor
    reconstruction: Tensor
    discrepancy: Tensor
    latent_enhanced: Tensor
    residual: Tensor
    picture: Tensor


class SDIC(Encoded):
    """Encoder, generator, DIPN and DICN of one model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dipn = DIPN(config)
        self.dicn = DICN(config)

    def invert(self, image: Tensor) -> InversionTensors:
        """image [N, 3, S, S] in [-1, 1] -> the inversion (Section 3)."""
        latent = self.encode(image)
        feature, rgb = self.generator.head(latent)
        reconstruction = self.generator.preview(feature, rgb, latent)
        discrepancy = self.dipn(image, reconstruction)
        latent_enhanced, residual = self.dicn(discrepancy, feature, latent)
        _, rgb = self.generator.head(latent_enhanced)
        picture = self.generator.tail(feature, rgb, latent_enhanced, residual)
        return InversionTensors(latent, feature, reconstruction, discrepancy, latent_enhanced, residual, picture)

    def edit(self, inversion: InversionTensors, delta: Tensor, eq6: Literal["paper", "released"] = "paper") -> Tensor:
        """The picture [N, 3, R, R] of the inversion moved by `delta` [N, L, C] (Eq. 6: F_E + P).

        "paper" takes F_E from latent + delta; "released" takes it from latent_enhanced + delta, as the released code does.
        """
        return self.moved(inversion.latent, inversion.latent_enhanced, inversion.residual, delta, eq6)

    def moved(
        self, latent: Tensor, enhanced: Tensor, residual: Tensor, delta: Tensor, eq6: Literal["paper", "released"] = "paper"
    ) -> Tensor:
        """`edit` of what it needs of an inversion."""
        edited = enhanced + delta
        feature, rgb = self.generator.head(edited)
        if eq6 == "paper":
            feature, _ = self.generator.head(latent + delta)
        return self.generator.tail(feature, rgb, edited, residual)

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> inverted picture [N, 3, R, R], unclamped."""
        return self.invert(image).picture
