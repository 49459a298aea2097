"""libsdic against Python on the same bundle: the same tensors, the same pictures, the same files."""

from __future__ import annotations

import ctypes
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdic_runtime import CombinedEdit, Direction, GanSpaceEdit, Inversion, Pipeline, __version__
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.bundle.manifest import Input, first_schema
from sdic_runtime.pictures import to_bytes

ROOT = Path(__file__).parents[2]
KEPT = first_schema()["keeps"]
CLOSE = {"rtol": 0, "atol": 2e-5}
DIRECTIONS, MOVES, PROGRAMS, TENSORS, LETTERS = range(5)


def draw(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, height, width, channels]).integers(0, 256, (height, width, channels), np.uint8)


def assert_same_pictures(native: Any, python: Any) -> None:
    """Largest difference 1 in 8 bits, and close before the rounding."""
    expected = np.stack([np.asarray(image) for image in python.images])
    got = native.pictures()
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(native.tensor("pixels"), python.pixels, **CLOSE)


def prepared(native: Any, *pictures: np.ndarray) -> np.ndarray:
    """The network's 8-bit input, which the tiny model gives away: discrepancy = (image - reconstruction) / 2."""
    inversion = native.invert(*pictures)
    return to_bytes(2 * inversion.tensor("discrepancy") + inversion.tensor("reconstruction"))


def pillow(picture: np.ndarray, kind: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """Horizontally first: the order of all Pillow releases before 13, and of Python's `fit`."""
    return np.asarray(Image.fromarray(picture).resize((64, len(picture)), kind).resize((64, 64), kind))


def test_version_and_info(library: Any, native: Any, python: Pipeline) -> None:
    assert library.raw.sdic_version().decode() == __version__
    info = native.info()
    assert (info.name, info.domain, info.licence) == (b"tiny", b"test", b"none")
    assert info.description.decode() == python.backend.description
    assert (info.method, info.identity) == (b"sdic", python.model.identity.encode())
    assert (info.resolution, info.working, info.picture_width, info.picture_height) == (128, 64, 128, 128)
    manifest = python.bundle.manifest
    assert {letter: native.size(letter) for letter in native.names(LETTERS)} == manifest.sizes
    assert native.names(DIRECTIONS) == list(python.directions) and native.names(TENSORS) == list(manifest.keeps)
    assert native.names(MOVES) == list(manifest.moves) and native.names(PROGRAMS) == list(manifest.programs)
    assert native.names(LETTERS + 1) == native.names(-1) == []


def test_what_is_known_of_directions(native: Any) -> None:
    smile, age, basis = (native.direction(name) for name in ("smile", "age", "basis"))
    assert (smile.kind, smile.component_count, smile.has_range, smile.minimum, smile.maximum) == (0, 0, 1, -3, 3)
    assert (age.kind, age.has_range) == (0, 0)
    assert (basis.kind, basis.component_count, basis.has_range) == (1, 6, 0)


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


THIRDS = ((0, 40), (40, 96), (96, 128))


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


def test_bands_in_several_threads(library: Any, make_bundle: Callable[..., Path], tiny: Any, native: Any) -> None:
    folder, pictures = make_bundle(), [draw(64, 64, seed=seed) for seed in range(4)]
    for stage, rows in (("generator_tail", THIRDS), ("dipn", ((0, 16), (16, 64)))):
        tiny.add_bands(folder, stage, rows)
    banded = library.open(folder, threads=2)
    expected = [native.invert(picture).tensor("pixels") for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: banded.invert(pictures[index % 4]).tensor("pixels"), range(16)))
    for index, pixels in enumerate(found):
        np.testing.assert_allclose(pixels, expected[index % 4], rtol=0, atol=1e-5)


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


SIZES = [(1, 1), (1, 300), (257, 2), (64, 64), (64, 500), (63, 65), (128, 128), (731, 64), (1000, 1413), (17, 5)]


@pytest.mark.parametrize("height, width", SIZES)
def test_any_size_is_resized_to_the_pixels_of_pillow(native: Any, python: Pipeline, height: int, width: int) -> None:
    checkered = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    for picture in (draw(height, width, seed=1), np.full((height, width, 3), 255, np.uint8), checkered):
        got = prepared(native, picture)[0]
        np.testing.assert_array_equal(got, pillow(picture))
        np.testing.assert_array_equal(got, to_bytes(python.prepare(picture))[0])


