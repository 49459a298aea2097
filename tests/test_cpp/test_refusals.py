"""What cannot be used is refused by libsdic with a status and a sentence about the subject; what Python refuses, C++ refuses too."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_refusals import ARGUMENT, FILE, PICTURE, PROVIDER, RUN, black, change_manifest, delete, set_key
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sdic_runtime import Direction, GanSpaceEdit, Inversion, Pipeline
from sdic_runtime.bundle.manifest import Input
from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Pca
from sdic_runtime.errors import SdicError
from sdic_runtime.pictures import to_bytes


def test_options_of_opening(library: Any, refused: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    def opened(status: int, *subjects: str, **options: Any) -> None:
        refused(status, lambda: library.open(tiny_bundle, **options), *subjects)

    opened(ARGUMENT, "fp16", "fp32", precision="fp16")
    opened(ARGUMENT, "tpu", "tensorrt-rtx", provider="tpu")
    opened(ARGUMENT, "threads is -1", threads=-1)
    opened(ARGUMENT, "device is -1", device=-1)
    opened(ARGUMENT, "sdic_open_params_default", struct_size=0)
    opened(PROVIDER, "SDIC_ONNXRUNTIME_LIBRARY", onnxruntime_library=str(tmp_path / "libonnxruntime.so"))
    opened(PROVIDER, "libm.so.6", "OrtGetApiBase", onnxruntime_library="libm.so.6")


@pytest.mark.parametrize(
    "provider, name",
    [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider"), ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider")],
)
def test_a_provider_that_is_not_there_is_not_replaced(library: Any, refused: Any, tiny_bundle: Path, provider: str, name: str) -> None:
    import onnxruntime

    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    refused(PROVIDER, lambda: library.open(tiny_bundle, provider=provider), f'"{provider}"', onnxruntime.__version__, name)


def test_pictures(native: Any, refused: Any, python: Pipeline) -> None:
    for shape in ((0, 5, 3), (5, 0, 3), (5, 5, 2)):
        picture = black(*shape)
        refused(PICTURE, lambda picture=picture: native.invert(picture), list(shape), python=lambda picture=picture: python.invert(picture))
    vast = np.lib.stride_tricks.as_strided(black(1), (30_000, 30_000, 3), (0, 0, 0))
    refused(PICTURE, lambda: native.invert(vast), 900_000_000, python=lambda: python.invert(vast))
    refused(ARGUMENT, native.invert, "empty", python=lambda: python.invert([]))
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    for value in (1.5, -3, np.inf, np.nan):
        tensor[0, 1, 2, 3] = value
        refused(PICTURE, lambda: native.invert_tensor(tensor), "[-1, 1]", python=lambda: python.invert(tensor))
    narrow = np.lib.stride_tricks.as_strided(black(100), (5, 5, 3), (4, 3, 1))
    refused(ARGUMENT, lambda: native.invert(narrow), "stride is 4", 15)


def test_edits(native: Any, refused: Any, python: Pipeline) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))

    def check(parts: Any, *subjects: object, python: Callable[[], Any] | None = None, **options: Any) -> None:
        refused(ARGUMENT, lambda: native.edit(ours, parts, **options), *subjects, python=python)

    for name in ("smiles", "SMILE", ""):
        check(name, f'"{name}"', "age, basis, smile", python=lambda name=name: python.edit(theirs, name))
        refused(ARGUMENT, lambda name=name: native.direction(name), f'"{name}"')
    for strength in (float("nan"), float("inf"), float("-inf")):
        check("smile", strength, strengths=[0, strength], python=lambda strength=strength: python.edit(theirs, "smile", [0, strength]))
        check(native.part("smile", weight=strength), strength)
    check("smile", "strengths", strengths=[], python=lambda: python.edit(theirs, "smile", []))
    check([], "empty")
    for shape in ((1, 7), (2, 8), (12, 9), (13, 8)):
        vector = np.zeros(shape, np.float32)
        check(vector, list(shape), python=lambda vector=vector: python.edit(theirs, vector))
    check(np.full((1, 8), np.nan, np.float32), "NaN")
    check("basis", "SDIC_EDIT_GANSPACE_SET")
    basis = python.directions["basis"]
    for *fields, subject in (
        (6, 0, 1, 1.0, 6),
        (-1, 0, 1, 1.0, -1),
        (0, 3, 3, 1.0, "3 to 3"),
        (0, 0, 13, 1.0, 13),
        (0, 0, 1, float("nan"), "sigma"),
    ):
        part = native.part("basis", kind=1, **dict(zip(("component", "first_row", "end_row", "sigma"), fields, strict=True)))
        check(part, subject, python=lambda fields=fields: python.edit(theirs, GanSpaceEdit(basis, *fields)))
    check(native.part("smile", kind=2), "basis")
    check(native.part("smile", kind=9), 9)
    check(native.part(), "neither")
    check(native.part("smile", vector=np.zeros(8, np.float32).ctypes.data, rows=1, width=8), "both")
    check("smile", '"other"', "paper, released", move="other", python=lambda: python.edit(theirs, "smile", move="other"))
    refused(ARGUMENT, lambda: native.size("X"), '"X"', "R, S, L, C, K")


def test_moves_that_are_not_meant_for_an_edit(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("moves", "paper", "kinds", ["direction"]))
    change_manifest(folder, set_key("moves", "released", "kinds", ["ganspace"]))
    change_manifest(folder, delete("programs", "baseline"))
    native = library.open(folder)
    inversion, component = native.invert(black(4, 4, 3)), native.part("basis", kind=1, end_row=3, sigma=1)
    assert not np.array_equal(native.edit(inversion, component).tensor("picture"), inversion.tensor("picture"))
    refused(ARGUMENT, lambda: native.edit(inversion, component, move="paper"), "paper", "released")
    refused(ARGUMENT, lambda: native.edit(inversion, [component, native.part("smile")]), "direction", "ganspace")
    refused(ARGUMENT, lambda: native.baseline(inversion), "baseline")


def test_edited_pictures_are_no_inversion(native: Any, refused: Any, tmp_path: Path) -> None:
    edited = native.edit(native.invert(black(4, 4, 3)), "smile")
    refused(ARGUMENT, lambda: native.edit(edited, "smile"), "residual")
    refused(ARGUMENT, lambda: edited.save(tmp_path / "edited"), "feature")
    assert list(tmp_path.iterdir()) == []


def test_an_inversion_of_another_model(library: Any, native: Any, refused: Any, python: Pipeline, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle("other", input=Input((16, 112)))
    ours, theirs = library.open(folder).invert(black(4, 4, 3)), Pipeline.load(folder, "onnxruntime").invert(black(4, 4, 3))
    model = theirs.model.identity[:12]
    refused(ARGUMENT, lambda: native.edit(ours, "smile"), model, python=lambda: python.edit(theirs, "smile"))
    refused(ARGUMENT, lambda: native.baseline(ours), model, python=lambda: python.baseline(theirs))


def write_directions(folder: Path) -> dict[str, str]:
    """Direction files of a bundle that must not be used."""
    save_direction(folder / "wide.safetensors", Direction(np.zeros((1, 9), np.float32), "wide"))
    save_direction(folder / "below.safetensors", Direction(np.zeros((1, 8), np.float32), "below", rows=(5, 13)))
    save_direction(folder / "basis9.safetensors", Pca(np.zeros((1, 9)), np.zeros((2, 1, 9)), np.ones(2), "basis9"))

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    save_file({"direction": zeros(1, 8) + np.float32(np.inf)}, folder / "infinite.safetensors")
    save_file({"direction": zeros(1, 2, 8, 1)}, folder / "shape.safetensors", {"name": "other name"})
    save_file({"direction": zeros(8)}, folder / "rows.safetensors", {"rows": "[1"})
    save_file({"direction": zeros(8)}, folder / "range.safetensors", {"strength_range": "[1, 2, 3]"})
    save_file({"vector": zeros(8), "a": zeros(1)}, folder / "names.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 7), "std": zeros(2) + 1}, folder / "comp.safetensors")
    save_file({"mean": zeros(8), "comp": zeros(2, 1, 8), "std": zeros(2)}, folder / "flat.safetensors")
    (folder / "text.safetensors").write_text("a text, and no tensors at all")
    return {path.stem: f"directions/{path.name}" for path in folder.iterdir()}


def test_direction_files(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    names = write_directions(folder / "directions")
    tiny.change_manifest(folder, list(names.values()), directions=names)
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    for name in ("wide", "below"):
        refused(ARGUMENT, lambda name=name: native.edit(ours, name), name, python=lambda name=name: python.edit(theirs, name))
    for name in ("infinite", "shape", "rows", "range", "names", "comp", "flat", "text"):
        path = folder / f"directions/{name}.safetensors"
        refused(FILE, lambda name=name: native.edit(ours, name), path, python=lambda name=name: python.edit(theirs, name))
    wide = GanSpaceEdit(python.directions["basis9"], 0, 0, 1, 0.0)
    refused(ARGUMENT, lambda: native.edit(ours, native.part("basis9", kind=1, end_row=1)), 9, python=lambda: python.edit(theirs, wide))


def test_files_of_inversions(library: Any, native: Any, refused: Any, python: Pipeline, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    python.invert(black(9, 9, 3)).save(good)
    tensors = load_file(good)
    with safe_open(good, "numpy") as stream:
        metadata = stream.metadata()
    axes, sizes = json.loads(metadata["tensors"]), json.loads(metadata["sizes"])

    def written(name: str, change: dict[str, Any] | None = None, **fields: str | None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        held = {key: value for key, value in {**tensors, **(change or {})}.items() if value is not None}
        save_file(held, path, {key: value for key, value in {**metadata, **fields}.items() if value is not None})
        return path

    content = good.read_bytes()
    for name, bad in {
        "empty": b"",
        "short": content[:5000],
        "long": content + b"x",
        "words": b"a text" * 50,
        "length": b"\xff" * 8 + content[8:],
        "offsets": content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'),
    }.items():
        (tmp_path / name).write_bytes(bad)
    cases: dict[Path, str] = {
        **{tmp_path / name: "damaged" for name in ("empty", "short", "long", "words", "length", "offsets")},
        tmp_path / "nowhere": "there is no inversion",
        tmp_path: "cannot read",
        good / "below": "there is no inversion",
        written("none", format=None): "not a saved inversion",
        written("version", version="3"): "version 3",
        written("no version", version=None): "version",
        written("shape", {"residual": tensors["residual"][:, :1]}): "residual",
        written("gone", {"picture": None}): "picture",
        written("half", {"latent": tensors["latent"].astype(np.float16)}): "latent",
        written("nan", {"feature": tensors["feature"] * np.nan}): "feature",
        written("two names", names='["", ""]'): "latent",
        written("no model", model=None): "model",
        written("no sizes", sizes='{"R": 1}'): "sizes",
        written("vast", sizes=json.dumps({**sizes, "L": 2**62})): "sizes",
        written("lists", sizes="[[]]"): "sizes",
        written("json", names="["): "names",
        written("objects", names="{}"): "names",
        written("rows", visible_rows="[0, 9999]"): "visible_rows",
        written("no tensors", tensors=None): "tensors",
        written("no picture", tensors=json.dumps({**axes, "picture": ["N", 3, "S", "S"]})): "picture",
        written("letter", tensors=json.dumps({**axes, "latent": ["N", "X"]})): "latent",
    }
    for path, subject in cases.items():
        refused(FILE, lambda path=path: library.load(path), path, subject, python=lambda path=path: Inversion.load(path))
    # Of the same model, but with codes of another size: nothing is read beyond their end.
    short = library.load(written("codes", {"latent": tensors["latent"][:, 0, :1]}, tensors=json.dumps({**axes, "latent": ["N", 1]})))
    refused(ARGUMENT, lambda: native.edit(short, "smile"), "latent")
    refused(ARGUMENT, lambda: native.baseline(short), "latent")


def test_places_that_cannot_be_written(native: Any, refused: Any, python: Pipeline, tmp_path: Path) -> None:
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    (tmp_path / "file").write_text("kept")
    places = [tmp_path, tmp_path / "nowhere/x", tmp_path / "file/x", tmp_path / ("n" * 300)]
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked/x")
    for path in places:
        refused(FILE, lambda path=path: ours.save(path), str(path)[:200], python=lambda path=path: theirs.save(path))
    assert [path for path in tmp_path.iterdir() if path.name != "locked"] == [tmp_path / "file"]


def test_pictures_that_are_not_finite(native: Any, refused: Any, python: Pipeline) -> None:
    vector = np.full((1, 8), 3e38, np.float32)
    ours = native.edit(native.invert(black(4, 4, 3)), vector, [10.0])
    refused(RUN, ours.pictures, "NaN")
    with np.errstate(over="ignore"):
        theirs = python.edit(python.invert(black(4, 4, 3)), vector, 10.0)
    with pytest.raises(SdicError):
        to_bytes(theirs.pixels)


def test_wrong_arguments_of_the_c_functions(library: Any, native: Any, refused: Any) -> None:
    inversion = native.invert(black(4, 4, 3))
    room = np.empty(128 * 128 * 3, np.uint8)

    def picture(index: int, size: int, place: Any) -> None:
        library.call("sdic_result_picture", inversion.handle, ctypes.c_size_t(index), place, ctypes.c_size_t(size))

    place = room.ctypes.data_as(ctypes.c_void_p)
    refused(ARGUMENT, lambda: picture(1, room.nbytes, place), "picture 1")
    refused(ARGUMENT, lambda: picture(0, room.nbytes - 1, place), 49151, 49152)
    refused(ARGUMENT, lambda: picture(0, room.nbytes, None), "NULL")
    refused(ARGUMENT, lambda: inversion.tensor("rgb"), '"rgb"', "latent_enhanced", "picture")
    np.testing.assert_array_equal(inversion.tensor("pixels"), inversion.tensor("picture"))
    arguments = {
        "sdic_open": 3,
        "sdic_pipeline_info": 2,
        "sdic_pipeline_size": 3,
        "sdic_pipeline_direction": 3,
        "sdic_invert": 5,
        "sdic_invert_tensor": 5,
        "sdic_edit": 4,
        "sdic_baseline": 4,
        "sdic_inversion_save": 2,
        "sdic_inversion_load": 2,
        "sdic_result_size": 3,
        "sdic_result_picture": 4,
        "sdic_result_tensor": 3,
    }
    for function, count in arguments.items():
        refused(ARGUMENT, lambda function=function, count=count: library.call(function, *[None] * count), "NULL")
