"""The stages of CLCAE as modules that export well."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.encoded import evaluated
from sdic_export.graphs.folded import constant
from sdic_export.graphs.replaced import cut_modules
from sdic_export.graphs.sdic import omit_padding
from sdic_train.networks.clcae.attention import AttentionBlock, OneKey
from sdic_train.networks.clcae.model import CLCAE, AttentiveEncoder
from sdic_train.networks.e4e import StyleBlock


class FoldedOneKey(nn.Module):
    """`OneKey` as one matrix; the weights of query and key are omitted."""

    def __init__(self, attention: OneKey) -> None:
        super().__init__()
        out, value = attention.out_proj, attention.value
        weight = out.weight.double() @ attention.in_proj_weight[value].double()
        constant(self, "weight", weight.float())
        constant(self, "bias", (out.weight.double() @ attention.in_proj_bias[value].double() + out.bias.double()).float())

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.get_buffer("weight"), self.get_buffer("bias"))


class FoldedAttention(nn.Module):
    """`AttentionBlock` without what is never read."""

    def __init__(self, block: AttentionBlock) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm2, self.norm3 = block.linear1, block.linear2, block.norm2, block.norm3

    def forward(self, query: Tensor, attended: Tensor) -> Tensor:
        x = self.norm2(query + attended)
        y: Tensor = self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        return y


class AttentiveEncoderGraph(nn.Module):
    """image -> w, values, level. The average picture and the mean code are constants of it."""

    average: Tensor
    latent_avg: Tensor

    def __init__(self, model: CLCAE) -> None:
        super().__init__()
        tensors = chain(model.encoder.parameters(), model.encoder.buffers())
        self.encoder: AttentiveEncoder = copy.deepcopy(model.encoder, {id(tensor): tensor for tensor in tensors})
        del self.encoder.cross_attention, self.encoder.feature_cross_attention, self.encoder.content_layer
        for block in (*self.encoder.styles, *self.encoder.styles_others):
            assert isinstance(block, StyleBlock)
            omit_padding(block, model.config)
        self.values = nn.ModuleList(FoldedOneKey(model.encoder.block(row).multihead_attn) for row in range(1, model.config.rows))
        constant(self, "average", model.average)
        constant(self, "latent_avg", model.latent_avg[None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoder = self.encoder
        levels = encoder.pyramid(image - self.average)
        styles = enumerate(zip(encoder.styles_others, self.values, strict=True), 1)
        values = [value(style(levels[encoder.level(row)])) for row, (style, value) in styles]
        offset = encoder.styles[0](levels[0])
        return offset[:, None] + self.latent_avg, torch.stack(values, 1), levels[-1]


class AttentionGraph(nn.Module):
    """w, values, level -> latent, attended."""

    latent_avg: Tensor

    def __init__(self, model: CLCAE) -> None:
        super().__init__()
        encoder = model.encoder
        self.blocks = nn.ModuleList(FoldedAttention(encoder.block(row)) for row in range(model.config.rows))
        self.first = FoldedOneKey(encoder.block(0).multihead_attn)
        self.feature = FoldedAttention(encoder.feature_cross_attention)
        self.feature_value = FoldedOneKey(encoder.feature_cross_attention.multihead_attn)
        constant(self, "latent_avg", model.latent_avg[None])

    def forward(self, w: Tensor, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        offset = w[:, 0] - self.latent_avg[:, 0]
        attended = [self.first(offset), *(values[:, row] for row in range(len(self.blocks) - 1))]
        rows = [block(offset, value) + offset for block, value in zip(self.blocks, attended, strict=True)]
        pixels = self.feature(level.flatten(2).transpose(1, 2), self.feature_value(offset)[:, None])
        return torch.stack(rows, 1) + self.latent_avg, pixels.transpose(1, 2).unflatten(2, (level.shape[2], level.shape[3]))


def clcae_modules(model: CLCAE) -> dict[str, nn.Module]:
    """CLCAE: stage -> module; parameters are shared with the model where nothing is folded."""
    own = {"encoder": AttentiveEncoderGraph(model), "attention": AttentionGraph(model), "content": model.encoder.content_layer}
    return evaluated({**own, **cut_modules(model)})
