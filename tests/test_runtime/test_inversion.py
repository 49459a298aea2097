from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.manifest import first_schema
from sdic_runtime.errors import ArgumentError, FileError, OutOfMemoryError
from sdic_runtime.inversion import Edited, Held, Inversion
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline


@pytest.fixture
def inversion(pipeline: Pipeline, image: np.ndarray) -> Inversion:
    return pipeline.invert(image)


def rewritten(path: Path, metadata: dict[str, str] | None = None, tensors: dict[str, np.ndarray | None] | None = None) -> Path:
    """The inversion file at `path` with other metadata or tensors (None omits one)."""
    with safe_open(path, framework="numpy") as stream:
        known = {**stream.metadata(), **(metadata or {})}
    arrays = {name: array for name, array in {**load_file(path), **(tensors or {})}.items() if array is not None}
    save_file(arrays, path, known)
    return path


def test_saved_and_loaded_is_the_same(inversion: Inversion, tmp_path: Path) -> None:
    inversion.save(tmp_path / "a.safetensors")
    loaded = Inversion.load(tmp_path / "a.safetensors")
    assert loaded.model == inversion.model and loaded.names == inversion.names and len(loaded) == 3
    for name in inversion.tensors:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(inversion, name))
    assert [np.asarray(image).tolist() for image in loaded.images] == [np.asarray(image).tolist() for image in inversion.images]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_file_tells_which_model_made_it(inversion: Inversion, pipeline: Pipeline, tmp_path: Path) -> None:
    inversion.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as stream:
        metadata = stream.metadata()
    assert metadata["model"] == pipeline.bundle.manifest.identity and metadata["bundle"] == "tiny"
    assert json.loads(metadata["sizes"]) == pipeline.sizes


def test_picking_pictures(inversion: Inversion) -> None:
    assert [one.latent.tolist() for one in inversion] == [[code] for code in inversion.latent.tolist()]
    np.testing.assert_array_equal(inversion[-1].pixels, inversion.pixels[2:])
    np.testing.assert_array_equal(inversion[1:].residual, inversion.residual[1:])
    assert len(inversion[1]) == 1 and len(inversion[1:]) == 2 and len(inversion[1][0]) == 1
    for index in (3, -4):
        with pytest.raises(IndexError):
            inversion[index]


@pytest.mark.parametrize("index", ["latent", [0, 1], 0.0, True, None])
def test_what_is_no_index_is_one_sentence(inversion: Inversion, index: Any) -> None:
    with pytest.raises(ArgumentError, match=r" is no index of a picture; give a whole number or a slice \(tensors by name: \.tensors\)$"):
        inversion[index]


