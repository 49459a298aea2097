"""One module per stage of the stage table, ready for export: inputs and outputs in table order, nothing dynamic but the batch."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.folded import GAIN, FoldedModulation, FoldedStyledConv, FoldedToRGB, constant
from sdic_train.config import ModelConfig
from sdic_train.networks.clcae.model import CLCAE
from sdic_train.networks.e4e import Encoder, StyleBlock
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.fs.model import FS
from sdic_train.networks.layers import LEAKY_SLOPE
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.sfe.model import SFE, SFEInverter
from sdic_train.networks.stylegan2 import Generator, StyledConv, ToRGB, downsample

Model: TypeAlias = SDIC | Encoded | SFE | CLCAE | FS  # encoder, generator, mean latent code
HEAD_BLOCKS = 3  # blocks of 8, 16 and 32; layer 7 opens the block of 64


class EncoderGraph(nn.Module):
    """image -> latent, the mean latent code added.

    The last convolution of a style block goes from 2 x 2 to one pixel with a padding of one: five of its nine taps only ever read the
    padding and are omitted (94 MB in the released face model).
    """

    latent_avg: Tensor
    encoder: Encoder

    def __init__(self, model: Model) -> None:
        super().__init__()
        encoder = cast(Encoder, model.encoder)
        tensors = chain(encoder.parameters(), encoder.buffers())
        self.encoder = copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})
        for block in self.encoder.styles:
            assert isinstance(block, StyleBlock)
            omit_padding(block, self.encoder.config)
        constant(self, "latent_avg", model.latent_avg[None])

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image) + self.latent_avg


class FoldedBlock(nn.Module):
    """The block of one size: upsampling convolution, convolution, RGB."""

    def __init__(self, generator: Generator, block: int) -> None:
        super().__init__()
        self.first = 2 * block + 1  # the style row and the noise map of the upsampling convolution
        self.up = styled(generator, self.first)
        self.conv = styled(generator, self.first + 1)
        self.to_rgb = FoldedToRGB(generator.rgb_layer(block))

    def forward(self, x: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.up(x, latent[:, self.first]), latent[:, self.first + 1])
        return x, self.to_rgb(x, latent[:, self.first + 2], rgb)


class HeadGraph(nn.Module):
    """latent -> layer-7 feature, RGB skip."""

    input: Tensor

    def __init__(self, model: Model | SFEInverter) -> None:
        super().__init__()
        generator = model.generator
        constant(self, "input", generator.input.input)
        self.conv = styled(generator, 0)
        self.to_rgb = FoldedToRGB(generator.to_rgb1)
        self.blocks = nn.ModuleList(FoldedBlock(generator, block) for block in range(HEAD_BLOCKS))
        self.up = styled(generator, 7)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.input, latent[:, 0])
        rgb = self.to_rgb(x, latent[:, 1])
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return self.up(x, latent[:, 7]), rgb


class TailGraph(nn.Module):
    """feature, residual, rgb, latent -> picture. The sum feature + residual is Eq. 5, and Eq. 6 in an edit."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.size = model.config.resolution
        self.conv = styled(model.generator, 8)
        self.to_rgb = FoldedToRGB(model.generator.rgb_layer(HEAD_BLOCKS))
        self.blocks = nn.ModuleList(FoldedBlock(model.generator, block) for block in range(HEAD_BLOCKS + 1, len(model.generator.to_rgbs)))

    def forward(self, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        return self.picture(feature + residual, rgb, latent)

    def picture(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        """The picture whose layer 7 gave `feature`, or that with something added to it."""
        x = self.conv(feature, latent[:, 8])
        rgb = self.to_rgb(x, latent[:, 9], rgb)
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return rgb


class SampledConv(nn.Module):
    """The last styled convolution and its RGB layer, computed only at the four pixels that a bilinear downsampling reads.

    Reducing by r = R/S >= 4 without antialias averages the pixels ri + r/2 - 1 and ri + r/2 in both axes. A 3 x 3 convolution reads a
    4 x 4 window for those four pixels, so one 4 x 4 convolution with stride r and four times the channels gives exactly these, and
    one 2 x 2 convolution with stride r/2 gives the RGB skip there.
    """

    weight: Tensor
    noise: Tensor
    bias: Tensor
    skip: Tensor

    def __init__(self, layer: StyledConv, noise: Tensor, to_rgb: ToRGB, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.left, self.skip_left = ratio // 2 - 2, ratio // 4 - 1
        self.top, self.skip_top = self.left, self.skip_left
        self.modulation = FoldedModulation(layer.conv)
        weight = layer.conv.weight[0] * layer.conv.scale / self.modulation.magnitude
        self.channels = weight.shape[0]
        phases = [(row, column) for row in range(2) for column in range(2)]
        constant(self, "weight", torch.cat([F.pad(weight, (column, 1 - column, row, 1 - row)) for row, column in phases]))
        middle = ratio // 2 - 1
        sampled = [noise[:, :, middle + row :: ratio, middle + column :: ratio] for row, column in phases]
        constant(self, "noise", torch.stack(sampled, 1) * layer.noise.weight * GAIN)
        constant(self, "bias", layer.activate.bias[None, None, :, None, None] * GAIN)
        self.to_rgb = FoldedToRGB(to_rgb)
        taps = torch.tensor(((0.75, 0.25), (0.25, 0.75)))
        kernels = torch.stack([torch.outer(taps[row], taps[column]) for row, column in phases])
        constant(self, "skip", kernels[None].repeat(3, 1, 1, 1).flatten(0, 1)[:, None])

    def forward(self, x: Tensor, rgb: Tensor, style: Tensor, style_rgb: Tensor) -> Tensor:
        """x [N, inputs, R, R], rgb [N, 3, R/2, R/2] -> [N, 3, S, S]."""
        scales, demodulation = self.modulation(style)
        x = self.convolved((x * scales[:, :, None, None])[:, :, self.top :, self.left :])
        size = x.shape[2:]
        x = x.unflatten(1, (4, self.channels)) * demodulation[:, None, :, None, None] + self.noise + self.bias
        x = F.leaky_relu(x, LEAKY_SLOPE).flatten(3)
        skip = F.conv2d(rgb[:, :, self.skip_top :, self.skip_left :], self.skip, stride=self.ratio // 2, groups=3)
        colour = torch.matmul(self.to_rgb.matrix(style_rgb)[:, None], x).unflatten(3, size) + self.to_rgb.bias[:, None]
        colour = colour + skip.unflatten(1, (3, 4)).transpose(1, 2)
        return colour.clamp(-1, 1).mean(1)

    def convolved(self, x: Tensor) -> Tensor:
        """The convolution at the four pixels, whose channels follow each other."""
        return F.conv2d(x, self.weight, stride=self.ratio)


class PreviewGraph(nn.Module):
    """feature, rgb, latent -> reconstruction: the picture clamped and brought to the working size."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        generator = model.generator
        self.size = model.config.working
        self.ratio = model.config.resolution // self.size
        self.conv = styled(generator, 8)
        self.to_rgb = FoldedToRGB(generator.rgb_layer(HEAD_BLOCKS))
        last = len(generator.to_rgbs) - 1
        sampled = self.ratio >= 4 and last > HEAD_BLOCKS
        self.blocks = nn.ModuleList(FoldedBlock(generator, block) for block in range(HEAD_BLOCKS + 1, last if sampled else last + 1))
        self.up: FoldedStyledConv | None = None
        self.sampled: SampledConv | None = None
        if sampled:
            self.row = 2 * last + 1
            self.up = styled(generator, self.row)
            noise = generator.noises.maps()[self.row + 1]
            self.sampled = SampledConv(generator.styled(self.row + 1), noise, generator.rgb_layer(last), self.ratio)

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        x = self.conv(feature, latent[:, 8])
        rgb = self.to_rgb(x, latent[:, 9], rgb)
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        if self.sampled is None or self.up is None:
            return downsample(rgb.clamp(-1, 1), self.size) if self.ratio != 2 else F.avg_pool2d(rgb.clamp(-1, 1), 2)
        return self.sampled(self.up(x, latent[:, self.row]), rgb, latent[:, self.row + 1], latent[:, self.row + 2])


class DICNGraph(nn.Module):
    """discrepancy, feature, latent -> latent_enhanced, residual."""

    def __init__(self, model: SDIC) -> None:
        super().__init__()
        self.dicn = model.dicn

    def forward(self, discrepancy: Tensor, feature: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        return self.dicn(discrepancy, feature, latent)


def stage_modules(model: SDIC) -> dict[str, nn.Module]:
    """Stage name -> module, for every stage of the table; parameters are shared with the model where nothing is folded."""
    modules = {
        "e4e": EncoderGraph(model),
        "generator_head": HeadGraph(model),
        "generator_preview": PreviewGraph(model),
        "dipn": model.dipn,
        "dicn": DICNGraph(model),
        "generator_tail": TailGraph(model),
    }
    return {name: module.eval() for name, module in modules.items()}


def omit_padding(block: StyleBlock, config: ModelConfig) -> None:
    steps = len(block.convs) // 2
    first, last = config.encoder.crop or (0, config.working)
    height = (last - first) * 2**steps // config.working  # of the block's input, which is 2^steps wide
    for _ in range(steps - 1):
        height = (height + 1) // 2
    conv = block.convs[2 * (steps - 1)]
    assert isinstance(conv, nn.Conv2d)
    if height != 2:
        return
    trimmed = nn.Conv2d(conv.in_channels, conv.out_channels, 2, stride=2, device="meta")
    trimmed.weight, trimmed.bias = nn.Parameter(conv.weight[:, :, 1:, 1:].detach().contiguous()), conv.bias
    block.convs[2 * (steps - 1)] = trimmed


def styled(generator: Generator, layer: int) -> FoldedStyledConv:
    """The styled convolution `layer` with its noise."""
    return FoldedStyledConv(generator.styled(layer), generator.noises.maps()[layer])
