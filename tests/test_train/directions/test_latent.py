"""Directions found in codes whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdic_runtime.directions import load_direction, save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import SdicError
from sdic_train.config import TINY
from sdic_train.directions.latent import boundary, calibrated, ganspace, labelled_codes, sefa
from sdic_train.networks.stylegan2 import Generator

WIDTH = 16


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1500, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval()


def _unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=WIDTH)
    return vector / np.linalg.norm(vector)


def test_the_svm_finds_the_normal_and_reports_its_accuracy(codes: np.ndarray) -> None:
    normal = _unit(1)
    found = boundary(codes, (codes @ normal).astype(np.float32), 0.0, "smile")
    assert found.direction.vector.shape == (1, WIDTH)
    assert np.linalg.norm(found.direction.vector) == pytest.approx(1, abs=1e-5)
    assert found.direction.vector[0] @ normal > 0.99
    assert found.accuracy > 0.97
    assert found.separation == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.1)  # twice the mean of a half normal
    assert "accuracy" in found.direction.method


def test_labels_without_a_boundary_are_not_called_accurate(codes: np.ndarray) -> None:
    scores = np.random.default_rng(5).normal(size=len(codes)).astype(np.float32)
    assert boundary(codes, scores, 0.0, "chance").accuracy < 0.65


def test_other_directions_are_projected_out(codes: np.ndarray) -> None:
    smile, age = _unit(1), _unit(2)
    scores = (codes @ (smile + 0.8 * age)).astype(np.float32)
    plain = boundary(codes, scores, 0.0, "smile").direction.vector[0]
    clean = boundary(codes, scores, 0.0, "smile", against=age[None].astype(np.float32)).direction.vector[0]
    assert abs(plain @ age) > 0.3
    assert abs(clean @ age) < 1e-5


def test_a_strength_is_calibrated_by_what_it_does_to_labels(codes: np.ndarray) -> None:
    smile, age = _unit(1), _unit(2)

    def read(some: np.ndarray) -> np.ndarray:
        return np.asarray(some @ (smile + 0.3 * age), np.float32)

    scores = read(codes)
    span = float(scores[scores > 0].mean() - scores[scores <= 0].mean())
    found = boundary(codes, scores, 0.0, "smile", against=age[None].astype(np.float32))
    exact = calibrated(found, codes, scores, 0.0, span, read)
    assert exact.separation > 1.1 * found.separation, "part of what moves the label was projected out"
    normal = exact.direction.vector[0]
    low, high = codes[scores <= 0], codes[scores > 0]
    up = (read(low + exact.separation * normal) - read(low)).mean()
    down = (read(high) - read(high - exact.separation * normal)).mean()
    assert (up + down) / 2 == pytest.approx(span, rel=0.15)
    assert exact.direction.strength_range == pytest.approx((-exact.separation, exact.separation), abs=0.01)


def test_a_label_that_does_not_move_enough_leaves_the_strength(codes: np.ndarray) -> None:
    normal = _unit(1)
    found = boundary(codes, (codes @ normal).astype(np.float32), 0.0, "smile")
    same = calibrated(found, codes, (codes @ normal).astype(np.float32), 0.0, 100.0, lambda some: (some @ normal).astype(np.float32))
    assert (same.separation, same.direction.strength_range) == (found.separation, found.direction.strength_range)
    assert "at 2.5 times the distance of the sides samples moved by 0.04 of it" in same.direction.method


def test_too_few_codes_on_one_side(codes: np.ndarray) -> None:
    scores = np.full(len(codes), -1, np.float32)
    scores[:7] = 1
    with pytest.raises(SdicError) as caught:
        boundary(codes, scores, 0.0, "hat")
    assert str(caught.value) == 'the attribute "hat" has only 7 codes on one side; use at least 20: more samples or a smaller margin'


def test_samples_follow_from_the_seed_and_not_from_the_batch(generator: Generator) -> None:
    def read(picture: torch.Tensor) -> torch.Tensor:
        return picture.mean((1, 2, 3))[:, None]

    parts = [
        [np.concatenate(part) for part in zip(*labelled_codes(generator, read, 6, seed=3, batch=batch), strict=True)] for batch in (2, 6)
    ]
    assert np.allclose(parts[0][0], parts[1][0], atol=1e-6)
    assert np.allclose(parts[0][1], parts[1][1], atol=1e-4)


def test_ganspace_is_the_pca_of_scikit_learn(generator: Generator, tmp_path: Path) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    basis = ganspace(generator, components=4, samples=3000, seed=2)
    with torch.no_grad():
        samples = generator.mapping(torch.randn(3000, WIDTH, generator=torch.Generator().manual_seed(2))).numpy()
    wanted = decomposition.PCA(4).fit(samples.astype(np.float64))
    assert np.allclose(basis.mean[0], wanted.mean_, atol=1e-4)
    assert np.allclose(basis.std, np.sqrt(wanted.explained_variance_), rtol=1e-3)
    assert np.allclose(np.abs((basis.comp[:, 0] * wanted.components_).sum(1)), 1, atol=1e-3)
    save_direction(tmp_path / "pca.safetensors", basis)
    again = load_direction(tmp_path / "pca.safetensors")
    assert isinstance(again, Pca) and np.array_equal(again.comp, basis.comp)


def test_sefa_is_the_strongest_change_of_the_modulation(generator: Generator) -> None:
    directions = sefa(generator, 0, 3, 2)
    layers = [generator.conv1, generator.convs[0], generator.convs[1]]
    weights = torch.cat([layer.conv.modulation.weight.detach() for layer in layers]).numpy()  # type: ignore[union-attr]
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    _, values, vectors = np.linalg.svd(weights, full_matrices=False)
    for index, direction in enumerate(directions):
        assert abs(direction.vector[0] @ vectors[index]) == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(weights @ direction.vector[0]) == pytest.approx(values[index], rel=1e-4)
        assert direction.rows == (0, 3)


@pytest.mark.parametrize(("first", "end", "count"), [(3, 3, 1), (0, 99, 1), (0, 2, 0), (11, 12, 1)])
def test_sefa_refuses_rows_that_are_not_there(generator: Generator, first: int, end: int, count: int) -> None:
    with pytest.raises(SdicError, match=r"^(SeFa for the rows|the rows)"):
        sefa(generator, first, end, count)


def test_a_found_direction_survives_its_file(codes: np.ndarray, tmp_path: Path) -> None:
    found = boundary(codes, codes[:, 0].copy(), 0.0, "age").direction
    save_direction(tmp_path / "age.safetensors", found)
    again = load_direction(tmp_path / "age.safetensors")
    assert isinstance(again, Direction)
    assert np.array_equal(again.vector, found.vector)
    assert (again.strength_range, again.method) == (found.strength_range, found.method)
