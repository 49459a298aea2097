"""Distances that need no network: L2, PSNR, SSIM, on the scales of the paper's Table 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error per picture, [N, 3, H, W] in [-1, 1] -> [N]."""
    return (a - b).square().mean((1, 2, 3))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio per picture in dB, on the [0, 1] scale: [N, 3, H, W] in [-1, 1] -> [N]."""
    return -10 * torch.log10((l2(a, b) / 4).clamp_min(1e-12))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per picture, the mean over channels and over all whole Gaussian windows: [N, 3, H, W] in [-1, 1] -> [N]."""
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    taps = torch.exp(-offsets.square() / (2 * SIGMA**2))
    taps = taps / taps.sum()

    def blurred(x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    a, b = (a + 1) / 2, (b + 1) / 2
    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    values = (2 * mean_a * mean_b + C1) * (2 * covariance + C2) / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))
    return values.mean((1, 2, 3))