def test_an_inversion_without_pictures_is_not_saved(inversion: Inversion, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no pictures to save"):
        inversion[len(inversion) :].save(tmp_path / "none.safetensors")
    assert not list(tmp_path.iterdir())


def test_joining_is_the_opposite_of_picking(inversion: Inversion) -> None:
    joined = Inversion.join(list(inversion))
    np.testing.assert_array_equal(joined.pixels, inversion.pixels)
    with pytest.raises(ArgumentError, match="no inversion to join"):
        Inversion.join([])


def test_what_is_no_inversion_is_one_sentence(inversion: Inversion, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    inversion.save(path)
    whole = path.read_bytes()
    latent = inversion.latent.copy()
    latent[0, 0, 0] = np.nan

    def check(message: str) -> None:
        with pytest.raises(FileError, match=message) as caught:
            Inversion.load(path)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)

    for content in (b"", b"text", whole[:100], whole[:-1]):
        path.write_bytes(content)
        check("is not a saved inversion, or damaged")
    rewritten(path, {"format": "other"})
    check("is not a saved inversion; make one with: sdic-run invert IMG --save")
    for version in ("3", "", "x" * 100):
        rewritten(path, {"version": version})
        check(f"is an inversion of format version '{version[:19]}.*, and this program reads version 2; invert the picture again$")
    axes = json.dumps({**inversion.model.tensors, "latent": ["N", "L", "Z"]})
    flat = json.dumps({**inversion.model.tensors, "picture": ["N", "C"]})
    for key, values in {
        "sizes": ["{}", "[]", '{"R": "128"}', "[" * 100_000],
        "visible_rows": ["7", "[100, 50]", "[0, 129]", "[-1, 128]", "[0, 64, 128]", "null"],
        "names": ["[]", "7", "[1, 2, 3]", "", "[" * 100_000],
        "tensors": ["{}", '{"latent": []}', "7", axes, flat],
    }.items():
        for value in values:
            rewritten(path, {key: value})
            check("has damaged metadata .*; invert the picture again$")
    rewritten(path, {"names": '["one", "two"]'})
    check(r'holds F32 \[3, 12, 8\] as "latent", expected F32 \[2, 12, 8\]')
    rewritten(path, {"sizes": json.dumps({**inversion.model.sizes, "R": 1 << 40})})
    check(r'damaged metadata \(sizes\["R"\] is 1099511627776, expected 1 to 65536\)')
    rewritten(path, tensors={"residual": None})
    check(r'holds nothing as "residual", expected F32 \[3, 4, 64, 64\]')
    rewritten(path, tensors={"latent": inversion.latent[:, :5].copy()})
    check(r'holds F32 \[3, 5, 8\] as "latent", expected F32 \[3, 12, 8\]')
    rewritten(path, tensors={"latent": inversion.latent.astype(np.float16)})
    check(r'holds F16 \[3, 12, 8\] as "latent", expected F32')
    rewritten(path, tensors={"latent": latent})
    check('holds NaN or infinite values in "latent"')
    with pytest.raises(FileError, match="there is no inversion at .*none"):
        Inversion.load(tmp_path / "none")
    with pytest.raises(FileError, match="cannot read the inversion"):
        Inversion.load(tmp_path)
    with pytest.raises(FileError, match=r"^cannot read the inversion 'a\\x00b': embedded null byte$"):
        Inversion.load("a\0b")


def test_a_file_with_numbers_that_numpy_lacks_is_one_sentence(inversion: Inversion, tmp_path: Path) -> None:
    """A bfloat16 tensor: its header is written by hand."""
    path = tmp_path / "a.safetensors"
    inversion.save(path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["latent"] |= {"dtype": "BF16", "shape": [3, 12, 16]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(FileError, match=r'holds BF16 \[3, 12, 16\] as "latent", expected F32'):
        Inversion.load(path)
    program = (
        "import sys, sdic_runtime\ntry: sdic_runtime.Inversion.load(sys.argv[1])\nexcept sdic_runtime.FileError as error: print(error)"
    )
    alone = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    assert "holds BF16 [3, 12, 16]" in alone, "without the types of other packages"


def test_a_file_of_version_1_loads_and_is_edited(inversion: Inversion, pipeline: Pipeline, tmp_path: Path) -> None:
    first = first_schema()
    arrays = {name: held.host() for name, held in inversion.tensors.items()}
    arrays["pixels"] = arrays.pop("picture")
    names = {letter: name for name, letter in first["sizes"].items()}
    sizes = {names[letter]: size for letter, size in inversion.model.sizes.items()}
    assert set(sizes) == {"resolution", "working", "rows", "style_width", "feature_channels"}
    metadata = {"format": "sdic-inversion", "version": "1", "model": inversion.model.identity, "bundle": "tiny"}
    metadata |= {"sizes": json.dumps(sizes), "visible_rows": "[0, 128]", "names": '["a.png", "", "c.png"]'}
    save_file(arrays, tmp_path / "a.safetensors", metadata)
    loaded = Inversion.load(tmp_path / "a.safetensors")
    assert loaded.model == inversion.model and loaded.names == ("a.png", "", "c.png")
    for name in inversion.tensors:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(inversion, name))
    np.testing.assert_array_equal(pipeline.edit(loaded, "smile", 2.0).pixels, pipeline.edit(inversion, "smile", 2.0).pixels)


def test_a_place_that_cannot_be_written_is_one_sentence_and_leaves_nothing(inversion: Inversion, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"^cannot write .*a.safetensors: no such file or directory; choose another place$"):
        inversion.save(tmp_path / "none" / "a.safetensors")
    with pytest.raises(FileError, match=r"^cannot write .*: it is a folder; name a file$"):
        inversion.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(inversion: Inversion, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="permission denied"):
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
    with pytest.raises(FileError, match="cannot write .*a.safetensors: no space left on device"):
        inversion.save(path)
    assert path.read_text() == "the old file" and [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_they_show_what_they_are(inversion: Inversion, pipeline: Pipeline) -> None:
    assert repr(inversion) == '<Inversion of 3 pictures, 128 x 128, by "tiny">'
    assert repr(pipeline.edit(inversion[0], "smile")) == '<Edited of 1 picture, 128 x 128, by "tiny">'


def test_a_tensor_that_is_not_kept_is_an_attribute_error_with_those_that_are(inversion: Inversion) -> None:
    assert {"latent", "residual", "save", "names"} <= set(dir(inversion))
    with pytest.raises(AttributeError, match="an inversion of this model keeps latent, .*, picture, and no 'mask'"):
        _ = inversion.mask


class Box:
    """A tensor on the fake device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        raise TypeError("what is on a device cannot be pickled")


class Device(Backend):
    """A fake device in front of another backend: counts what moves."""

    name = description = "device"  # type: ignore[assignment]

    def __init__(self, inner: Backend, slices: bool = True) -> None:
        super().__init__(inner.method)
        self.inner, self.slices, self.counts = inner, slices, dict.fromkeys(("upload", "download", "slice", "to_bytes"), 0)

    def upload(self, array: np.ndarray) -> Box:
        self.counts["upload"] += 1
        return Box(array)

    def download(self, tensor: Box) -> np.ndarray:
        self.counts["download"] += 1
        return tensor.array

    def run(self, stage: str, inputs: Mapping[str, Box], outputs: Sequence[str]) -> dict[str, Box]:
        results = self.inner.run(stage, {name: box.array for name, box in inputs.items()}, outputs)
        return {name: Box(array) for name, array in results.items()}

    def slice(self, tensor: Box, pictures: slice) -> Box | None:
        if not self.slices:
            return None
        self.counts["slice"] += 1
        return Box(tensor.array[pictures])

    def to_bytes(self, picture: Box, rows: tuple[int, int]) -> np.ndarray:
        self.counts["to_bytes"] += 1
        return to_bytes(picture.array, rows)


def moved(device: Device) -> dict[str, int]:
    """What moved since the last call."""
    counts, device.counts = device.counts, dict.fromkeys(device.counts, 0)
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def on_device(pipeline: Pipeline) -> Callable[..., Pipeline]:
    return lambda slices=True: Pipeline(pipeline.bundle, Device(pipeline.backend, slices))


def test_a_slice_stays_on_the_device_and_moves_only_what_is_asked_for(
    on_device: Callable[..., Pipeline], pipeline: Pipeline, image: np.ndarray
) -> None:
    there = on_device()
    device: Any = there.backend
    want = pipeline.invert(image)
    inversion = there.invert(image)
    assert moved(device) == {"upload": 1}
    parts = [*inversion, inversion[1:]]
    assert moved(device) == {}, "a slice alone does nothing"
    for index, part in enumerate(parts[:3]):
        assert np.array_equal(part.images[0], want.images[index])
        assert moved(device) == {"slice": 1, "to_bytes": 1}
    assert np.array_equal(parts[0].latent, want.latent[:1]) and moved(device) == {"slice": 1, "download": 1}
    assert np.array_equal(parts[3].residual, want.residual[1:]) and moved(device) == {"slice": 1, "download": 1}
    again = parts[3][1]
    assert np.array_equal(again.pixels, want.pixels[2:]) and moved(device) == {"slice": 2, "download": 1}
    edited = there.edit(parts[1], "smile")
    assert moved(device) == {"slice": 3, "download": 2, "upload": 2}, "the residual of the slice never leaves the device"
    np.testing.assert_allclose(edited.pixels, pipeline.edit(want[1], "smile").pixels, rtol=0, atol=2e-5)


def test_pictures_of_a_stream_are_made_on_the_device(on_device: Callable[..., Pipeline], image: np.ndarray) -> None:
    there = on_device()
    device: Any = there.backend
    results = [result.inversion for result in there.invert_many(image[:, None], batch=3)]
    assert [len(one.images) for one in results if one is not None] == [1, 1, 1]
    assert moved(device) == {"upload": 1, "slice": 3, "to_bytes": 3}


def test_where_the_device_cannot_slice_a_tensor_comes_to_the_host_once(on_device: Callable[..., Pipeline], image: np.ndarray) -> None:
    there = on_device(slices=False)
    device: Any = there.backend
    inversion = there.invert(image)
    moved(device)
    parts = list(inversion)
    assert [np.asarray(part.images[0]).shape for part in parts] == [(128, 128, 3)] * 3
    assert moved(device) == {"download": 1}
    assert np.array_equal(np.concatenate([part.pixels for part in parts]), inversion.pixels) and moved(device) == {}


def test_a_held_tensor_moves_only_when_needed_and_once(pipeline: Pipeline) -> None:
    here, there = Device(pipeline.backend), Device(pipeline.backend)
    array = np.arange(3, dtype=np.float32)
    held = Held(device=Box(array), backend=here)
    assert held.on(here).array is array and moved(here) == {}
    assert held.host() is array and held.host() is array and moved(here) == {"download": 1}
    assert held.on(there) is held.on(there) and moved(there) == {"upload": 1} and moved(here) == {}
    part = Held(device=Box(array), backend=here).part(slice(1, 3))
    assert part.on(there).array.tolist() == [1, 2] and moved(here) == {"slice": 1, "download": 1} and moved(there) == {"upload": 1}


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_and_pickles_are_the_same_and_work(
    travel: Callable[[Any], Any], on_device: Callable[..., Pipeline], pipeline: Pipeline, image: np.ndarray
) -> None:
    """From a device that cannot be pickled, and of a slice of what is there."""
    there = on_device()
    for inversion in (there.invert(image), there.invert(image)[1:]):
        other = travel(inversion)
        assert type(other) is Inversion and other.model == inversion.model and other.names == inversion.names
        for name in inversion.tensors:
            np.testing.assert_array_equal(getattr(other, name), getattr(inversion, name))
        np.testing.assert_array_equal(pipeline.edit(other, "smile").pixels, there.edit(inversion, "smile").pixels)
        edited = there.edit(inversion, "smile")
        twin = travel(edited)
        assert type(twin) is Edited and len(twin) == len(edited)
        np.testing.assert_array_equal(twin.pixels, edited.pixels)
        np.testing.assert_array_equal(twin.latent, edited.latent)


def test_they_travel_to_other_processes_and_back(inversion: Inversion, pipeline: Pipeline) -> None:
    results = [inversion[0], pipeline.edit(inversion[0], "smile")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for result, (pixels, model) in zip(results, pool.map(attrgetter("pixels", "model"), results), strict=True):
            np.testing.assert_array_equal(pixels, result.pixels)
            assert model == result.model


def test_a_failing_device_is_not_hidden_by_a_copy(pipeline: Pipeline) -> None:
    class Full(Device):
        def download(self, tensor: Box) -> np.ndarray:
            raise OutOfMemoryError("the host is full")

    with pytest.raises(OutOfMemoryError, match="the host is full"):
        pickle.dumps(Held(device=Box(np.zeros(1)), backend=Full(pipeline.backend)))


def test_a_name_that_is_not_utf_8_is_stored_as_far_as_it_can_be_said(inversion: Inversion, tmp_path: Path) -> None:
    inversion[0].named([os.fsdecode(b"caf\xe9.png")]).save(tmp_path / "a.safetensors")
    assert Inversion.load(tmp_path / "a.safetensors").names == (r"caf\xe9.png",)
