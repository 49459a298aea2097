"""What an inversion is measured by: distances of pixels, and the networks that a user names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sdic_runtime.errors import MissingExtraError
from sdic_train.evaluation.fid import Features
from sdic_train.losses.pixels import l2, psnr, ssim

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # pictures, targets [N, 3, H, W] in [-1, 1] -> [N]
SMALLEST_MS_SSIM = 161  # pixels: its five scales halve a window of 11 four times


@dataclass(frozen=True)
class Judges:
    """The networks that take part. `identity` and `perceptual` are distances, on `device`; `features` are those of FID."""

    identity: Distance | None = None
    perceptual: Distance | None = None
    features: Features | None = None
    device: str = "cpu"

    def distances(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Column -> [N], in the paper's order: ID (cosine similarity), SSIM, PSNR (dB, on [0, 1]), LPIPS, L2 (mean squared error on
        [-1, 1]), and MS-SSIM where the pictures are large enough for its five scales. Raises MissingExtraError."""
        picture, target = picture.to(self.device), target.to(self.device)
        with torch.no_grad():
            found = {} if self.identity is None else {"ID": 1 - self.identity(picture, target)}
            found |= {"SSIM": ssim(picture, target), "PSNR": psnr(picture, target)}
            found |= {} if self.perceptual is None else {"LPIPS": self.perceptual(picture, target)}
            found["L2"] = l2(picture, target)
            return found | ({"MS-SSIM": ms_ssim(picture, target)} if min(picture.shape[2:]) >= SMALLEST_MS_SSIM else {})


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity per picture (Wang et al. 2003), on [0, 1]: [N, 3, H, W] in [-1, 1], 161 pixels or more -> [N]."""
    try:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure
    except ImportError as error:
        raise MissingExtraError("torchmetrics", "train", "MS-SSIM") from error
    found = measure((a + 1) / 2, (b + 1) / 2, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(a))
