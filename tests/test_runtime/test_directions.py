from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sdic_runtime import Bundle
from sdic_runtime.directions import Directions, load_direction, load_directions, save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import FileError
from sdic_runtime.files import read_tensors, save_tensors
from sdic_runtime.styles import StyleDirection


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


def test_a_folder_gives_its_directions_whatever_their_form(tmp_path: Path, pca: dict[str, np.ndarray]) -> None:
    save_direction(tmp_path / "age.safetensors", Direction(np.arange(8), "age"))
    np.save(tmp_path / "smile.npy", np.arange(8.0))
    np.savez(tmp_path / "basis.npz", **pca)
    (tmp_path / "notes.txt").write_text("no direction")
    found = load_directions(tmp_path)
    assert {name: type(each) for name, each in found.items()} == {"age": Direction, "basis": Pca, "smile": Direction}
    assert load_directions(tmp_path / "nowhere") == {}
    np.save(tmp_path / "age.npy", np.ones(8))
    both = f"{tmp_path / 'age.npy'} and {tmp_path / 'age.safetensors'}"
    with pytest.raises(FileError, match=f'^two directions are called "age": {both}; rename one of them$'):
        load_directions(tmp_path)


SIZES = {"L": 12, "C": 8, "M": 40}


def test_the_fields_own_files_are_read(tmp_path: Path, pca: dict[str, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    rows = np.arange(96, dtype=np.float32)
    np.save(tmp_path / "Smiling_boundary.npy", rows[None])  # the Feature-Style encoder's: [1, L * C]
    torch.save(torch.from_numpy(rows).reshape(1, 12, 8), tmp_path / "pose.pt")
    for name in ("Smiling_boundary.npy", "pose.pt"):
        boundary = load_direction(tmp_path / name, SIZES)
        assert isinstance(boundary, Direction)
        np.testing.assert_array_equal(boundary.vector, rows.reshape(12, 8))
    np.save(tmp_path / "styles.npy", np.arange(40.0))
    torch.save([torch.arange(25.0), torch.arange(25.0, 40.0)], tmp_path / "layers.pt")
    for name in ("styles.npy", "layers.pt"):
        style = load_direction(tmp_path / name, SIZES)
        assert isinstance(style, StyleDirection)
        np.testing.assert_array_equal(style.vector, np.arange(40))
    torch.save({part: torch.from_numpy(array) for part, array in pca.items()}, tmp_path / "basis.pt")
    found = load_direction(tmp_path / "basis.pt", SIZES)
    assert isinstance(found, Pca) and found.std.shape == (60,)


@pytest.mark.parametrize("use_w", [True, False])
def test_the_file_of_ganspace_itself_is_read(tmp_path: Path, pca: dict[str, np.ndarray], use_w: bool) -> None:
    """Without `use_w` the "lat" arrays are of the random input, with deviations of one, and "act" has the basis of W."""
    own = {"lat_mean": pca["mean"], "lat_comp": pca["comp"], "lat_stdev": pca["std"]}
    other = {"act_mean": pca["mean"] + 1, "act_comp": -pca["comp"], "act_stdev": 2 * pca["std"]}
    if not use_w:
        own, other = {**own, "lat_stdev": np.ones(60, np.float32)}, {f"act{name[3:]}": array for name, array in own.items()}
    np.savez_compressed(tmp_path / "stylegan2-ffhq_style.npz", **own, **other, var_ratio=np.ones(60), random_stdevs=np.ones(60))
    found = load_direction(tmp_path / "stylegan2-ffhq_style.npz")
    assert isinstance(found, Pca)
    for part, array in pca.items():
        np.testing.assert_array_equal(getattr(found, part), array)


def test_a_saved_style_direction_reads_back_equal(tmp_path: Path) -> None:
    save_direction(tmp_path / "a.safetensors", StyleDirection(np.arange(9), "glow", "StyleSpace", (-2.0, 5.0), "MIT"))
    loaded = load_direction(tmp_path / "a.safetensors")
    assert isinstance(loaded, StyleDirection)
    np.testing.assert_array_equal(loaded.vector, np.arange(9))
    assert (loaded.name, loaded.method, loaded.strength_range, loaded.licence) == ("glow", "StyleSpace", (-2.0, 5.0), "MIT")


def test_files_that_are_no_directions_are_one_sentence(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    save_file({"direction": np.full(8, np.nan, np.float32)}, tmp_path / "nan.safetensors")
    save_file({"direction": np.zeros(8, np.float32)}, tmp_path / "range.safetensors", {"strength_range": "wide"})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-3])
    (tmp_path / "text.safetensors").write_text("<html>quota exceeded</html>")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "smile.pt").touch()
    (tmp_path / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    for name, message in {
        "other.safetensors": 'it holds other, expected "direction", or "mean", "comp" and "std"',
        "nan.safetensors": 'nan.safetensors: the direction "nan" holds NaN',
        "cut.safetensors": "is not a direction file",
        "range.safetensors": "its metadata \"strength_range\" is 'wide', expected two numbers",
        "text.safetensors": "is a web page, not a direction",
        "empty.npy": "is not a direction file",
        "smile.pt": "form that torch.save writes since PyTorch 1.6; get it again",
        "old.pt": "PyTorch 1.6; convert it with: sdic-export directions add BUNDLE FILE",
        "page.pt": "is a web page, not a direction: the download failed; download it again",
        "smile.csv": "use .safetensors, .npy, .npz, .pt or .pth",
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


@pytest.mark.parametrize(("key", "value"), [("strength_range", [3, -3]), ("rows", [5, 2]), ("rows", [4, 4])])
def test_a_range_that_holds_nothing_is_refused(key: str, value: list[int], tmp_path: Path) -> None:
    save_direction(tmp_path / "a.safetensors", Direction(np.arange(8), "a"))
    content, metadata = read_tensors(tmp_path / "a.safetensors")
    save_tensors(tmp_path / "a.safetensors", content, {**metadata, key: json.dumps(value)})
    with pytest.raises(FileError, match=f'its metadata "{key}" is .*, expected a smaller number before a larger one$'):
        load_direction(tmp_path / "a.safetensors")
