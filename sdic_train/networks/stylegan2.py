"""StyleGAN2 in pure PyTorch, split at layer 7: head, preview, tail. Parameter names follow the rosinality layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.config import FEATURE_SIZE, ModelConfig
from sdic_train.networks.layers import BLUR_TAPS, Activation, EqualLinear, blur, blur_kernel, blur_taps
from sdic_train.networks.style_space import StyleRow, layer_widths, styles_of

DEMODULATION_EPSILON = 1e-8
BASE_BLOCKS = 2  # of 8 and 16, before which some methods put a feature of their own


class PixelNorm(nn.Module):
    """Scales every latent vector to unit mean square."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


def upsample_rgb(rgb: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 3, 2H, 2W] with the same filter: each output phase is a 2 x 2 mean with weights 1/4 and 3/4."""
    taps = blur_taps(rgb) * (2 / sum(BLUR_TAPS))
    kernel = torch.outer(taps, taps).expand(rgb.shape[1], 1, 4, 4)
    return F.conv_transpose2d(rgb, kernel, stride=2, padding=1, groups=rgb.shape[1])


class ModulatedConv2d(nn.Module):
    """Modulated convolution without a weight per sample: scale the input, convolve with constant weights, demodulate the output.

    Equal to the grouped form of StyleGAN2 (`reference.modulated_conv2d`), because the modulation scales input channels and
    the demodulation scales output channels.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_width: int, demodulate: bool = True, upsample: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_width, inputs, bias=1.0)
        self.scale = 1 / sqrt(inputs * kernel**2)
        self.padding = kernel // 2
        self.demodulate, self.upsample = demodulate, upsample
        self.place = slice(0, 0)  # of its styles among those of its generator
        if upsample:
            self.blur = Blur()

    def styles(self, style: Tensor | StyleRow) -> Tensor:
        """style [N, style_width] -> what scales the input channels, [N, inputs]."""
        return styles_of(self.modulation, style, self.place)

    def forward(self, x: Tensor, style: Tensor | StyleRow) -> Tensor:
        """x [N, inputs, H, W], style [N, style_width] -> [N, outputs, H, W], twice as large when upsampling."""
        weight = self.weight[0] * self.scale
        scales = self.styles(style)
        x = x * scales[:, :, None, None].to(x.dtype)
        if self.upsample:
            x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            energy = F.linear(scales.float().square(), weight.float().square().sum((2, 3)))
            x = x * torch.rsqrt(energy + DEMODULATION_EPSILON)[:, :, None, None].to(x.dtype)
        return x


