from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_pictures import photo
from PIL import Image

import sdic_runtime
from sdic_runtime import ArgumentError, BackendError, Bundle, BundleError, CombinedEdit, GanSpaceEdit, Inversion, Pipeline

CLOSE = {"rtol": 0, "atol": 2e-5}


def test_inversion_equals_the_same_arithmetic_in_numpy(pipeline: Pipeline, reference: Any, image: np.ndarray) -> None:
    expected = reference.invert(image)
    inversion = pipeline.invert(image)
    assert len(inversion) == 3 and inversion.names == ("", "", "")
    for name, want in expected.items():
        got = getattr(inversion, name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, **CLOSE, err_msg=name)


def test_any_kind_of_picture_gives_the_same_inversion(pipeline: Pipeline, tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.png")
    picture = Image.open(path)
    from_path = pipeline.invert(path)
    assert from_path.names == (str(path),)
    for other in (str(path), picture, np.asarray(picture), pipeline.prepare(path)):
        np.testing.assert_array_equal(pipeline.invert(other).pixels, from_path.pixels)
    several = pipeline.invert([path, picture, np.asarray(picture)])
    assert len(several) == 3 and several.names == (str(path), "", "")
    np.testing.assert_allclose(several.pixels, from_path.pixels.repeat(3, 0), **CLOSE)


def test_batches_do_not_change_the_numbers(pipeline: Pipeline, image: np.ndarray) -> None:
    whole = pipeline.invert(image, batch=3)
    for batch in (1, 2, 100):
        parts = pipeline.invert(image, batch=batch)
        for name in whole.tensors:
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), **CLOSE, err_msg=name)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "2"])
def test_a_wrong_batch_is_refused(pipeline: Pipeline, image: np.ndarray, batch: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"^batch is {batch!r}; give a whole number of at least 1$"):
        pipeline.invert(image, batch=batch)


def test_an_empty_list_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ArgumentError, match="list of pictures is empty"):
        pipeline.invert([])


def test_images_are_the_clamped_pixels(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image[:1])
    expected = np.rint((np.clip(inversion.pixels[0], -1, 1).astype(np.float64) + 1) * 127.5)
    got = np.asarray(inversion.images[0]).transpose(2, 0, 1)
    assert np.abs(got - expected).max() <= 1 and (got == expected).mean() > 0.999  # halves may fall either way in float32


def test_paper_edit_at_strength_zero_is_the_inversion(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image)
    for edit in ("smile", GanSpaceEdit(pipeline.directions["basis"], 0, 0, 4, 2.0)):
        np.testing.assert_array_equal(pipeline.edit(inversion, edit, strength=0.0, eq6="paper").pixels, inversion.pixels)
    released = pipeline.edit(inversion, "smile", strength=0.0, eq6="released")
    assert np.abs(released.pixels - inversion.pixels).max() > 1e-3


@pytest.mark.parametrize("eq6", ["paper", "released"])
def test_edit_equals_the_same_arithmetic_in_numpy(pipeline: Pipeline, reference: Any, image: np.ndarray, eq6: str) -> None:
    expected = reference.invert(image)
    direction = np.random.default_rng(1).standard_normal((1, 12, 8)).astype(np.float32)
    moved, moved_enhanced = expected["latent"] + 1.5 * direction, expected["latent_enhanced"] + 1.5 * direction
    feature, _ = reference.head(moved if eq6 == "paper" else moved_enhanced)
    want = reference.tail(feature, expected["residual"], reference.head(moved_enhanced)[1], moved_enhanced)
    edited = pipeline.edit(pipeline.invert(image), direction, strength=1.5, eq6=eq6)
    np.testing.assert_allclose(edited.pixels, want, rtol=0, atol=1e-4)
    assert [picture.size for picture in edited.images] == [(128, 128)] * 3


def test_edited_latent_is_exactly_enhanced_plus_strength_times_direction(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image)
    smile = pipeline.directions["smile"]
    edited = pipeline.edit(inversion, smile, strength=1.7)
    np.testing.assert_array_equal(edited.latent, inversion.latent_enhanced + np.float32(1.7) * smile.vector)


def test_strengths_make_a_batch_picture_by_picture(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image[:2])
    strengths = [-2.0, 0.0, 1.0]
    together = pipeline.edit(inversion, "smile", strength=strengths, batch=4)
    assert len(together) == 6
    single = [pipeline.edit(inversion[index], "smile", strength=value) for index in range(2) for value in strengths]
    np.testing.assert_allclose(together.pixels, np.concatenate([one.pixels for one in single]), **CLOSE)
    np.testing.assert_array_equal(together.latent, np.concatenate([one.latent for one in single]))