def test_many_random_sizes_are_resized_to_the_pixels_of_pillow(native: Any) -> None:
    random = np.random.default_rng(11)
    pictures = [draw(*random.integers(1, 400, 2), seed=2) for _ in range(60)]
    np.testing.assert_array_equal(prepared(native, *pictures), np.stack([pillow(picture) for picture in pictures]))


def test_gray_and_transparent_pictures_are_taken_as_python_takes_them(native: Any, python: Pipeline) -> None:
    every_pair = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(16, 64, 64, 2).astype(np.uint8)
    transparent = [np.concatenate([pair[..., :1], 255 - pair[..., :1], pair[..., :1] // 2, pair[..., 1:]], -1) for pair in every_pair]
    gray = draw(50, 70, 1)[..., 0]
    for picture in (*transparent, draw(90, 31, 4), gray):
        np.testing.assert_array_equal(prepared(native, picture)[0], to_bytes(python.prepare(picture))[0])


def test_rows_may_lie_apart(native: Any) -> None:
    wide = draw(80, 100)
    np.testing.assert_array_equal(prepared(native, wide[:, :60]), prepared(native, np.ascontiguousarray(wide[:, :60])))


def test_hidden_rows_are_letterboxed_and_cut_off(library: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle("letterbox", visible_rows=(16, 112))
    native, python = library.open(folder), Pipeline.load(folder, backend="onnxruntime", threads=1)
    picture = draw(300, 400)
    assert (native.info().picture_width, native.info().picture_height) == (128, 96)
    np.testing.assert_array_equal(prepared(native, picture), to_bytes(python.prepare(picture)))
    inversion = native.invert(picture)
    assert inversion.pictures().shape == (1, 96, 128, 3)
    assert_same_pictures(inversion, python.invert(picture))


def test_prepared_tensors_and_batches_give_the_same(native: Any, python: Pipeline) -> None:
    pictures = [draw(70, 90, seed=seed) for seed in range(5)]
    image = np.concatenate([python.prepare(picture) for picture in pictures])
    whole = native.invert(*pictures)
    for other in (native.invert(*pictures, batch=2), native.invert_tensor(image), native.invert_tensor(image, batch=1)):
        for name in KEPT:
            np.testing.assert_allclose(other.tensor(name), whole.tensor(name), **CLOSE, err_msg=name)


def ganspace(native: Any, kind: int, **fields: Any) -> Any:
    return native.part("basis", kind=kind, **{"component": 2, "first_row": 3, "end_row": 7, "sigma": 1.5, **fields})


@pytest.mark.parametrize("resampling", ["bicubic", "lanczos"])
def test_other_filters_give_the_pixels_of_pillow(library: Any, make_bundle: Callable[..., Path], resampling: str) -> None:
    native = library.open(make_bundle("other", input=Input((0, 128), resampling)))
    for height, width in SIZES:
        picture = draw(height, width, seed=3)
        np.testing.assert_array_equal(prepared(native, picture)[0], pillow(picture, Image.Resampling[resampling.upper()]))


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


def test_strength_zero_is_the_inversion_and_one_is_the_default(native: Any, python: Pipeline) -> None:
    picture = draw(50, 50)
    inversion = native.invert(picture)
    np.testing.assert_allclose(native.edit(inversion, "smile", [0]).tensor("pixels"), inversion.tensor("pixels"), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        native.edit(inversion, "smile").tensor("picture"), native.edit(inversion, "smile", [1], "paper").tensor("picture")
    )
    assert_same_pictures(native.edit(inversion, "smile"), python.edit(python.invert(picture), "smile"))


def test_edited_pictures_have_the_names_of_those_they_came_from(native: Any) -> None:
    inversion = native.invert(draw(5, 5), draw(6, 6), names=["a", "b"])
    edited = native.edit(inversion, "smile", [0, 1])
    assert [edited.name(index) for index in range(5)] == ["a", "a", "b", "b", None]
    assert [native.baseline(inversion).name(index) for index in range(2)] == ["a", "b"]


def test_the_default_batch_is_that_of_python(library: Any, tiny_bundle: Path, native: Any, python: Pipeline) -> None:
    steps: list[str] = []
    kind = dict(type(native.params)._fields_)["progress"]
    pipeline = library.open(tiny_bundle, progress=kind(lambda stage, *_: steps.append(stage.decode()) or 0))
    steps.clear()
    pipeline.invert(*[draw(4, 4)] * (python.default_batch + 1))
    assert steps.count("dicn") == 2
    steps.clear()
    pipeline.invert(*[draw(4, 4)] * python.default_batch)
    assert steps.count("dicn") == 1


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


def test_names_that_are_not_utf_8_do_not_stop_saving(native: Any, library: Any, tmp_path: Path) -> None:
    picture, handle = draw(5, 5), ctypes.c_void_p()
    image = type(native).image(picture, b"caf\xe9.png")
    native.library.call("sdic_invert", native.handle, ctypes.byref(image), ctypes.c_size_t(1), ctypes.c_size_t(0), ctypes.byref(handle))
    native.result(handle).save(tmp_path / "saved")
    assert library.load(tmp_path / "saved").name(0).startswith("caf")


def test_progress_is_told_before_every_stage_and_may_stop(library: Any, tiny_bundle: Path, native: Any, refusal: Any) -> None:
    from_python: list[tuple[str, int, int]] = []
    stop_at = [10**9]

    def progress(stage: bytes, done: int, total: int, _: Any) -> int:
        from_python.append((stage.decode(), done, total))
        return int(len(from_python) > stop_at[0])

    kind = dict(type(native.params)._fields_)["progress"]
    pipeline = library.open(tiny_bundle, progress=kind(progress))
    stages = list(first_schema()["stages"])
    assert [stage for stage, _, _ in from_python] == stages
    assert [(done, total) for _, done, total in from_python] == [(done, 6) for done in range(6)]
    from_python.clear()
    inversion = pipeline.invert(draw(9, 9), draw(9, 9), batch=1)
    assert [(done, total) for _, done, total in from_python] == [(done, 14) for done in range(14)]
    assert [stage for stage, _, _ in from_python[:7]] == [*stages[:5], "generator_head", "generator_tail"]
    from_python.clear()
    stop_at[0] = 2
    status, sentence = refusal(lambda: pipeline.edit(inversion, "smile"))
    assert status == 8 and "3 of 3 (generator_tail)" in sentence


def test_the_log_tells_what_was_loaded(library: Any, tiny_bundle: Path, native: Any) -> None:
    lines: list[tuple[int, str]] = []
    kind = dict(type(native.params)._fields_)["log"]
    library.open(tiny_bundle, log=kind(lambda level, message, _: lines.append((level, message.decode()))))
    assert (1, f'loading "dicn" from {tiny_bundle}/onnx/fp32/dicn.onnx') in lines
    assert all(level == 1 for level, _ in lines), lines


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


def test_several_threads_may_use_one_pipeline(native: Any) -> None:
    pictures = [draw(60, 80, seed=seed) for seed in range(4)]
    expected = [native.invert(picture).pictures() for picture in pictures]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            inversion = native.invert(pictures[index])
            if not (np.array_equal(inversion.pictures(), expected[index]) and len(native.edit(inversion, "smile", [1, 2])) == 2):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_last_error_belongs_to_its_thread(library: Any, refusal: Any) -> None:
    refusal(lambda: library.open("/nowhere"))
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(library.last_error()))
    thread.start()
    thread.join()
    assert seen == [""] and library.last_error().startswith("there is no bundle at /nowhere")


def test_nothing_is_freed_twice_and_null_is_no_handle(library: Any) -> None:
    for name in ("sdic_close", "sdic_result_free"):
        getattr(library.raw, name)(None)
    assert library.raw.sdic_result_count(None) == 0
    assert library.raw.sdic_result_name(None, ctypes.c_size_t(0)) is library.raw.sdic_pipeline_name(None, 0, ctypes.c_size_t(0)) is None


def test_an_older_program_with_a_shorter_structure_is_served(library: Any, tiny_bundle: Path, native: Any) -> None:
    params = type(native.params)()
    library.raw.sdic_open_params_default(ctypes.byref(params))
    params.struct_size = type(native.params).onnxruntime_library.offset
    params.onnxruntime_library = b"/beyond/the/end/of/the/older/structure"
    handle = ctypes.c_void_p()
    library.call("sdic_open", str(tiny_bundle).encode(), ctypes.byref(params), ctypes.byref(handle))
    library.raw.sdic_close(handle)
