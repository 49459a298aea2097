"""How close a picture is to another: SSIM, PSNR and L2, on the scales of the tables of GAN inversion. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

WINDOW, DEVIATION = 11, 1.5  # of SSIM's Gaussian windows (Wang et al. 2004), in pixels
C1, C2 = 0.01**2, 0.03**2
SMALLEST_ERROR = 1e-12  # of PSNR's mean squared error: equal pictures have 120 dB


def scores(picture: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """SSIM, PSNR and L2 of one picture [1, 3, H, W] to its target, both in [-1, 1] and of at least 11 x 11 pixels."""
    return {"SSIM": ssim(picture, target), "PSNR": psnr(picture, target), "L2": l2(picture, target)}


def l2(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error on [-1, 1]."""
    return float(np.mean((a.astype(np.float64) - b) ** 2))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB, on [0, 1]."""
    return float(-10 * np.log10(max(l2(a, b) / 4, SMALLEST_ERROR)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity on [0, 1]: the mean over channels and over all whole Gaussian windows of 11 x 11."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    taps /= taps.sum()

    def blurred(x: np.ndarray) -> np.ndarray:
        for axis in (-1, -2):
            count = x.shape[axis] - WINDOW + 1
            x = sum(tap * np.take(x, np.arange(start, start + count), axis) for start, tap in enumerate(taps))
        return x

    a, b = (a.astype(np.float64) + 1) / 2, (b.astype(np.float64) + 1) / 2
    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    values = (2 * mean_a * mean_b + C1) * (2 * covariance + C2) / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))
    return float(values.mean())


def judged(pixels: np.ndarray, sizes: Mapping[str, int], visible_rows: tuple[int, int], width: int) -> np.ndarray:
    """A generated picture [N, 3, R, R] as it is judged: clamped to [-1, 1], its visible rows, brought to `width` pixels as the released
    code does (bilinear between pixel centres, no antialiasing)."""
    side = sizes["R"]
    whole = resized(resized(np.clip(pixels, -1, 1), width, 2), width, 3)
    return whole[:, :, visible_rows[0] * width // side : visible_rows[1] * width // side]


def resized(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """One axis brought to `size` entries, linearly between centres (PyTorch's align_corners=False)."""
    length = array.shape[axis]
    if length == size:
        return array
    places = np.maximum((np.arange(size) + 0.5) * length / size - 0.5, 0)
    low = places.astype(int)
    high = np.minimum(low + 1, length - 1)
    share = np.reshape(places - low, [-1 if each == axis else 1 for each in range(array.ndim)]).astype(array.dtype)
    return np.take(array, low, axis) * (1 - share) + np.take(array, high, axis) * share
