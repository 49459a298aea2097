"""The whole of HFGI in PyTorch: e4e, and a layer-7 feature that is scaled and shifted by what the e4e picture lacks."""

from __future__ import annotations

from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.config import FEATURE_SIZE, MOST_HALVINGS, ModelConfig
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.hfgi.consultation import RELEASED, Aligner, Consultation, HFGISizes


class HFGI(Encoded):
    """e4e encoder, generator, ADA and the consultation encoder of one model."""

    def __init__(self, config: ModelConfig, sizes: HFGISizes = RELEASED) -> None:
        super().__init__(config)
        if config.halvings > MOST_HALVINGS:
            raise ArgumentError(f"the working size is {config.working}; HFGI works at {FEATURE_SIZE << MOST_HALVINGS} or less")
        self.aligner = Aligner(sizes)
        self.consultation = Consultation(sizes, config.channels[FEATURE_SIZE], config.halvings)

    def consult(self, distortion: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """distortion map and the (edited) picture of the code [N, 3, S, S] -> scale and shift [N, K, 64, 64] of the layer-7 feature."""
        scale, shift = self.consultation(self.aligner(distortion, picture))
        return scale, shift

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> inverted picture [N, 3, R, R], unclamped."""
        latent = self.encode(image)
        feature, rgb = self.generator.head(latent)
        reconstruction = self.generator.preview(feature, rgb, latent)
        scale, shift = self.consult(image - reconstruction, reconstruction)
        return self.generator.tail(fuse(feature, scale, shift), rgb, latent)


def fuse(feature: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The layer-7 feature [N, K, 64, 64], scaled and shifted."""
    return feature * (1 + scale) + shift
