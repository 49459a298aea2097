"""libsdic against Python on the same bundle: the same tensors, the same pictures, the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_pictures import CLOSE, KEPT, TENSORS, THIRDS, assert_same_pictures, draw
from safetensors.numpy import save_file

from sdic_runtime import CombinedEdit, Direction, GanSpaceEdit, Inversion, Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.bundle.manifest import first_schema

ROOT = Path(__file__).parents[2]


def test_a_bundle_of_schema_1_gives_the_same_bits(library: Any, tmp_path: Path) -> None:
    data = ROOT / "tests/data/schema1/bundle.json"
    shutil.copytree(DEMO_FOLDER, tmp_path / "first")
    shutil.copy(data, tmp_path / "first")
    assert json.loads(data.read_text())["schema"] == 1
    first, second = library.open(tmp_path / "first"), library.open(DEMO_FOLDER)
    assert first.info().identity == second.info().identity
    one, two = (pipeline.invert(draw(90, 80)) for pipeline in (first, second))
    for name in second.names(TENSORS):
        np.testing.assert_array_equal(one.tensor(name), two.tensor(name))
    for name, move in (("smile", "paper"), ("age", "released")):
        ours, theirs = first.edit(two, name, [-1, 2], move), second.edit(one, name, [-1, 2], move)
        np.testing.assert_array_equal(ours.tensor("picture"), theirs.tensor("picture"))


def test_cpu_optimized_graphs_are_what_runs(library: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder, picture = make_bundle(), draw(64, 64)
    own = library.open(folder)
    for stage, factors in (("dipn", {"half": 3}), ("generator_head", {"fm": 2})):
        tiny.add_cpu_graph(folder, stage, **factors)
        (folder / f"onnx/fp32/{stage}.onnx").write_bytes(b"not loaded")
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    description = native.info().description.decode()
    assert description == python.backend.description and description.endswith(", fp32, CPU-optimized graphs of dipn, generator_head")
    ours, theirs, before = native.invert(picture), python.invert(picture), own.invert(picture)
    np.testing.assert_array_equal(ours.tensor("feature"), 2 * before.tensor("feature"))
    for name in ("feature", "discrepancy", "pixels"):
        np.testing.assert_allclose(ours.tensor(name), getattr(theirs, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("whole", [1, 2])
def test_a_cpu_optimized_graph_of_one_output_is_what_runs(library: Any, make_bundle: Callable[..., Path], tiny: Any, whole: int) -> None:
    """`whole` 2: beside a CPU-optimized graph of the whole stage."""
    folder, picture = make_bundle(), draw(64, 64)
    own = library.open(folder)
    if whole == 2:
        tiny.add_cpu_graph(folder, "generator_head", fm=2, rm=2)
    tiny.add_cpu_graph(folder, "generator_head:rgb", rm=4)
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    description = native.info().description.decode()
    assert description == python.backend.description and description.endswith("generator_head:rgb")
    ours, theirs, before = native.invert(picture), python.invert(picture), own.invert(picture)
    np.testing.assert_array_equal(ours.tensor("feature"), whole * before.tensor("feature"))
    for name in ("feature", "reconstruction", "pixels"):
        np.testing.assert_allclose(ours.tensor(name), getattr(theirs, name), rtol=0, atol=1e-5)
    pixels = ours.tensor("pixels")
    assert np.abs(pixels - before.tensor("pixels")).max() > 0.01  # the tail reads the rgb of that graph


def test_bands_of_a_graph_of_one_output(library: Any, make_bundle: Callable[..., Path], tiny: Any, native: Any) -> None:
    folder, pictures = make_bundle(), [draw(64, 64, seed=seed) for seed in range(2)]
    tiny.add_bands(folder, "generator_head:rgb", ((0, 20), (20, 32)))
    banded, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=2)
    assert banded.info().description.decode() == python.backend.description
    ours, theirs, before = banded.invert(*pictures), python.invert(pictures), native.invert(*pictures)
    np.testing.assert_allclose(ours.tensor("pixels"), theirs.pixels, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.tensor("pixels"), before.tensor("pixels"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_bands_make_up_the_stage(library: Any, make_bundle: Callable[..., Path], tiny: Any, native: Any, threads: int) -> None:
    folder, pictures = make_bundle(), [draw(64, 64, seed=seed) for seed in range(3)]
    tiny.add_bands(folder, "generator_tail", THIRDS)
    (folder / "onnx/fp32/generator_tail.onnx").write_bytes(b"not loaded")
    banded, python = library.open(folder, threads=threads), Pipeline.load(folder, "onnxruntime", threads=threads or None)
    assert banded.info().description.decode() == python.backend.description and python.backend.description.endswith("generator_tail")
    for count in (1, 3):
        ours, theirs, before = banded.invert(*pictures[:count]), python.invert(pictures[:count]), native.invert(*pictures[:count])
        assert ours.tensor("pixels").shape == (count, 3, 128, 128)
        np.testing.assert_allclose(ours.tensor("pixels"), theirs.pixels, rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours.tensor("pixels"), before.tensor("pixels"), rtol=0, atol=1e-5)


def test_another_precision_ignores_cpu_optimized_graphs(library: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder, picture = make_bundle(), draw(64, 64)
    tiny.add_cpu_graph(folder, "dipn", half=3).unlink()
    data = json.loads((folder / "bundle.json").read_text())
    for variants in data["graphs"].values():
        variants["fp16"] = variants["fp32"]
    (folder / "bundle.json").write_text(json.dumps(data))
    half, python = library.open(folder, precision="fp16"), Pipeline.load(folder, "onnxruntime", precision="fp16", threads=1)
    assert half.info().description.decode() == python.backend.description
    np.testing.assert_allclose(half.invert(picture).tensor("discrepancy"), python.invert(picture).discrepancy, rtol=0, atol=1e-5)


def test_an_inversion_has_the_tensors_and_pictures_of_python(native: Any, python: Pipeline) -> None:
    pictures = [draw(70, 90), draw(200, 33), draw(64, 64)]
    expected, got = python.invert(pictures), native.invert(*pictures)
    assert len(got) == 3
    for name in KEPT:
        np.testing.assert_allclose(got.tensor(name), getattr(expected, name), **CLOSE, err_msg=name)
    assert_same_pictures(got, expected)


def ganspace(native: Any, kind: int, **fields: Any) -> Any:
    return native.part("basis", kind=kind, **{"component": 2, "first_row": 3, "end_row": 7, "sigma": 1.5, **fields})


@pytest.mark.parametrize("move", ["paper", "released"])
def test_edits_equal_those_of_python(native: Any, python: Pipeline, move: str) -> None:
    pictures = [draw(70, 90), draw(30, 40)]
    theirs, ours = python.invert(pictures), native.invert(*pictures)
    vector = np.random.default_rng(4).standard_normal((12, 8)).astype(np.float32)
    basis = python.directions["basis"]
    both = CombinedEdit([("smile", 0.5), (Direction(vector), -1.5), (GanSpaceEdit(basis, 2, 3, 7, 1.5, "add"), 2.0)])
    parts = [native.part("smile", weight=0.5), native.part(vector, weight=-1.5), ganspace(native, 2, weight=2.0)]
    added = ganspace(native, 2, component=0, first_row=0, end_row=12, sigma=-2)
    cases: list[tuple[Any, Any]] = [
        ("smile", "smile"),
        ("age", "age"),
        (vector, vector),
        (vector[:1], vector[:1]),
        (both, parts),
        (GanSpaceEdit(basis, 2, 3, 7, 1.5), ganspace(native, 1)),
        (GanSpaceEdit(basis, 0, 0, 12, -2, "add"), added),
    ]
    for edit, native_edit in cases:
        expected = python.edit(theirs, edit, [-2, 0, 1.25], move=move)
        got = native.edit(ours, native_edit, [-2, 0, 1.25], move)
        np.testing.assert_allclose(got.tensor("latent_enhanced"), expected.latent, **CLOSE)
        assert_same_pictures(got, expected)
        assert_same_pictures(native.edit(ours, native_edit, [-2, 0, 1.25], move, batch=4), expected)


def test_edited_pictures_have_the_names_of_those_they_came_from(native: Any) -> None:
    inversion = native.invert(draw(5, 5), draw(6, 6), names=["a", "b"])
    edited = native.edit(inversion, "smile", [0, 1])
    assert [edited.name(index) for index in range(5)] == ["a", "a", "b", "b", None]
    assert [native.baseline(inversion).name(index) for index in range(2)] == ["a", "b"]


def test_the_baseline_equals_that_of_python(native: Any, python: Pipeline) -> None:
    pictures = [draw(70, 90), draw(30, 40), draw(5, 5)]
    expected = python.baseline(python.invert(pictures))
    for batch in (0, 2):
        assert_same_pictures(native.baseline(native.invert(*pictures), batch), expected)


def test_inversions_travel_both_ways(native: Any, library: Any, python: Pipeline, tmp_path: Path) -> None:
    pictures = [draw(70, 90), draw(30, 40)]
    names = ['a "quoted" näme.png', ""]
    ours, theirs = native.invert(*pictures, names=names), python.invert(pictures)
    ours.save(tmp_path / "native.safetensors")
    theirs.save(tmp_path / "python.safetensors")
    read = Inversion.load(tmp_path / "native.safetensors")
    assert read.names == tuple(names) and read.model == theirs.model
    for name in KEPT:
        np.testing.assert_array_equal(getattr(read, name), ours.tensor(name))
    assert_same_pictures(ours, read)
    assert_same_pictures(native.edit(ours, "age", [2]), python.edit(read, "age", 2))
    back = library.load(tmp_path / "python.safetensors")
    assert [back.name(index) for index in range(3)] == ["", "", None]
    for name in KEPT:
        np.testing.assert_array_equal(back.tensor(name), getattr(theirs, name))
    assert_same_pictures(native.edit(back, "age", [2]), python.edit(theirs, "age", 2))
    back.save(tmp_path / "python.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native.safetensors", "python.safetensors"]


def test_inversion_files_of_version_1_are_read(native: Any, library: Any, python: Pipeline, tmp_path: Path) -> None:
    inversion = native.invert(draw(70, 90), draw(30, 40), names=["a.png", ""])
    first, model = first_schema(), python.model
    long_names = {letter: name for name, letter in first["sizes"].items()}
    stored = {("pixels" if name == "picture" else name): inversion.tensor(name) for name in KEPT}
    described = {
        "sizes": {long_names[letter]: size for letter, size in model.sizes.items()},
        "visible_rows": [0, 128],
        "names": ["a.png", ""],
    }
    metadata = {"format": "sdic-inversion", "version": "1", "model": model.identity, "bundle": "tiny"}
    save_file(stored, tmp_path / "first", metadata | {name: json.dumps(value) for name, value in described.items()})
    back = library.load(tmp_path / "first")
    for name in KEPT:
        np.testing.assert_array_equal(back.tensor(name), inversion.tensor(name))
    assert [back.name(index) for index in range(2)] == ["a.png", ""]
    np.testing.assert_array_equal(native.edit(back, "age").tensor("picture"), native.edit(inversion, "age").tensor("picture"))
    back.save(tmp_path / "second")
    inversion.save(tmp_path / "same")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "same").read_bytes()
    np.testing.assert_array_equal(Inversion.load(tmp_path / "second").pixels, back.tensor("picture"))


def test_stages_with_weights_in_files_of_their_own(library: Any, make_bundle: Callable[..., Path], tiny: Any, refusal: Any) -> None:
    import onnx

    folder = make_bundle()
    weights = {}
    for stage in first_schema()["stages"]:
        graph = f"onnx/fp32/{stage}.onnx"
        onnx.save(onnx.load(folder / graph), folder / graph, save_as_external_data=True, location=f"{stage}.bin", size_threshold=64)
        weights |= {graph: (f"onnx/fp32/{stage}.bin",)} if (folder / f"onnx/fp32/{stage}.bin").exists() else {}
    graphs = [f"onnx/fp32/{stage}.onnx" for stage in first_schema()["stages"]]
    tiny.change_manifest(folder, [*graphs, *(name for names in weights.values() for name in names)], weights=weights)
    picture = draw(40, 40)
    python = Pipeline.load(folder, backend="onnxruntime", threads=1)
    native = library.open(folder)
    assert native.info().identity.decode() == python.model.identity
    assert_same_pictures(native.invert(picture), python.invert(picture))
    weight = folder / "onnx/fp32/generator_head.bin"
    weight.write_bytes(weight.read_bytes()[:-1])
    assert refusal(lambda: library.open(folder))[0] == 2
