"""Public .pt files and our own formats become directions of a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdic_export.directions.files import find_directions, read_direction, read_directions, write_directions
from sdic_runtime.directions import load_direction, save_direction
from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError, FileError

FACES = {"L": 18, "C": 512}


def pca(width: int = 512, count: int = 80) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "mean": torch.randn(1, width, generator=generator),
        "comp": torch.randn(count, 1, width, generator=generator),
        "std": torch.rand(count, generator=generator) + 0.5,
    }


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder like the one in the release: a direction per style row, one for all rows, and two bases."""
    folder = tmp_path / "editings"
    folder.mkdir()
    torch.save(torch.arange(512.0)[None], folder / "smile.pt")
    torch.save(torch.ones(1, 18, 512, dtype=torch.float64), folder / "pose.pt")
    torch.save(pca(), folder / "ffhq_pca.pt")
    torch.save(pca(), folder / "cars_pca.pt")
    (folder / "readme.txt").write_text("text")
    return folder


def test_a_published_folder_is_converted(published: Path, tmp_path: Path) -> None:
    files = write_directions(tmp_path, read_directions([published], FACES, "faces"))
    assert files == {name: f"directions/{name}.safetensors" for name in ("ffhq_pca", "pose", "smile")}
    smile, pose, basis = (load_direction(tmp_path / files[name]) for name in ("smile", "pose", "ffhq_pca"))
    assert isinstance(smile, Direction) and smile.name == "smile" and smile.method == "converted from smile.pt"
    np.testing.assert_array_equal(smile.vector, np.arange(512, dtype=np.float32)[None])
    assert isinstance(pose, Direction) and pose.vector.shape == (18, 512) and pose.vector.dtype == np.float32
    assert isinstance(basis, Pca)
    for part in ("mean", "comp", "std"):
        np.testing.assert_array_equal(getattr(basis, part), pca()[part].numpy())


def test_own_formats_are_taken_too(tmp_path: Path) -> None:
    save_direction(tmp_path / "age.safetensors", Direction(np.ones(512, np.float32), "age", "interfacegan", strength_range=(-3, 3)))
    np.save(tmp_path / "beard.npy", np.zeros((18, 512), np.float32) + 1)
    read = read_directions([tmp_path / "age.safetensors", tmp_path / "beard.npy"], FACES, "faces")
    files = write_directions(tmp_path, read)
    assert list(files) == ["age", "beard"]
    age = load_direction(tmp_path / files["age"])
    assert isinstance(age, Direction) and age.strength_range == (-3, 3) and age.method == "interfacegan"


def test_a_basis_of_another_domain_is_omitted_from_a_folder_and_refused_by_name(published: Path) -> None:
    assert "cars_pca" not in find_directions([published], "faces")
    assert "ffhq_pca" not in find_directions([published], "cars")
    assert {"cars_pca", "ffhq_pca"} <= set(find_directions([published], "cars")) | {"ffhq_pca"}
    with pytest.raises(ArgumentError, match=r'cars_pca\.pt is the PCA basis of the domain "cars", and this model is of "faces"; omit it'):
        find_directions([published / "cars_pca.pt"], "faces")


@pytest.mark.parametrize("place", ["file", "folder"])
def test_names_that_no_direction_can_have_are_refused(place: str, tmp_path: Path) -> None:
    """They would become names in `--edit NAME:STRENGTH`."""
    path = tmp_path / "my smile.npy"
    np.save(path, np.ones(512))
    with pytest.raises(ArgumentError, match=f'^the file {path} cannot be called so: "my smile" is no name for a direction; use letters'):
        find_directions([path if place == "file" else tmp_path], "faces")
    assert list(find_directions([path], "faces", renamed=True)) == ["my smile"]


def test_shapes_that_do_not_fit_the_model_are_refused(published: Path) -> None:
    cars = {"L": 16, "C": 512}
    with pytest.raises(FileError, match=r"pose\.pt does not fit this model: .*\[18, 512\].*\[16, 512\]"):
        read_direction(published / "pose.pt", cars)
    narrow = {"L": 14, "C": 128}
    with pytest.raises(FileError, match=r"smile\.pt does not fit this model: .*\[1, 512\].*\[14, 128\]"):
        read_direction(published / "smile.pt", narrow)
    with pytest.raises(FileError, match=r"ffhq_pca\.pt does not fit this model: .* codes 512 wide, and this model's are 128 wide"):
        read_direction(published / "ffhq_pca.pt", narrow)


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_files_that_are_no_directions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    cases: dict[str, tuple[Any, str]] = {
        "page": (b"<!DOCTYPE html><html>", "is a web page, not a direction: the download failed; download it again"),
        "text": (b"hello there", "is not in the form that torch.save writes since PyTorch 1.6"),
        "empty": (b"", "is not in the form that torch.save writes since PyTorch 1.6; get it again"),
        "code": (RunsCode(), "is not a file of tensors alone: it names .*system"),
        "weights": ({"layer": torch.zeros(2)}, 'it holds layer, expected "direction", or "mean", "comp" and "std"'),
        "words": ("smile", "it holds str, expected a tensor, or a PCA basis"),
        "nan": (torch.full((1, 512), torch.nan), "nan.pt: the direction .* NaN"),
    }
    for name, (content, sentence) in cases.items():
        path = tmp_path / f"{name}.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(FileError, match=sentence) as caught:
            read_direction(path, FACES)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name


def test_a_truncated_file_is_refused(published: Path) -> None:
    path = published / "smile.pt"
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(FileError, match=r"smile\.pt is not a direction file: it is truncated or damaged"):
        read_direction(path, FACES)


def test_places_without_directions_and_names_used_twice_are_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"there are no directions at .*nowhere; name a file or a folder"):
        find_directions([tmp_path / "nowhere"], "faces")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"the folder .*empty holds no direction files; their names end in \.safetensors, \.npy"):
        find_directions([tmp_path / "empty"], "faces")
    np.save(tmp_path / "smile.npy", np.zeros(512, np.float32))
    with pytest.raises(ArgumentError, match=r'two directions are called "smile": .*smile\.pt and .*smile\.npy; rename one of them'):
        find_directions([published, tmp_path / "smile.npy"], "faces")
