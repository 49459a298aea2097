"""The drawn portraits' own perceptual distance and identity, both read off a `PortraitReader`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_train.networks.portrait_reader import PortraitReader


class PortraitPerceptual(nn.Module):
    """Perceptual distance in the form of LPIPS without learned weights: features of unit length per pixel, squared difference,
    mean over the positions and over the levels."""

    def __init__(self, reader: PortraitReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [N, 3, H, W] in [-1, 1] -> [N]."""
        return feature_distance(self.reader.features(a), self.reader.features(b))


class PortraitIdentity(nn.Module):
    """1 - cosine similarity of the parameters that make a person (`portrait_reader.IDENTITY`)."""

    def __init__(self, reader: PortraitReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [N, 3, H, W] in [-1, 1] -> [N]."""
        return 1 - (self.reader.identity(a) * self.reader.identity(b)).sum(1)


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean over levels of the mean over positions of the squared distance of unit feature vectors; [N]."""
    pairs = zip(a, b, strict=True)
    levels = [(F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1).mean((1, 2)) for x, y in pairs]
    return torch.stack(levels).mean(0)