class Blur(nn.Module):
    """Holds the released buffer; the arithmetic is `blur`, which uses the same fixed taps."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel())


class NoiseInjection(nn.Module):
    """The learned strength of a layer's noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, activation."""

    def __init__(self, inputs: int, outputs: int, style_width: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_width, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = Activation(outputs)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """x [N, inputs, H, W], style [N, style_width], noise [1 or N, 1, H', W'] -> [N, outputs, H', W']."""
        x = self.conv(x, style)
        return self.activate(x + (self.noise.weight * noise).to(x.dtype))


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB without demodulation, added to the upsampled skip."""

    def __init__(self, inputs: int, style_width: int, upsample: bool = True) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, 3, 1, style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if upsample:
            self.upsample = Blur()

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        """x [N, inputs, H, W], style [N, style_width], skip [N, 3, H/2, W/2] -> [N, 3, H, W]."""
        rgb = self.conv(x, style).float() + self.bias
        return rgb if skip is None else rgb + upsample_rgb(skip)


class ConstantInput(nn.Module):
    """The learned 4 x 4 input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Noises(nn.Module):
    """The fixed noise maps `noise_0` (4 x 4) to `noise_{L-2}` (R x R), two per size from 8 x 8 on."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.lent: Sequence[Tensor] = ()
        for layer in range(rows - 1):
            size = 2 ** ((layer + 5) // 2)
            self.register_buffer(f"noise_{layer}", torch.randn(1, 1, size, size))

    def maps(self) -> list[Tensor]:
        """The maps [1, 1, H, W] of all layers; others that are `lent`, [N, 1, H, W], while a training says so."""
        return list(self.lent or self.buffers())


class Generator(nn.Module):
    """StyleGAN2 generator. Layer k is the k-th styled convolution and reads style row k; layer 7 is the first at 64 x 64.

    The RGB layer of the block at size s reads the row behind the block's second convolution.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.style_width, config.channels
        mapping = [EqualLinear(width, width, rate=0.01, activation=True) for _ in range(config.mapping_layers)]
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], width)
        self.to_rgb1 = ToRGB(channels[4], width, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        size, inputs = 8, channels[4]
        while size <= config.resolution:
            self.convs.append(StyledConv(inputs, channels[size], width, upsample=True))
            self.convs.append(StyledConv(channels[size], channels[size], width))
            self.to_rgbs.append(ToRGB(channels[size], width))
            size, inputs = size * 2, channels[size]
        self.noises = Noises(config.rows)
        end = 0
        for layer, width in zip(self.modulated(), layer_widths(config), strict=True):
            layer.place = slice(end, end + width)
            end += width

    def mapping(self, z: Tensor) -> Tensor:
        """z [N, C], standard normal -> w [N, C]."""
        return self.style(z)

    def head(self, latent: Tensor, noises: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """latent [N, L, C] -> layer-7 feature [N, K, 64, 64], RGB skip [N, 3, 32, 32]."""
        noises = noises or self.noises.maps()
        x = self.conv1(self.input.input.repeat(latent.shape[0], 1, 1, 1), latent[:, 0], noises[0])
        rgb = self.to_rgb1(x, latent[:, 1])
        for block in range(3):
            x, rgb = self._block(block, x, rgb, latent, noises)
        return self.convs[6](x, latent[:, 7], noises[7]), rgb

    def tail(
        self, feature: Tensor, rgb: Tensor, latent: Tensor, residual: Tensor | None = None, noises: Sequence[Tensor] | None = None
    ) -> Tensor:
        """feature and residual [N, K, 64, 64], rgb [N, 3, 32, 32], latent [N, L, C] -> picture [N, 3, R, R], unclamped.

        The sum feature + residual is Eq. 5 in an inversion (F_R + P) and Eq. 6 in an edit (F_E + P).
        """
        x = feature if residual is None else feature + residual
        x, rgb = self._second(x, rgb, latent, noises or self.noises.maps())
        return self.suffix(x, rgb, latent, noises)

    def prefix(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """latent [N, L, C] -> layer-8 feature [N, K, 64, 64], RGB sum [N, 3, 64, 64]: the other cut at 64 x 64, behind its RGB layer."""
        feature, rgb = self.head(latent)
        return self._second(feature, rgb, latent, self.noises.maps())

    def suffix(self, feature: Tensor, rgb: Tensor, latent: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """layer-8 feature [N, K, 64, 64], RGB sum [N, 3, 64, 64], latent [N, L, C] -> picture [N, 3, R, R], unclamped."""
        x, noises = feature, noises or self.noises.maps()
        for block in range(4, len(self.to_rgbs)):
            x, rgb = self._block(block, x, rgb, latent, noises)
        return rgb

    def entrance(self, feature: Tensor, latent: Tensor) -> Tensor:
        """Layer 8: what layer 7 gave, or that with something added [N, K, 64, 64], latent [N, L, C] -> [N, K, 64, 64]."""
        return self.convs[7](feature, latent[:, 8], self.noises.maps()[8])

    def part(self, size: int, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The feature [N, channels, size / 2, size / 2] of the size below and the RGB sum [N, 3, size / 4, size / 4] of those before ->
        the feature of `size`, and the RGB sum of the size below."""
        block, noises = _block_of(size), self.noises.maps()
        rgb = self.colour(size // 2, feature, rgb, latent)
        for layer in (2 * block + 1, 2 * block + 2):
            feature = self.convs[layer - 1](feature, latent[:, layer], noises[layer])
        return feature, rgb

    def colour(self, size: int, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        """The RGB sum [N, 3, size, size], of the feature of `size` and the sum [N, 3, size / 2, size / 2] of the sizes before."""
        block = _block_of(size)
        summed: Tensor = self.to_rgbs[block](feature, latent[:, 2 * block + 3], rgb)
        return summed

    def base(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """latent [N, L, C] -> what the blocks up to 16 x 16 make: feature [N, channels, 16, 16], RGB sum [N, 3, 16, 16]."""
        noises = self.noises.maps()
        x = self.conv1(self.input.input.repeat(latent.shape[0], 1, 1, 1), latent[:, 0], noises[0])
        rgb = self.to_rgb1(x, latent[:, 1])
        for block in range(BASE_BLOCKS):
            x, rgb = self._block(block, x, rgb, latent, noises)
        return x, rgb

    def middle(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """What `base` gave, its feature replaced or not -> what `head` gives."""
        noises = self.noises.maps()
        x, rgb = self._block(BASE_BLOCKS, feature, rgb, latent, noises)
        return self.convs[6](x, latent[:, 7], noises[7]), rgb

    def preview(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        """The picture clamped to [-1, 1] and brought to the working size as the release does; [N, 3, S, S]."""
        return downsample(self.tail(feature, rgb, latent).clamp(-1, 1), self.config.working)

    def forward(self, latent: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """latent [N, L, C] -> picture [N, 3, R, R], unclamped."""
        feature, rgb = self.head(latent, noises)
        return self.tail(feature, rgb, latent, noises=noises)

    def picture_at(self, latent: Tensor, size: int, noises: Sequence[Tensor] | None = None) -> Tensor:
        """latent [N, L, C] -> the RGB sum of the block at `size`, 8 to R: [N, 3, size, size]. Training grows the resolution with it."""
        noises = noises or self.noises.maps()
        x = self.conv1(self.input.input.repeat(latent.shape[0], 1, 1, 1), latent[:, 0], noises[0])
        rgb, block = self.to_rgb1(x, latent[:, 1]), 0
        while rgb.shape[-1] < size:
            x, rgb = self._block(block, x, rgb, latent, noises)
            block += 1
        return rgb

    def modulated(self) -> list[ModulatedConv2d]:
        """Every layer that has styles, in the order of `style_space.layer_widths`."""
        layers: list[Any] = [self.conv1, self.to_rgb1]
        for block, to_rgb in enumerate(self.to_rgbs):
            layers += [self.convs[2 * block], self.convs[2 * block + 1], to_rgb]
        return [layer.conv for layer in layers]

    def styled(self, layer: int) -> StyledConv:
        """The styled convolution `layer`, 0 to L - 2; it reads the style row and the noise map of that number."""
        module = self.conv1 if layer == 0 else self.convs[layer - 1]
        assert isinstance(module, StyledConv)
        return module

    def rgb_layer(self, block: int) -> ToRGB:
        """The RGB layer of the block at size 8 * 2^block."""
        module = self.to_rgbs[block]
        assert isinstance(module, ToRGB)
        return module

    def mean_latent(self, samples: int = 4096, seed: int = 0) -> Tensor:
        """The mean of the mapping network over `samples` random z; [C]."""
        device = self.input.input.device
        z = torch.randn(samples, self.config.style_width, generator=torch.Generator().manual_seed(seed)).to(device)
        with torch.no_grad():
            return self.mapping(z).mean(0)

    def _second(self, feature: Tensor, rgb: Tensor, latent: Tensor, noises: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = self.convs[7](feature, latent[:, 8], noises[8])
        return x, self.to_rgbs[3](x, latent[:, 9], rgb)

    def _block(self, block: int, x: Tensor, rgb: Tensor, latent: Tensor, noises: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        first = 2 * block + 1
        x = self.convs[2 * block](x, latent[:, first], noises[first])
        x = self.convs[2 * block + 1](x, latent[:, first + 1], noises[first + 1])
        return x, self.to_rgbs[block](x, latent[:, first + 2], rgb)


def _block_of(size: int) -> int:
    """The number of the block at `size`, 8 to R."""
    return size.bit_length() - 4


def downsample(picture: Tensor, size: int) -> Tensor:
    """[N, 3, R, R] -> [N, 3, size, size]: bilinear, align_corners=False, no antialias."""
    if picture.shape[-1] == size:
        return picture
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)


assert FEATURE_SIZE == 64  # `head` ends at layer 7, the first at 64 x 64
