"""FID against its definition, a closed form, and files of Inception networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdic_runtime.errors import SdicError
from sdic_train.evaluation.fid import frechet_distance, open_features


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


def test_the_distance_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    a, b = rng.normal(size=(50, 6)), rng.normal(0.3, 1.5, size=(40, 6)) @ mix
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_gaussians_have_their_closed_form() -> None:
    """Of diagonal covariances it is |mean difference|^2 + sum (deviation difference)^2: with sets that have exactly these."""
    rng = np.random.default_rng(1)
    white = np.linalg.qr(rng.normal(size=(64, 9)))[0]
    white = np.linalg.qr(white - white.mean(0))[0] * np.sqrt(63)  # mean 0, covariance 1
    deviations, others, shift = rng.uniform(0.5, 2, 9), rng.uniform(0.5, 2, 9), rng.normal(size=9)
    want = (shift**2).sum() + ((deviations - others) ** 2).sum()
    assert frechet_distance(white * deviations, white[::-1] * others + shift) == pytest.approx(want, rel=1e-9)


def test_fewer_pictures_than_features_are_no_special_case() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(5, 12)), rng.normal(0.5, 2, size=(30, 12))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second) - 2 * trace
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)


class Sees(nn.Module):
    """Like NVIDIA's file: features on request, from pictures of 0 to 255."""

    def forward(self, picture: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = picture.to(torch.float32).mean([2, 3])
        return torch.cat([means, means * means], 1) if return_features else means[:, :1]


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1


def expected(pictures: torch.Tensor) -> np.ndarray:
    means = ((pictures.clamp(-1, 1) + 1) * 127.5).round().double().mean((2, 3))
    return torch.cat([means, means * means], 1).numpy()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_torchscript_is_asked_for_its_features(tmp_path: Path, pictures: torch.Tensor) -> None:
    torch.jit.script(Sees()).save(str(tmp_path / "inception.pt"))
    np.testing.assert_allclose(open_features(tmp_path / "inception.pt")(pictures), expected(pictures), rtol=1e-5)


@pytest.mark.parametrize(("batch", "side", "kind"), [("N", "H", "FLOAT"), (1, 40, "FLOAT"), ("N", 20, "UINT8")])
def test_onnx_is_given_what_it_takes(tmp_path: Path, pictures: torch.Tensor, batch: int | str, side: int | str, kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=kinds.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["m"]),
        helper.make_node("Mul", ["m", "m"], ["q"]),
        helper.make_node("Concat", ["m", "q"], ["features"], axis=1),
    ]
    takes = [helper.make_tensor_value_info("x", getattr(kinds, kind), [batch, 3, side, side])]
    gives = [helper.make_tensor_value_info("features", kinds.FLOAT, [batch, 6, 1, 1])]
    graph = helper.make_graph(nodes, "g", takes, gives)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "i.onnx"))
    np.testing.assert_allclose(open_features(tmp_path / "i.onnx")(pictures), expected(pictures), rtol=1e-2 if side == 40 else 1e-5)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_bad_files_are_one_sentence(tmp_path: Path, pictures: torch.Tensor) -> None:
    with pytest.raises(SdicError, match=r"there is no file .*none\.pt; name the Inception network of FID, \.onnx or TorchScript \.pt"):
        open_features(tmp_path / "none.pt")
    for name, sentence in (("a.pt", "is not a TorchScript file"), ("a.onnx", "is not an ONNX graph that runs")):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(SdicError, match=sentence):
            open_features(tmp_path / name)

    class Wrong(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return picture.to(torch.float32).mean()

    torch.jit.trace(Wrong(), pictures).save(str(tmp_path / "wrong.pt"))
    with pytest.raises(
        SdicError, match=r"gives an array of shape \[\] for 3 pictures; it must take pictures \[N, 3, H, W\] with values 0 to"
    ):
        open_features(tmp_path / "wrong.pt")(pictures)
