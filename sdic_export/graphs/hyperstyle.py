"""The stages of HyperStyle as modules that export well. The generator's is for one picture at a time: its weights are a picture's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.encoded import ShrinkGraph, evaluated
from sdic_export.graphs.folded import GAIN, FoldedStyledConv, FoldedToRGB, constant, largest_of
from sdic_train.networks.hyperstyle.config import styled_layer
from sdic_train.networks.hyperstyle.model import HyperStyle
from sdic_train.networks.layers import LEAKY_SLOPE
from sdic_train.networks.style_space import styles_of
from sdic_train.networks.stylegan2 import DEMODULATION_EPSILON, StyledConv


class WEncoderGraph(nn.Module):
    """image -> latent, and zeros for every change of weights."""

    latent_avg: Tensor

    def __init__(self, model: HyperStyle) -> None:
        super().__init__()
        self.encoder = model.encoder
        constant(self, "latent_avg", model.latent_avg[None])
        self.shapes = [model.config.delta_axes(layer) for layer in model.config.tuned]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        count = image.shape[0]
        zeros = [torch.zeros((1,) * (1 + len(shape))).expand(count, *shape) for shape in self.shapes]
        return self.encoder(image) + self.latent_avg, *zeros


class TunedStyledConv(nn.Module):
    """`FoldedStyledConv` with the weights W (1 + delta) of one picture: x [1, inputs, H, W], style [1, C], delta [1, outputs, inputs] or
    with [3, 3] behind.

    Upsampling is by phases: a transposed convolution with stride two is four convolutions, of the weights that even and odd rows and
    columns read.
    """

    weight: Tensor
    noise: Tensor
    bias: Tensor
    vertical: Tensor
    horizontal: Tensor

    def __init__(self, layer: StyledConv, noise: Tensor) -> None:
        super().__init__()
        folded = FoldedStyledConv(layer, noise)
        self.linear, self.magnitude, self.place = folded.modulation.modulation, folded.modulation.magnitude, folded.modulation.place
        self.upsample, self.bias = folded.upsample, folded.bias
        constant(self, "noise", folded.noise)
        constant(self, "weight", folded.weight.transpose(0, 1) if folded.upsample else folded.weight)
        if self.upsample:
            constant(self, "vertical", folded.vertical)
            constant(self, "horizontal", folded.horizontal)

    def forward(self, x: Tensor, style: Tensor, delta: Tensor) -> Tensor:
        weight = self.weight * (1 + (delta[0] if delta.ndim == 5 else delta[0, :, :, None, None]))
        scales = styles_of(self.linear, style, self.place)
        largest = largest_of(scales)
        scales = scales / largest
        epsilon = DEMODULATION_EPSILON / (self.magnitude * largest).square()
        demodulation = GAIN * torch.rsqrt(F.linear(scales.square(), weight.square().sum((2, 3))) + epsilon)
        x = x * scales[:, :, None, None]
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = F.conv2d(x, self.vertical, padding=(1, 0), groups=x.shape[1])
            x = F.conv2d(x, self.horizontal, padding=(0, 1), groups=x.shape[1])
        else:
            x = F.conv2d(x, weight, padding=1)
        return F.leaky_relu(x * demodulation[:, :, None, None] + self.noise + self.bias, LEAKY_SLOPE)


class TunedGeneratorGraph(nn.Module):
    """latent, deltas -> picture."""

    input: Tensor

    def __init__(self, model: HyperStyle) -> None:
        super().__init__()
        generator, noises = model.generator, model.generator.noises.maps()
        constant(self, "input", generator.input.input)
        self.tuned = {styled_layer(layer): place for place, layer in enumerate(model.config.tuned)}  # styled convolution -> which delta
        layers = [(generator.styled(layer), noise) for layer, noise in enumerate(noises)]
        self.convs = nn.ModuleList(
            (TunedStyledConv if layer in self.tuned else FoldedStyledConv)(*parts) for layer, parts in enumerate(layers)
        )
        colours = [generator.to_rgb1, *map(generator.rgb_layer, range(len(generator.to_rgbs)))]
        self.to_rgbs = nn.ModuleList(map(FoldedToRGB, colours))

    def forward(self, latent: Tensor, *deltas: Tensor) -> Tensor:
        def styled(layer: int, x: Tensor) -> Tensor:
            own = (deltas[self.tuned[layer]],) if layer in self.tuned else ()
            y: Tensor = self.convs[layer](x, latent[:, layer], *own)
            return y

        x = styled(0, self.input)
        rgb: Tensor = self.to_rgbs[0](x, latent[:, 1])
        for layer in range(1, len(self.convs), 2):
            x = styled(layer + 1, styled(layer, x))
            rgb = self.to_rgbs[(layer + 1) // 2](x, latent[:, layer + 2], rgb)
        return rgb


class BackboneGraph(nn.Module):
    """image, reconstruction -> feature."""

    def __init__(self, model: HyperStyle) -> None:
        super().__init__()
        hypernet: Any = model.hypernet
        self.stem = nn.Sequential(hypernet.conv1, hypernet.bn1, hypernet.relu)
        units = list(hypernet.body)
        self.body = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(unit.conv1, unit.bn1, nn.ReLU(), unit.conv2, unit.bn2),
                    nn.Identity() if unit.downsample is None else unit.downsample,
                ]
            )
            for unit in units
        )
        self.crop = model.config.encoder.crop

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        x = torch.cat((image, reconstruction), 1)
        x = self.stem(x if self.crop is None else x[:, :, self.crop[0] : self.crop[1]])
        unit: Any
        for unit in self.body:
            main, shortcut = unit
            x = F.relu(main(x) + shortcut(x))
        return x


class HyperGraph(nn.Module):
    """feature, changes so far -> changes."""

    def __init__(self, model: HyperStyle) -> None:
        super().__init__()
        self.hypernet = model.hypernet

    def forward(self, feature: Tensor, *previous: Tensor) -> tuple[Tensor, ...]:
        steps = zip(previous, self.hypernet.steps(feature), strict=True)
        return tuple(before + step for before, step in steps)


def hyperstyle_modules(model: HyperStyle) -> dict[str, nn.Module]:
    """HyperStyle: stage -> module; parameters are shared with the model where nothing is folded."""
    return evaluated(
        {
            "encoder": WEncoderGraph(model),
            "generator": TunedGeneratorGraph(model),
            "shrink": ShrinkGraph(model),  # type: ignore[arg-type]
            "backbone": BackboneGraph(model),
            "hypernet": HyperGraph(model),
        }
    )
