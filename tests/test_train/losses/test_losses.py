"""Losses and metrics against numbers that other programs give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdic_runtime.errors import SdicError
from sdic_train.losses.lpips import CONVOLUTIONS, load_lpips
from sdic_train.losses.networks import identity_network, perceptual_network
from sdic_train.losses.pixels import l2, psnr, ssim
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.portrait_reader import PortraitReader


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(2, 3, 8, 8, generator=random), size=(48, 48), mode="bilinear") * 2 - 1
    return smooth, (smooth + 0.1 * torch.randn(smooth.shape, generator=random)).clamp(-1, 1)


def test_psnr_and_l2_are_those_of_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair
    for index in range(2):
        x, y = (((part[index] + 1) / 2).double().numpy() for part in pair)
        assert psnr(a, b)[index].item() == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=1), abs=1e-4)
        assert l2(a, b)[index].item() == pytest.approx(4 * metrics.mean_squared_error(x, y), rel=1e-5)


def test_ssim_is_that_of_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair
    for index in range(2):
        x, y = (((part[index] + 1) / 2).double().numpy() for part in pair)
        # scikit-image averages over its valid region too when the window is Gaussian and the covariance is the population's
        wanted = metrics.structural_similarity(
            x, y, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(a, b)[index].item() == pytest.approx(wanted, abs=1e-4)


def test_l2_bounds_psnr_as_the_table_says(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    assert torch.allclose(l2(a, b), 4 * 10 ** (-psnr(a, b) / 10), rtol=1e-5)


def _lpips_files(folder: Path) -> str:
    torch.manual_seed(1)
    alexnet = {}
    for index, inputs, outputs, kernel, *_ in CONVOLUTIONS:
        alexnet[f"features.{index}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel**2) ** -0.5
        alexnet[f"features.{index}.bias"] = torch.randn(outputs) * 0.1
    linear = {f"lin{level}.model.1.weight": torch.rand(1, row[2], 1, 1) for level, row in enumerate(CONVOLUTIONS)}
    torch.save(alexnet, folder / "alexnet.pth")
    torch.save(linear, folder / "alex.pth")
    return f"{folder / 'alexnet.pth'},{folder / 'alex.pth'}"


def test_lpips_is_the_published_formula(tmp_path: Path) -> None:
    names = _lpips_files(tmp_path)
    network = load_lpips(Path(names))
    alexnet, linear = (torch.load(name) for name in names.split(","))
    random = torch.Generator().manual_seed(2)
    a, b = (torch.rand(2, 3, 64, 64, generator=random) * 2 - 1 for _ in range(2))

    def activations(x: torch.Tensor) -> list[torch.Tensor]:
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        found = []
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if index in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, alexnet[f"features.{index}.weight"], alexnet[f"features.{index}.bias"], stride, padding))
            found.append(x)
        return found

    wanted = torch.zeros(2)
    for level, (x, y) in enumerate(zip(activations(a), activations(b), strict=True)):
        x, y = (part / (part.norm(dim=1, keepdim=True) + 1e-10) for part in (x, y))
        wanted += F.conv2d((x - y) ** 2, linear[f"lin{level}.model.1.weight"]).mean((1, 2, 3))
    assert torch.allclose(network(a, b), wanted, rtol=1e-4)
    assert network(a, a).abs().max() == 0


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            "one.pth",
            "the perceptual weights \"{folder}/one.pth\" are not two files; give AlexNet's and LPIPS' linear weights with a comma between",
        ),
        (
            "alex.pth,alexnet.pth",
            '"{folder}/alex.pth" has no "features.0.weight", so it is not the published weight file; '
            "give AlexNet's first, LPIPS' linear weights second",
        ),
    ],
)
def test_wrong_perceptual_weights_are_named(tmp_path: Path, names: str, sentence: str) -> None:
    _lpips_files(tmp_path)
    given = ",".join(str(tmp_path / name) for name in names.split(","))
    with pytest.raises(SdicError) as caught:
        perceptual_network(Path(given))
    assert str(caught.value) == sentence.format(folder=tmp_path)


def test_a_file_without_a_recognition_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(SdicError, match=r"is no recognition network known here; give IR-SE-50, IR-101 or MoCo-v2 ResNet-50 weights$"):
        identity_network(tmp_path / "other.pth")


def test_portrait_distances_are_zero_for_the_same_picture_and_grow(reader: PortraitReader) -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 128, 128, generator=random) * 2 - 1
    noise = torch.randn(a.shape, generator=random)
    for distance in (PortraitPerceptual(reader), PortraitIdentity(reader)):
        with torch.no_grad():
            same, near, far = distance(a, a), distance(a, a + 0.02 * noise), distance(a, a + 0.5 * noise)
        assert np.allclose(same, 0, atol=1e-5)
        assert (far > near).all()
