"""The parts of the generator's tail as modules that export well: see `sdic_train.methods.cuts`."""

from __future__ import annotations

from torch import Tensor, nn

from sdic_export.graphs.folded import FoldedToRGB
from sdic_export.graphs.sdic import HEAD_BLOCKS, FoldedBlock, stage_modules, styled
from sdic_train.config import FEATURE_SIZE
from sdic_train.methods.cuts import FIRST, sizes_of
from sdic_train.networks.hfgi.model import fuse
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import Generator


class EntranceGraph(nn.Module):
    """feature, latent -> feature of 64, behind layer 8."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.size = generator.config.resolution  # of the picture
        self.conv = styled(generator, 8)

    def forward(self, feature: Tensor, latent: Tensor) -> Tensor:
        return self.entered(feature, latent)

    def entered(self, feature: Tensor, latent: Tensor) -> Tensor:
        """What layer 8 makes of `feature`."""
        made: Tensor = self.conv(feature, latent[:, 8])
        return made


class SummedEntranceGraph(EntranceGraph):
    """feature, residual, latent -> feature of 64."""

    def forward(self, feature: Tensor, residual: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.entered(feature + residual, latent)


class FusedEntranceGraph(EntranceGraph):
    """feature, scale, shift, latent -> feature of 64."""

    def forward(self, feature: Tensor, scale: Tensor, shift: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        return self.entered(fuse(feature, scale, shift), latent)


class PartGraph(nn.Module):
    """The feature of the size below, the RGB sum before that, latent -> the feature of `size`, the RGB sum of the size below."""

    def __init__(self, generator: Generator, size: int) -> None:
        super().__init__()
        self.size, self.resolution = size, generator.config.resolution
        block = size.bit_length() - FEATURE_SIZE.bit_length() + HEAD_BLOCKS
        self.below = FoldedToRGB(generator.rgb_layer(block - 1))
        self.block = FoldedBlock(generator, block)

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        rgb = self.below(feature, latent[:, self.block.first], rgb)
        x = self.block.up(feature, latent[:, self.block.first])
        return self.block.conv(x, latent[:, self.block.first + 1]), rgb


class LastPartGraph(PartGraph):
    """The same for the largest size, up to the picture."""

    def forward(self, feature: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:  # type: ignore[override]
        x, rgb = super().forward(feature, rgb, latent)
        picture: Tensor = self.block.to_rgb(x, latent[:, self.block.first + 2], rgb)
        return picture


def tail_modules(generator: Generator, entrance: type[EntranceGraph] = EntranceGraph) -> dict[str, nn.Module]:
    """Part of the tail -> module."""
    sizes = sizes_of(generator.config)
    parts = {f"generator_{size}": (LastPartGraph if size == sizes[-1] else PartGraph)(generator, size) for size in sizes}
    return {name: module.eval() for name, module in {FIRST: entrance(generator), **parts}.items()}


def sdic_modules(model: SDIC) -> dict[str, nn.Module]:
    """SDIC's stages, and the parts of its tail."""
    return {**stage_modules(model), **tail_modules(model.generator, SummedEntranceGraph)}
