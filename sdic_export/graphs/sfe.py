"""The stages of StyleFeatureEditor as modules that export well; what it shares with SDIC is in `sdic`, with e4e in `encoded`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_export.graphs.encoded import evaluated
from sdic_export.graphs.folded import FoldedToRGB, constant
from sdic_export.graphs.sdic import HEAD_BLOCKS, EncoderGraph, FoldedBlock, HeadGraph, styled
from sdic_train.networks.sfe.backbone import Backbone, Fuser, Unit, windows
from sdic_train.networks.sfe.model import SFE, SFEInverter, masked


class UnitGraph(nn.Module):
    """`Unit` with its layers in a row, so that norms are absorbed."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.body = nn.Sequential(unit.bn1, unit.conv1, unit.bn2, unit.prelu, unit.conv2, unit.bn3)
        self.beside = None if unit.downsample is None else nn.Sequential(*unit.downsample)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y + (x if self.beside is None else self.beside(x))


class AdaptiveMean(nn.Module):
    """[N, C, side, side] -> [N, C, 3, 3]: adaptive average pooling, which ONNX lacks, as two constant matrices."""

    across: Tensor
    down: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        constant(self, "down", windows(side))
        constant(self, "across", windows(side).T)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.down, torch.matmul(x, self.across))


class InverterGraph(nn.Module):
    """image -> latent, predicted; the heads of all rows are one matrix."""

    weight: Tensor
    bias: Tensor

    def __init__(self, model: SFEInverter) -> None:
        super().__init__()
        backbone: Backbone = model.inverter.fs_backbone
        self.rows, side = model.config.rows, model.config.working
        self.stem = nn.Sequential(*backbone.conv)
        blocks, pools = [], []
        for number in range(1, 5):
            units = [unit for unit in backbone.get_submodule(f"block_{number}").children() if isinstance(unit, Unit)]
            side //= units[0].conv2.stride[0]
            blocks.append(nn.Sequential(*(UnitGraph(unit) for unit in units)))
            pools.append(AdaptiveMean(side))
        self.blocks, self.pools = nn.ModuleList(blocks), nn.ModuleList(pools)
        self.content = nn.Sequential(*backbone.content_layer)
        heads = [head for head in backbone.styles if isinstance(head, nn.Linear)]
        constant(self, "weight", torch.cat([head.weight for head in heads]))
        constant(self, "bias", torch.cat([head.bias for head in heads]) + model.latent_avg.flatten())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x, pooled, predicted = self.stem(image), [], None
        for index, (block, pool) in enumerate(zip(self.blocks, self.pools, strict=True)):
            x = block(x)
            pooled.append(pool(x))
            predicted = self.content(x) if index == 2 else predicted
        latent = F.linear(torch.cat(pooled, 1).flatten(1), self.weight, self.bias).unflatten(1, (self.rows, -1))
        assert predicted is not None
        return latent, predicted


class PrefixGraph(HeadGraph):
    """latent -> layer-8 feature, RGB sum at 64 x 64."""

    def __init__(self, model: SFEInverter) -> None:
        super().__init__(model)
        self.second = styled(model.generator, 8)
        self.second_rgb = FoldedToRGB(model.generator.rgb_layer(HEAD_BLOCKS))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        x, rgb = super().forward(latent)
        x = self.second(x, latent[:, 8])
        return x, self.second_rgb(x, latent[:, 9], rgb)


class SuffixGraph(nn.Module):
    """changed, rgb, latent -> picture."""

    def __init__(self, model: SFEInverter) -> None:
        super().__init__()
        self.size = model.config.resolution
        self.blocks = nn.ModuleList(FoldedBlock(model.generator, block) for block in range(HEAD_BLOCKS + 1, len(model.generator.to_rgbs)))

    def forward(self, changed: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        x = changed
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return rgb


class FuserGraph(nn.Module):
    """predicted, feature -> fused, and for the editor fused, masked -> changed."""

    def __init__(self, fuser: Fuser) -> None:
        super().__init__()
        self.fuser = fuser

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        fused: Tensor = self.fuser(first, second)
        return fused


class DeltaGraph(nn.Module):
    """feature_e4e, moved -> delta."""

    def forward(self, feature_e4e: Tensor, moved: Tensor) -> Tensor:
        return feature_e4e - moved


class MaskingGraph(nn.Module):
    """delta, mask -> masked."""

    def forward(self, delta: Tensor, mask: Tensor) -> Tensor:
        return masked(delta, mask)


def inverter_modules(model: SFEInverter) -> dict[str, nn.Module]:
    """The first phase: stage -> module; parameters are shared with the model where nothing is folded."""
    return evaluated(
        {
            "inverter": InverterGraph(model),
            "generator_prefix": PrefixGraph(model),
            "fuser": FuserGraph(model.inverter.fuser),
            "generator_suffix": SuffixGraph(model),
        }
    )


def sfe_modules(model: SFE) -> dict[str, nn.Module]:
    """The whole method."""
    own = {"encoder": EncoderGraph(model), "difference": DeltaGraph(), "masking": MaskingGraph(), "editor": FuserGraph(model.editor)}
    return {**inverter_modules(model), **evaluated(own)}
