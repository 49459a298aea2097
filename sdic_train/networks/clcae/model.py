"""The whole of CLCAE in PyTorch: encoder, attention of the codes and of the feature, generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.config import FEATURE_SIZE, MOST_HALVINGS, ModelConfig
from sdic_train.networks.clcae.attention import AttentionBlock
from sdic_train.networks.e4e import Encoder, StyleBlock
from sdic_train.networks.stylegan2 import Generator

CUT = 16  # rows of the content


@dataclass(frozen=True)
class CLCAEConfig(ModelConfig):
    """`hidden`: the width inside the attention blocks."""

    hidden: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.halvings > MOST_HALVINGS:
            raise ArgumentError(f"the working size is {self.working}; CLCAE works at {FEATURE_SIZE << MOST_HALVINGS} or less")


class ContentLayer(nn.Module):
    """The pyramid's finest level [N, width, S/4, S/4] -> [N, outputs, 16, 16]; S/4 is 16, doubled `halvings` times."""

    def __init__(self, width: int, outputs: int, halvings: int) -> None:
        super().__init__()
        self.finest = CUT << halvings
        strides = (2 if layer < halvings else 1 for layer in range(MOST_HALVINGS))
        first, second = (nn.Conv2d(width, out, 3, stride, 1) for out, stride in zip((width, outputs), strides, strict=True))
        self.convs = nn.Sequential(first, nn.LeakyReLU(), second, nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        missing = self.finest - x.shape[2]  # rows of a letterboxed domain, whose bars are not encoded
        content: Tensor = self.convs(F.pad(x, (0, 0, missing // 2, missing - missing // 2)) if missing else x)
        return content


class AttentiveEncoder(Encoder):
    """The picture less the average one -> what `attend` makes codes and content of."""

    def __init__(self, config: CLCAEConfig) -> None:
        super().__init__(config)
        width = config.encoder.widths[-1]
        first, *others = self.styles
        self.styles, self.styles_others = nn.ModuleList([first]), nn.ModuleList(others)
        self.cross_attention = nn.ModuleList(
            AttentionBlock(config.style_width, config.hidden, config.style_width) for _ in range(config.rows)
        )
        self.feature_cross_attention = AttentionBlock(width, config.hidden, config.style_width)
        self.content_layer = ContentLayer(width, config.channels[CUT], config.halvings)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image [N, 3, S, S] -> row 0 as an offset from the mean code [N, C], what the other rows attend to [N, L - 1, C], the finest level
        [N, C, S/4, S/4]."""
        levels = self.pyramid(image)
        values = []
        for row, style in enumerate(self.styles_others, 1):
            assert isinstance(style, StyleBlock)
            values.append(self.block(row).multihead_attn(style(levels[self.level(row)])))
        return self.styles[0](levels[0]), torch.stack(values, 1), levels[-1]

    def attend(self, offset: Tensor, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode` gave, row 0 edited or not -> offsets of all rows from the mean code [N, L, C], the attended level."""
        attended = [self.block(0).multihead_attn(offset), *values.unbind(1)]
        rows = [self.block(row)(offset, value) + offset for row, value in enumerate(attended)]
        pixels = level.permute(0, 2, 3, 1)
        pixels = self.feature_cross_attention(pixels, self.feature_cross_attention.multihead_attn(offset)[:, None, None])
        return torch.stack(rows, 1), pixels.permute(0, 3, 1, 2)

    def drop(self, share: float) -> None:
        """Drop this share of what the attention hands on, while it trains."""
        for block in (*self.cross_attention, self.feature_cross_attention):
            assert isinstance(block, AttentionBlock)
            block.dropout = share

    def block(self, row: int) -> AttentionBlock:
        block = self.cross_attention[row]
        assert isinstance(block, AttentionBlock)
        return block


class CLCAE(nn.Module):
    """Encoder and generator of one model, the mean latent code (all rows equal), and the average picture [1, 3, S, S]."""

    latent_avg: Tensor
    average: Tensor

    def __init__(self, config: CLCAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AttentiveEncoder(config)
        self.generator = Generator(config)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.style_width))
        self.register_buffer("average", torch.zeros(1, 3, config.working, config.working), persistent=False)

    def prepare(self) -> None:
        """Make `average` the picture of the mean code, for a model that is to be trained."""
        with torch.no_grad():
            picture = self.generator(self.latent_avg[None])
        self.average = F.avg_pool2d(picture, picture.shape[-1] // self.config.working)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image [N, 3, S, S] in [-1, 1] -> the code in W, the same in all rows [N, L, C]; see `AttentiveEncoder.encode` for the others."""
        offset, values, level = self.encoder.encode(image - self.average)
        return offset[:, None] + self.latent_avg, values, level

    def attend(self, w: Tensor, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode` gave; of `w`, edited or not, row 0 is read -> latent code [N, L, C] in W+, the attended level [N, C, S/4, S/4]."""
        offsets, attended = self.encoder.attend(w[:, 0] - self.latent_avg[0], values, level)
        return offsets + self.latent_avg, attended

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> inverted picture [N, 3, R, R], unclamped."""
        latent, attended = self.attend(*self.encode(image))
        _, rgb = self.generator.base(latent)
        feature, rgb = self.generator.middle(self.encoder.content_layer(attended), rgb, latent)
        return self.generator.tail(feature, rgb, latent)
