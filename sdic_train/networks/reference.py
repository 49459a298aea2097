"""StyleGAN2 written plainly: a weight per sample in grouped convolutions, up- and downsampling by zero insertion.

Slow and obvious. The fast forms of `stylegan2` and of the exported graphs are tested against it, and benchmarks start from it.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.layers import LEAKY_SLOPE, blur_kernel
from sdic_train.networks.stylegan2 import BASE_BLOCKS, DEMODULATION_EPSILON, Generator, ModulatedConv2d, StyledConv, ToRGB, downsample


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert up - 1 zeros after every pixel, pad both axes, filter with `kernel` [k, k]; x [N, C, H, W]."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, height, up, width, up)
    spread[:, :, :, 0, :, 0] = x
    spread = F.pad(spread.reshape(count, channels, height * up, width * up), (*pad, *pad))
    flipped = kernel.flip((0, 1))[None, None]
    filtered = F.conv2d(spread.flatten(0, 1)[:, None], flipped)
    return filtered.view(count, channels, *filtered.shape[2:])


def modulated_conv2d(layer: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    """x [N, inputs, H, W], style [N, C]: every sample is convolved with its own modulated and demodulated weight."""
    count, inputs, height, width = x.shape
    weight = layer.scale * layer.weight * layer.styles(style)[:, None, :, None, None]
    if layer.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + DEMODULATION_EPSILON)
    outputs, kernel = weight.shape[1], weight.shape[-1]
    x = x.reshape(1, count * inputs, height, width)
    if layer.upsample:
        weight = weight.transpose(1, 2).reshape(count * inputs, outputs, kernel, kernel)
        x = F.conv_transpose2d(x, weight, stride=2, groups=count)
        x = x.view(count, outputs, *x.shape[2:])
        return upfirdn2d(x, blur_kernel().to(x), pad=(1, 1))
    x = F.conv2d(x, weight.reshape(count * outputs, inputs, kernel, kernel), padding=layer.padding, groups=count)
    return x.view(count, outputs, *x.shape[2:])


def styled_conv(layer: StyledConv, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
    """Convolution, noise, bias, leaky ReLU, gain."""
    x = modulated_conv2d(layer.conv, x, style) + layer.noise.weight * noise
    return F.leaky_relu(x + layer.activate.bias[:, None, None], LEAKY_SLOPE) * sqrt(2)


def to_rgb(layer: ToRGB, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
    """Modulated 1x1 convolution, bias, upsampled skip."""
    rgb = modulated_conv2d(layer.conv, x, style) + layer.bias
    return rgb if skip is None else rgb + upfirdn2d(skip, blur_kernel().to(skip), up=2, pad=(2, 1))


class PlainGenerator(nn.Module):
    """The same weights as `generator`, the plain arithmetic; same signatures for its parts."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def head(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        generator, noises = self.generator, self.generator.noises.maps()
        x = styled_conv(generator.conv1, generator.input.input.repeat(latent.shape[0], 1, 1, 1), latent[:, 0], noises[0])
        rgb = to_rgb(generator.to_rgb1, x, latent[:, 1])
        for block in range(3):
            x, rgb = self._block(block, x, rgb, latent)
        return styled_conv(generator.styled(7), x, latent[:, 7], noises[7]), rgb

    def tail(self, feature: Tensor, rgb: Tensor, latent: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.suffix(*self._second(feature if residual is None else feature + residual, rgb, latent), latent)

    def prefix(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return self._second(*self.head(latent), latent)

    def suffix(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        x = feature
        for block in range(4, len(self.generator.to_rgbs)):
            x, rgb = self._block(block, x, rgb, latent)
        return rgb

    def base(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        generator, noises = self.generator, self.generator.noises.maps()
        x = styled_conv(generator.conv1, generator.input.input.repeat(latent.shape[0], 1, 1, 1), latent[:, 0], noises[0])
        rgb = to_rgb(generator.to_rgb1, x, latent[:, 1])
        for block in range(BASE_BLOCKS):
            x, rgb = self._block(block, x, rgb, latent)
        return x, rgb

    def middle(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        x, rgb = self._block(BASE_BLOCKS, feature, rgb, latent)
        return styled_conv(self.generator.styled(7), x, latent[:, 7], self.generator.noises.maps()[7]), rgb

    def preview(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        return downsample(self.tail(feature, rgb, latent).clamp(-1, 1), self.generator.config.working)

    def _second(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        generator = self.generator
        x = styled_conv(generator.styled(8), feature, latent[:, 8], generator.noises.maps()[8])
        return x, to_rgb(generator.rgb_layer(3), x, latent[:, 9], rgb)

    def _block(self, block: int, x: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        generator, first = self.generator, 2 * block + 1
        for layer in (first, first + 1):
            x = styled_conv(generator.styled(layer), x, latent[:, layer], generator.noises.maps()[layer])
        return x, to_rgb(generator.rgb_layer(block), x, latent[:, first + 2], rgb)
