"""The generator in three parts, cut at 16 x 16 and at layer 7, as modules that export well: of CLCAE and FS."""

from __future__ import annotations

from torch import Tensor, nn

from sdic_export.graphs.encoded import PlainTailGraph
from sdic_export.graphs.folded import FoldedToRGB, constant
from sdic_export.graphs.parts import tail_modules
from sdic_export.graphs.sdic import HEAD_BLOCKS, FoldedBlock, Model, styled
from sdic_train.networks.stylegan2 import BASE_BLOCKS


class BaseGraph(nn.Module):
    """latent -> feature_16, rgb_16."""

    input: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        constant(self, "input", model.generator.input.input)
        self.conv = styled(model.generator, 0)
        self.to_rgb = FoldedToRGB(model.generator.to_rgb1)
        self.blocks = nn.ModuleList(FoldedBlock(model.generator, block) for block in range(BASE_BLOCKS))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.input, latent[:, 0])
        rgb = self.to_rgb(x, latent[:, 1])
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return x, rgb


class MiddleGraph(nn.Module):
    """content, feature_16, reference_16, rgb_16, latent -> feature, rgb."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FoldedBlock(model.generator, block) for block in range(BASE_BLOCKS, HEAD_BLOCKS))
        self.up = styled(model.generator, 7)

    def forward(self, content: Tensor, feature_16: Tensor, reference_16: Tensor, rgb_16: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        x, rgb = content + (feature_16 - reference_16), rgb_16
        for block in self.blocks:
            x, rgb = block(x, rgb, latent)
        return self.up(x, latent[:, 7]), rgb


def cut_modules(model: Model) -> dict[str, nn.Module]:
    """The generator's stages; parameters are shared with the model where nothing is folded."""
    own = {"generator_base": BaseGraph(model), "generator_middle": MiddleGraph(model), "generator_tail": PlainTailGraph(model)}
    return {**own, **tail_modules(model.generator)}
