from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sdic_runtime.errors import SdicError
from sdic_runtime.inversion import NAMES, Held, Inversion
from sdic_runtime.pipeline import Pipeline


@pytest.fixture
def inversion(pipeline: Pipeline, image: np.ndarray) -> Inversion:
    return pipeline.invert(image)


def rewritten(path: Path, metadata: dict[str, str] | None = None, tensors: dict[str, np.ndarray | None] | None = None) -> Path:
    """The inversion file at `path` with other metadata or tensors (None leaves one out)."""
    with safe_open(path, framework="numpy") as stream:
        known = {**stream.metadata(), **(metadata or {})}
    arrays = {name: array for name, array in {**load_file(path), **(tensors or {})}.items() if array is not None}
    save_file(arrays, path, known)
    return path


def test_saved_and_loaded_is_the_same(inversion: Inversion, tmp_path: Path) -> None:
    inversion.save(tmp_path / "a.safetensors")
    loaded = Inversion.load(tmp_path / "a.safetensors")
    assert loaded.model == inversion.model and loaded.names == inversion.names and len(loaded) == 3
    for name in NAMES.values():
        np.testing.assert_array_equal(getattr(loaded, name), getattr(inversion, name))
    assert [np.asarray(image).tolist() for image in loaded.images] == [np.asarray(image).tolist() for image in inversion.images]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_file_tells_which_model_made_it(inversion: Inversion, pipeline: Pipeline, tmp_path: Path) -> None:
    inversion.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as stream:
        metadata = stream.metadata()
    assert metadata["model"] == pipeline.bundle.manifest.identity and metadata["bundle"] == "tiny"
    assert json.loads(metadata["sizes"]) == pipeline.sizes.as_dict()


def test_picking_pictures(inversion: Inversion) -> None:
    assert [one.latent.tolist() for one in inversion] == [[code] for code in inversion.latent.tolist()]
    np.testing.assert_array_equal(inversion[-1].pixels, inversion.pixels[2:])
    np.testing.assert_array_equal(inversion[1:].residual, inversion.residual[1:])
    assert len(inversion[1]) == 1 and len(inversion[1:]) == 2 and len(inversion[1][0]) == 1
    for index in (3, -4):
        with pytest.raises(IndexError):
            inversion[index]


def test_joining_is_the_opposite_of_picking(inversion: Inversion) -> None:
    joined = Inversion.join(list(inversion))
    np.testing.assert_array_equal(joined.pixels, inversion.pixels)
    with pytest.raises(SdicError, match="no inversion to join"):
        Inversion.join([])


def test_what_is_no_inversion_is_one_sentence(inversion: Inversion, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    inversion.save(path)
    whole = path.read_bytes()
    latent = inversion.latent.copy()
    latent[0, 0, 0] = np.nan

    def check(message: str) -> None:
        with pytest.raises(SdicError, match=message) as caught:
            Inversion.load(path)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)

    for content in (b"", b"text", whole[:100], whole[:-1]):
        path.write_bytes(content)
        check("is not a saved inversion, or damaged")
    rewritten(path, {"format": "other"})
    check("is not a saved inversion; make one with: sdic-run invert IMG --save")
    rewritten(path, {"version": "2"})
    check("format version 2, and this program reads version 1")
    rewritten(path, {"sizes": "{}"})
    check("damaged metadata")
    rewritten(path, {"visible_rows": "7"})
    check("damaged metadata")
    rewritten(path, tensors={"residual": None})
    check(r'holds nothing as "residual", expected float32 \[3, 4, 64, 64\]')
    rewritten(path, tensors={"latent": inversion.latent[:, :5].copy()})
    check(r'holds float32 \[3, 5, 8\] as "latent", expected float32 \[3, 12, 8\]')
    rewritten(path, tensors={"latent": latent})
    check('holds NaN or infinite values in "latent"')
    with pytest.raises(SdicError, match="there is no inversion at .*none"):
        Inversion.load(tmp_path / "none")
    with pytest.raises(SdicError, match="cannot read the inversion"):
        Inversion.load(tmp_path)


def test_a_place_that_cannot_be_written_is_one_sentence_and_leaves_nothing(inversion: Inversion, tmp_path: Path) -> None:
    with pytest.raises(SdicError, match=r"^cannot write .*a.safetensors: no such file or directory; choose another place or make room$"):
        inversion.save(tmp_path / "none" / "a.safetensors")
    with pytest.raises(SdicError, match=r"^cannot write .*: it is a folder; name a file$"):
        inversion.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(inversion: Inversion, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SdicError, match="permission denied"):
        inversion.save(tmp_path / "a.safetensors")
    tmp_path.chmod(0o700)


def test_an_interrupted_save_keeps_the_old_file(inversion: Inversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("the old file")

    plain = Path.write_bytes

    def full_disk(target: Path, content: bytes) -> int:
        plain(target, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(SdicError, match="cannot write .*a.safetensors: no space left on device"):
        inversion.save(path)
    assert path.read_text() == "the old file" and [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


class Counting:
    """A backend that only moves tensors, and counts how often."""

    name = description = "counting"

    def __init__(self) -> None:
        self.uploads = self.downloads = 0

    def upload(self, array: np.ndarray) -> list[np.ndarray]:
        self.uploads += 1
        return [array]

    def download(self, tensor: list[np.ndarray]) -> np.ndarray:
        self.downloads += 1
        return tensor[0]

    def run(self, *_: object) -> dict[str, object]:
        raise AssertionError("nothing is run here")


def test_a_held_tensor_moves_only_when_needed_and_once() -> None:
    here, there = Counting(), Counting()
    array = np.arange(3, dtype=np.float32)
    held = Held(device=[array], backend=here)
    assert held.on(here)[0] is array and (here.uploads, here.downloads) == (0, 0)
    assert held.host() is array and held.host() is array and here.downloads == 1
    assert held.on(there) is held.on(there) and (there.uploads, here.downloads) == (1, 1)