def test_several_edits_combined(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image)
    smile, age = pipeline.directions["smile"], pipeline.directions["age"]
    offset = np.zeros((12, 8), np.float32) + 2 * smile.vector
    offset[2:5] -= age.vector[2:5]
    want = pipeline.edit(inversion, offset)
    for edit in (CombinedEdit([(smile, 2.0), (age, -1.0)]), [(smile, 2.0), ("age", -1.0)], CombinedEdit([("smile", 2), ("age", -1)])):
        np.testing.assert_allclose(pipeline.edit(inversion, edit).pixels, want.pixels, **CLOSE)


def test_ganspace_moves_both_codes_by_their_own_coordinate(pipeline: Pipeline, reference: Any, image: np.ndarray) -> None:
    inversion = pipeline.invert(image)
    basis = pipeline.directions["basis"]
    mean, component, deviation = basis.mean[0].astype(np.float64), basis.comp[3, 0].astype(np.float64), float(basis.std[3])

    def moved(latent: np.ndarray) -> np.ndarray:
        result = latent.astype(np.float64)
        for picture in result:
            coordinate = np.dot(picture[0] - mean, component) / deviation
            picture[1:6] += (5.0 - coordinate) * deviation * component
        return result

    edited = pipeline.edit(inversion, GanSpaceEdit(basis, 3, 1, 6, 5.0))
    np.testing.assert_allclose(edited.latent, moved(inversion.latent_enhanced), rtol=1e-5, atol=1e-4)
    feature, _ = reference.head(moved(inversion.latent))
    enhanced = moved(inversion.latent_enhanced)
    want = reference.tail(feature, inversion.residual, reference.head(enhanced)[1], enhanced)
    np.testing.assert_allclose(edited.pixels, want, rtol=0, atol=1e-4)


