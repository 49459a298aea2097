"""The stages of FS as modules that export well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.encoded import evaluated
from sdic_export.graphs.folded import constant
from sdic_export.graphs.replaced import cut_modules
from sdic_export.graphs.sfe import AdaptiveMean, UnitGraph
from sdic_train.networks.fs.model import FS
from sdic_train.networks.sfe.backbone import Unit


class FSEncoderGraph(nn.Module):
    """image -> latent, content; the heads of all rows are one matrix."""

    weight: Tensor
    bias: Tensor

    def __init__(self, model: FS) -> None:
        super().__init__()
        encoder, side = model.fs, model.fs.read
        self.rows = model.config.rows
        self.shrink = nn.AvgPool2d(model.config.working // model.fs.read)
        self.stem = nn.Sequential(*encoder.conv)
        blocks, pools = [], []
        for number in range(1, 5):
            units = [unit for unit in encoder.get_submodule(f"block_{number}").children() if isinstance(unit, Unit)]
            side //= units[0].conv2.stride[0]
            blocks.append(nn.Sequential(*map(UnitGraph, units)))
            pools.append(AdaptiveMean(side))
        self.blocks, self.pools = nn.ModuleList(blocks), nn.ModuleList(pools)
        self.content = nn.Sequential(*encoder.content_layer)
        heads = [head for head in encoder.styles if isinstance(head, nn.Linear)]
        constant(self, "weight", torch.cat([head.weight for head in heads]))
        constant(self, "bias", torch.cat([head.bias for head in heads]) + model.latent_avg.flatten())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x, levels = self.stem(self.shrink(image)), []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        pooled = torch.cat([pool(level) for pool, level in zip(self.pools, levels, strict=True)], 1)
        return F.linear(pooled.flatten(1), self.weight, self.bias).unflatten(1, (self.rows, -1)), self.content(levels[2])


def fs_modules(model: FS) -> dict[str, nn.Module]:
    """FS: stage -> module; parameters are shared with the model where nothing is folded."""
    return evaluated({"encoder": FSEncoderGraph(model), **cut_modules(model)})
