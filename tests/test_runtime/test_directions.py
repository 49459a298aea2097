from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdic_runtime import Bundle
from sdic_runtime.directions import Directions, load_direction, save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import FileError


@pytest.fixture
def pca() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    comp = random.standard_normal((60, 1, 8)).astype(np.float32)
    comp /= np.linalg.norm(comp, axis=2, keepdims=True)
    return {"mean": random.standard_normal((1, 8)).astype(np.float32), "comp": comp, "std": random.uniform(0.5, 3, 60).astype(np.float32)}


@pytest.mark.parametrize(
    "direction",
    [
        Direction(np.arange(8), "smile", "InterFaceGAN, 2,000 portraits, accuracy .98", (-3.0, 3.0), (0, 8)),
        Direction(np.arange(96).reshape(12, 8), "age"),
    ],
)
def test_a_saved_direction_reads_back_equal(tmp_path: Path, direction: Direction) -> None:
    save_direction(tmp_path / "a.safetensors", direction)
    loaded = load_direction(tmp_path / "a.safetensors")
    assert isinstance(loaded, Direction)
    np.testing.assert_array_equal(loaded.vector, direction.vector)
    assert (loaded.name, loaded.method, loaded.strength_range, loaded.rows) == (
        direction.name,
        direction.method,
        direction.strength_range,
        direction.rows,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_saved_basis_reads_back_equal(tmp_path: Path, pca: dict[str, np.ndarray]) -> None:
    save_direction(tmp_path / "a.safetensors", Pca(**pca, name="basis", method="PCA of 10,000 codes"))
    loaded = load_direction(tmp_path / "a.safetensors")
    assert isinstance(loaded, Pca) and (loaded.name, loaded.method) == ("basis", "PCA of 10,000 codes")
    for part, array in pca.items():
        np.testing.assert_array_equal(getattr(loaded, part), array)


def test_numpy_files_are_read(tmp_path: Path, pca: dict[str, np.ndarray]) -> None:
    np.save(tmp_path / "smile.npy", np.arange(8.0))
    smile = load_direction(tmp_path / "smile.npy")
    assert isinstance(smile, Direction) and smile.name == "smile" and smile.vector.shape == (1, 8)
    np.savez(tmp_path / "basis.npz", **pca)
    assert isinstance(load_direction(tmp_path / "basis.npz"), Pca)


def test_files_that_are_no_directions_are_one_sentence(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    save_file({"direction": np.full(8, np.nan, np.float32)}, tmp_path / "nan.safetensors")
    save_file({"direction": np.zeros(8, np.float32)}, tmp_path / "range.safetensors", {"strength_range": "wide"})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-3])
    (tmp_path / "text.safetensors").write_text("<html>quota exceeded</html>")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "smile.pt").touch()
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    for name, message in {
        "other.safetensors": 'it holds other, expected "direction", or "mean", "comp" and "std"',
        "nan.safetensors": 'nan.safetensors: the direction "nan" holds NaN',
        "cut.safetensors": "is not a direction file",
        "range.safetensors": "its metadata \"strength_range\" is 'wide', expected two numbers",
        "text.safetensors": "is not a direction file",
        "empty.npy": "is not a direction file",
        "smile.pt": "use .safetensors, .npy or .npz",
        "folder.npy": "cannot read the direction",
        "pickled.npy": "is not a direction file",
        "a\0b.npy": "is not a direction file: embedded null byte",
        "none.npy": "cannot read the direction .*none.npy: no such file",
    }.items():
        with pytest.raises(FileError, match=message) as caught:
            load_direction(tmp_path / name)
        assert "\n" not in str(caught.value), name


def test_the_directions_of_a_bundle_show_their_names(tiny_bundle: Path) -> None:
    assert repr(Directions(Bundle.open(tiny_bundle))) == "<Directions age, basis, smile>"
