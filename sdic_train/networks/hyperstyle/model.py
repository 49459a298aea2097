"""The whole of HyperStyle in PyTorch: an encoder into W, and changes of the generator's weights that are refined several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.hyperstyle.config import HyperConfig, styled_layer
from sdic_train.networks.hyperstyle.hypernet import HyperNetwork, WEncoder
from sdic_train.networks.layers import blur
from sdic_train.networks.stylegan2 import DEMODULATION_EPSILON, Generator, ModulatedConv2d


class HyperStyle(nn.Module):
    """Encoder, generator and hypernetwork of one model."""

    latent_avg: Tensor
    iterations: int = 5  # with which it was trained; the released ones unless a file says otherwise

    def __init__(self, config: HyperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WEncoder(config)
        self.generator = Generator(config)
        self.hypernet = HyperNetwork(config)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.style_width))

    def encode(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] in [-1, 1] -> latent code [N, L, C]: one row and the mean code's."""
        return self.encoder(image) + self.latent_avg

    def start(self, image: Tensor) -> list[Tensor]:
        """What the changes of weights start from: zeros, for as many pictures."""
        return [image.new_zeros(image.shape[0], *self.config.delta_axes(layer)) for layer in self.config.tuned]

    def render(self, latent: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        """The picture [N, 3, R, R] of `latent` [N, L, C] by the generator whose weights W are W (1 + delta)."""
        return tuned_picture(self.generator, latent, dict(zip(map(styled_layer, self.config.tuned), deltas, strict=True)))

    def shrink(self, picture: Tensor) -> Tensor:
        """picture [N, 3, R, R] -> the means of its tiles, [N, 3, S, S], not clamped."""
        return F.avg_pool2d(picture, picture.shape[-1] // self.config.working)

    def forward(self, image: Tensor, iterations: int | None = None) -> Tensor:
        """image [N, 3, S, S] -> the picture [N, 3, R, R] of the last iteration; the model's own number of them when None."""
        latent, deltas = self.encode(image), self.start(image)
        picture = self.render(latent, deltas)
        for _ in range(iterations or self.iterations):
            steps = self.hypernet.steps(self.hypernet.backbone(image, self.shrink(picture)))
            deltas = [previous + step for previous, step in zip(deltas, steps, strict=True)]
            picture = self.render(latent, deltas)
        return picture


def tuned_picture(generator: Generator, latent: Tensor, deltas: Mapping[int, Tensor]) -> Tensor:
    """latent [N, L, C] -> picture [N, 3, R, R]. `deltas`: styled convolution -> the changes of its weights, for every picture."""
    noises = generator.noises.maps()

    def styled(index: int, x: Tensor) -> Tensor:
        layer = generator.styled(index)
        if index not in deltas:
            return layer(x, latent[:, index], noises[index])
        x = tuned_conv(layer.conv, x, latent[:, index], deltas[index])
        return layer.activate(x + layer.noise.weight * noises[index])

    x = styled(0, generator.input.input.repeat(latent.shape[0], 1, 1, 1))
    rgb = generator.to_rgb1(x, latent[:, 1])
    for block in range(len(generator.to_rgbs)):
        first = 2 * block + 1
        x = styled(first + 1, styled(first, x))
        rgb = generator.rgb_layer(block)(x, latent[:, first + 2], rgb)
    return rgb


def tuned_conv(layer: ModulatedConv2d, x: Tensor, style: Tensor, delta: Tensor) -> Tensor:
    """`layer` with every picture's own weights W (1 + delta): x [N, inputs, H, W], delta [N, outputs, inputs] or with [3, 3] behind."""
    count, outputs = delta.shape[:2]
    weight = layer.weight * layer.scale * (1 + (delta[..., None, None] if delta.ndim == 3 else delta))
    scales = layer.styles(style)
    x = (x * scales[:, :, None, None]).flatten(0, 1)[None]  # a group of channels for every picture
    if layer.upsample:
        x = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=count)
    else:
        x = F.conv2d(x, weight.flatten(0, 1), padding=layer.padding, groups=count)
    x = x[0].unflatten(0, (count, outputs))
    energy = torch.einsum("ni,noi->no", scales.square(), weight.square().sum((3, 4)))
    x = blur(x) if layer.upsample else x
    return x * torch.rsqrt(energy + DEMODULATION_EPSILON)[:, :, None, None]
