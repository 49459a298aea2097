"""ReStyle: an encoder that reads a picture beside its reconstruction, and moves the latent code once per iteration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_train.config import ModelConfig
from sdic_train.networks.encoded import Encoded


class ReStyle(Encoded):
    """`average` [1, 3, S, S] is the picture of the mean latent code, which the first iteration reads; `prepare` makes it."""

    average: Tensor
    iterations: int = 5  # with which it was trained; the released ones unless a file says otherwise

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("average", torch.zeros(1, 3, config.working, config.working), persistent=False)

    def prepare(self) -> None:
        """Make `average` from the generator's weights and `latent_avg`."""
        with torch.no_grad():
            self.average = self.shrink(self.generator(self.latent_avg[None]))

    def start(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the first iteration starts from, once per picture of `image`: latent code [N, L, C], reconstruction [N, 3, S, S]."""
        count = image.shape[0]
        return self.latent_avg.expand(count, -1, -1), self.average.expand(count, -1, -1, -1)

    def step(self, image: Tensor, reconstruction: Tensor, previous: Tensor) -> Tensor:
        """image and reconstruction [N, 3, S, S], the code [N, L, C] of the reconstruction -> the next code."""
        offset: Tensor = self.encoder(torch.cat((image, reconstruction), 1))
        return previous + offset

    def shrink(self, picture: Tensor) -> Tensor:
        """picture [N, 3, R, R] -> the means of its tiles, [N, 3, S, S], not clamped."""
        return F.avg_pool2d(picture, picture.shape[-1] // self.config.working)

    def forward(self, image: Tensor, iterations: int | None = None) -> Tensor:
        """image [N, 3, S, S] -> the picture [N, 3, R, R] of the last iteration; the model's own number of them when None."""
        latent, reconstruction = self.start(image)
        picture = reconstruction
        for _ in range(iterations or self.iterations):
            latent = self.step(image, reconstruction, latent)
            picture = self.generator(latent)
            reconstruction = self.shrink(picture)
        return picture