def test_baseline_is_e4e_alone(pipeline: Pipeline, reference: Any, image: np.ndarray) -> None:
    latent = reference.e4e(image)
    feature, rgb = reference.head(latent)
    baseline = pipeline.baseline(pipeline.invert(image), batch=2)
    np.testing.assert_allclose(baseline.pixels, reference.tail(feature, np.zeros_like(feature), rgb, latent), **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edit": "smil"}, r'^there is no direction "smil"; the bundle "tiny" has: age, basis, smile; did you mean "smile"\?$'),
        ({"edit": "zebra"}, r'^there is no direction "zebra"; the bundle "tiny" has: age, basis, smile$'),
        ({"edit": "smile", "strength": float("nan")}, r"^the strength is nan; give a finite number$"),
        ({"edit": "smile", "strength": [1.0, float("inf")]}, r"^the strength is inf; give a finite number$"),
        ({"edit": "smile", "strength": "strong"}, r"^the strength is 'strong'; give a finite number$"),
        ({"edit": "smile", "strength": 1e300}, r"^the strength is 1e\+300; give a number of at most 3\.4e\+38$"),
        ({"edit": "smile", "strength": 10**400}, r"^the strength is 10{59}; give a finite number$"),
        ({"edit": "smile", "strength": []}, r"^the list of strengths is empty; give at least one$"),
        ({"edit": "smile", "eq6": "other"}, r'^eq6 is "other"; the bundle "tiny" has: paper, released$'),
        ({"edit": "smile", "move": ["paper"]}, r"^move is \"\['paper'\]\"; the bundle \"tiny\" has: paper, released$"),
        (
            {"edit": sdic_runtime.Direction(np.zeros(8), rows="ab")},
            r"^the direction is for the style rows 'ab'; give the first and the end as whole",
        ),
        ({"edit": np.zeros((17, 8))}, r"^the direction has shape \[17, 8\], and this model's latent codes are \[12, 8\]; use \[1, 8\] or"),
        ({"edit": np.zeros(512)}, r"^the direction has shape \[1, 512\], and this model's latent codes are \[12, 8\]"),
        ({"edit": np.full(8, np.nan)}, r"^the direction holds NaN or infinite values"),
        ({"edit": "basis"}, r"^a PCA basis is not an edit by itself"),
    ],
)
def test_a_wrong_edit_is_one_sentence(pipeline: Pipeline, image: np.ndarray, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        pipeline.edit(pipeline.invert(image[:1]), **arguments)


def test_what_is_no_inversion_cannot_be_edited(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion: Any = pipeline.invert(image[:1])
    for wrong, name in (("a.png", "str"), (pipeline.edit(inversion, "smile"), "Edited")):
        for act in (lambda given: pipeline.edit(given, "smile"), pipeline.baseline):
            with pytest.raises(ArgumentError, match=f"^the inversion is of the type {name}; give what Pipeline.invert or"):
                act(wrong)
    with pytest.raises(ArgumentError, match="^the inversion has no pictures; give one of at least one picture$"):
        pipeline.edit(inversion[1:], "smile")


def test_numbers_of_numpy_are_numbers(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image, batch=np.int64(2))  # type: ignore[arg-type]
    edited = pipeline.edit(inversion, "smile", np.array([0.0, 1.0]))
    assert len(edited) == 2 * len(inversion) and len(inversion[np.int64(0)]) == 1  # type: ignore[index]


def test_a_tensor_may_have_the_name_of_an_attribute(make_bundle: Callable[..., Path], image: np.ndarray) -> None:
    """A method may call a latent code `names`: it is moved all the same."""
    pipeline = Pipeline.load(make_bundle(name="named"), backend="onnxruntime", threads=1)
    inversion = pipeline.invert(image[:1])
    inversion.latent_enhanced = "not the code"  # type: ignore[misc]
    inversion.latent = "not the code"  # type: ignore[misc]
    assert np.array_equal(pipeline.edit(inversion, "smile", 0.0).pixels, inversion.pixels)
    assert pipeline.baseline(inversion).pixels.shape == inversion.pixels.shape


def test_directions_are_a_mapping(pipeline: Pipeline) -> None:
    assert list(pipeline.directions) == ["age", "basis", "smile"] and len(pipeline.directions) == 3
    assert "smile" in pipeline.directions and "smil" not in pipeline.directions
    assert pipeline.directions.get("smil") is None
    assert pipeline.directions["smile"] is pipeline.directions["smile"]
    assert pipeline.directions["smile"].strength_range == (-3, 3)


def test_an_inversion_of_another_model_is_refused(pipeline: Pipeline, make_bundle: Callable[..., Path], image: np.ndarray) -> None:
    other = Pipeline.load(make_bundle(name="other", visible_rows=(16, 112)), backend="onnxruntime", threads=1)
    inversion = other.invert(image[:1])
    for act in (lambda: pipeline.edit(inversion, "smile"), lambda: pipeline.baseline(inversion)):
        with pytest.raises(ArgumentError, match=r'^the inversion was made by the model "tiny" \([0-9a-f]{12}\), and this is "tiny"'):
            act()


def test_letterboxed_domain_shows_only_the_visible_rows(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    cars = Pipeline.load(make_bundle(name="cars", visible_rows=(16, 112)), backend="onnxruntime", threads=1)
    path = photo(tmp_path / "car.png", size=(80, 60))
    square = cars.prepare(path)
    assert square.shape == (1, 3, 64, 64) and (square[:, :, :8] == -1).all() and (square[:, :, 56:] == -1).all()
    expected = np.asarray(Image.open(path).resize((64, 48), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    np.testing.assert_allclose(square[0, :, 8:56], expected.transpose(2, 0, 1), rtol=0, atol=1e-6)
    inversion = cars.invert(path)
    assert inversion.pixels.shape == (1, 3, 128, 128) and inversion.images[0].size == (128, 96)
    assert cars.edit(inversion, "smile").images[0].size == (128, 96)


def test_four_threads_get_the_results_of_one(pipeline: Pipeline, image: np.ndarray) -> None:
    want = pipeline.edit(pipeline.invert(image), "smile").pixels
    wrong: list[float] = []

    def work() -> None:
        for _ in range(5):
            wrong.append(float(np.abs(pipeline.edit(pipeline.invert(image), "smile").pixels - want).max()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 20 and max(wrong) == 0


def test_an_edit_of_a_saved_inversion_is_the_edit_of_the_inversion(pipeline: Pipeline, image: np.ndarray, tmp_path: Path) -> None:
    inversion = pipeline.invert(image)
    inversion.save(tmp_path / "saved.safetensors")
    loaded = Inversion.load(tmp_path / "saved.safetensors")
    np.testing.assert_array_equal(pipeline.edit(loaded, "smile", 2.0).pixels, pipeline.edit(inversion, "smile", 2.0).pixels)


def test_auto_says_which_backend_and_why(tiny_bundle: Path) -> None:
    chosen = Pipeline.load(tiny_bundle, threads=1)
    assert chosen.backend.name == "onnxruntime"
    assert "onnxruntime is the first of tensorrt, tensorrt-rtx, onnxruntime" in chosen.reason and "tensorrt: " in chosen.reason
    assert Pipeline.load(tiny_bundle, "onnxruntime", threads=1).reason == ""


def test_a_pipeline_shows_what_it_is(pipeline: Pipeline) -> None:
    assert repr(pipeline) == f'<Pipeline of "tiny" (sdic) on {pipeline.backend.description}>'


def test_a_closed_pipeline_gives_its_memory_back_and_leaves_what_is_on_the_host(
    tiny_bundle: Path, image: np.ndarray, tmp_path: Path
) -> None:
    with Pipeline.load(tiny_bundle, "onnxruntime", threads=1) as pipeline:
        inversion = pipeline.invert(image[:1])
        sessions = [weakref.ref(session) for session in pipeline.backend._sessions.values()]  # type: ignore[attr-defined]
        assert len(sessions) == 6 and all(session() is not None for session in sessions)
    gc.collect()
    assert all(session() is None for session in sessions)
    inversion.save(tmp_path / "a.safetensors")
    assert Inversion.load(tmp_path / "a.safetensors").pixels.shape == (1, 3, 128, 128)
    for act in (lambda: pipeline.invert(image), lambda: pipeline.edit(inversion, "smile")):
        with pytest.raises(BackendError, match="^the pipeline was closed; load the bundle again$"):
            act()
    pipeline.close()


def test_a_pipeline_is_closed_whatever_ends_its_block(tiny_bundle: Path) -> None:
    with pytest.raises(KeyError), Pipeline.load(tiny_bundle, "onnxruntime", threads=1) as pipeline:
        raise KeyError
    with pytest.raises(BackendError, match="was closed"):
        pipeline.invert(np.zeros((1, 3, 64, 64), np.float32))


def test_a_flipped_byte_stops_the_load_unless_asked_not_to_look(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    graph = folder / "onnx/fp32/dicn.onnx"
    content = bytearray(graph.read_bytes())
    position = content.index(b"latent_enhanced")
    content[position] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"dicn.onnx is damaged: its SHA-256 is not the one in bundle.json; see .* sdic-export verify"):
        Pipeline.load(folder, "onnxruntime", threads=1)
    with pytest.raises(BackendError, match='the stage "dicn" could not be loaded'):
        Pipeline.load(folder, "onnxruntime", threads=1, verify=False)


def test_the_runtime_works_where_torch_cannot_be_imported(tiny_bundle: Path) -> None:
    program = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'sdic_train', 'sdic_export'):\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import numpy as np, pkgutil, importlib, sdic_runtime\n"
        "for module in pkgutil.walk_packages(sdic_runtime.__path__, 'sdic_runtime.'):\n"
        "    importlib.import_module(module.name)\n"
        "pipeline = sdic_runtime.Pipeline.load(sys.argv[1], threads=1)\n"
        "inversion = pipeline.invert(np.zeros((1, 3, 64, 64), np.float32))\n"
        "print(pipeline.edit(inversion, 'smile').pixels.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tiny_bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 3, 128, 128)"


def test_importing_the_package_is_light_and_every_public_name_is_there() -> None:
    program = "import sys, sdic_runtime; print([name for name in ('numpy', 'PIL', 'onnxruntime', 'safetensors') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(getattr(sdic_runtime, name) is not None for name in sdic_runtime.__all__)
    assert Bundle is sdic_runtime.Bundle
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sdic_runtime.Nothing


def test_a_pipeline_does_not_travel_and_says_so(pipeline: Pipeline) -> None:
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ArgumentError, match="^a pipeline stays in its process: load it in every process anew"):
            travel(pipeline)


def test_an_inversion_does_not_follow_the_array_that_it_was_made_of(pipeline: Pipeline, image: np.ndarray) -> None:
    given = image.copy()
    prepared = pipeline.prepare(given)
    given[:] = 0
    np.testing.assert_array_equal(prepared, image)


def test_arguments_of_wrong_kinds_are_one_sentence(pipeline: Pipeline, image: np.ndarray) -> None:
    inversion = pipeline.invert(image[:1])
    with pytest.raises(ArgumentError, match="^the extras are .*; give arrays by their names$"):
        pipeline.edit(inversion, "smile", extras=[1])  # type: ignore[arg-type]
