"""SSIM, PSNR and L2 against scikit-image, and the frame that is judged against Pillow-free formulas."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from sdic_runtime.tools.scores import judged, resized, scores


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = rng.uniform(-1, 1, (1, 3, 6, 7)).repeat(8, 2).repeat(8, 3).astype(np.float32)
    return smooth, np.clip(smooth + rng.normal(0, 0.1, smooth.shape), -1, 1).astype(np.float32)


def test_scores_are_those_of_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found = scores(*pair)
    x, y = ((part[0].astype(np.float64) + 1) / 2 for part in pair)
    assert found["PSNR"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-5)
    assert found["L2"] == pytest.approx(4 * mean_squared_error(x, y), rel=1e-6)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, whole = structural_similarity(x, y, data_range=1, channel_axis=0, full=True, **gaussian)
    assert found["SSIM"] == pytest.approx(whole[:, 5:-5, 5:-5].mean(), abs=1e-6)  # without windows that leave the picture


def test_equal_pictures_have_no_distance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert scores(pair[0], pair[0]) == {"SSIM": pytest.approx(1), "PSNR": pytest.approx(120), "L2": 0}


def test_a_picture_is_judged_as_the_released_code_shrinks_it() -> None:
    picture = np.random.default_rng(1).uniform(-2, 2, (1, 3, 32, 32)).astype(np.float32)
    clipped = np.clip(picture, -1, 1)
    centres = (clipped[..., 1::4, 1::4] + clipped[..., 1::4, 2::4] + clipped[..., 2::4, 1::4] + clipped[..., 2::4, 2::4]) / 4
    np.testing.assert_allclose(judged(picture, {"R": 32}, (0, 32), 8), centres, atol=1e-6)
    np.testing.assert_allclose(judged(picture, {"R": 32}, (8, 24), 8), centres[:, :, 2:6], atol=1e-6)
    np.testing.assert_array_equal(judged(clipped, {"R": 32}, (0, 32), 32), clipped)


def test_resizing_is_linear_between_centres() -> None:
    row = np.random.default_rng(2).normal(size=(1, 1, 1, 10)).astype(np.float32)
    for size in (3, 4, 7, 15, 20):
        want = np.interp((np.arange(size) + 0.5) * 10 / size - 0.5, np.arange(10), row[0, 0, 0])
        np.testing.assert_allclose(resized(row, size, 3)[0, 0, 0], want, atol=1e-6)
