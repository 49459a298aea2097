"""Golden tensors: what they are, how they are thinned, and the file they live in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sdic_export.golden import (
    GRID,
    KEPT,
    SPREAD,
    STRENGTH,
    Chain,
    Golden,
    example_direction,
    kept,
    make_golden,
    makers,
    read_golden,
    run_all,
    smooth_pictures,
    stride_of,
    write_golden,
)
from sdic_runtime.bundle.bundle import DEMO_FOLDER, Bundle
from sdic_runtime.errors import BundleError
from sdic_runtime.program import Method, Program, Step
from sdic_train.backend import TorchBackend
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

METHOD = method_of(METHODS["sdic"], TINY)
SIZES = METHOD.sizes


@pytest.fixture(scope="module")
def chain(model: SDIC) -> Chain:
    return run_all(TorchBackend(METHOD, model), smooth_pictures(64), example_direction(SIZES))


@pytest.fixture(scope="module")
def tensors(chain: Chain) -> Mapping[str, np.ndarray]:
    return chain.values


def test_the_chain_gives_what_the_model_gives(model: SDIC, tensors: Mapping[str, np.ndarray]) -> None:
    delta = torch.from_numpy(STRENGTH * example_direction(SIZES))
    with torch.no_grad():
        inversion = model.invert(torch.from_numpy(smooth_pictures(64)))
        edited = {form: model.edit(inversion, delta, form) for form in ("paper", "released")}
        rgb, enhanced = model.generator.head(inversion.latent)[1], model.generator.head(inversion.latent_enhanced)[1]
    want = {**inversion._asdict(), "rgb": rgb, "rgb_2": enhanced, **{f"edited.{form}.picture": picture for form, picture in edited.items()}}
    assert set(tensors) == set(want) and list(tensors) == list(makers(METHOD))
    for name, value in want.items():
        np.testing.assert_allclose(tensors[name], value.numpy(), rtol=0, atol=1e-5 * float(value.std()), err_msg=name)
    assert np.abs(tensors["edited.paper.picture"] - tensors["edited.released.picture"]).max() > 1e-3


def test_every_value_is_made_by_a_step() -> None:
    made = {name: (step.stage, list(step.outputs)) for name, step in makers(METHOD).items()}
    assert made["rgb"] == ("generator_head", ["feature", "rgb"]) and made["rgb_2"] == ("generator_head", ["rgb"])
    assert made["edited.paper.picture"] == made["edited.released.picture"] == made["picture"] == ("generator_tail", ["picture"])


def test_examples_are_of_the_first_step_that_runs_a_stage(chain: Chain) -> None:
    assert set(chain.examples) == {*METHOD.stages, *METHOD.parts}
    for stage, table in METHOD.stages.items():
        example = chain.examples[stage]
        assert (tuple(example.inputs), tuple(example.outputs)) == (table.inputs, table.outputs)
    tail, preview, head = (chain.examples[f"generator_{name}"] for name in ("tail", "preview", "head"))
    for name, value in {"rgb": "rgb_2", "latent": "latent_enhanced", "feature": "feature", "residual": "residual"}.items():
        np.testing.assert_array_equal(tail.inputs[name], chain.values[value])
    np.testing.assert_array_equal(preview.inputs["latent"], chain.values["latent"])
    np.testing.assert_array_equal(head.outputs["feature"], chain.values["feature"])


def only(*programs: str) -> Method:
    """SDIC with these programs alone, where the second one runs the preview, and the first one does not."""
    steps = METHOD.programs["invert"].steps[:2]  # e4e and the head
    shown = Step("generator_preview", {"feature": "feature", "rgb": "rgb", "latent": "latent"}, {"reconstruction": "reconstruction"})
    known = {
        "invert": Program(("image",), steps, {"latent": "latent", "picture": "image"}),
        "preview": Program(("latent",), (Step("generator_head", {"latent": "latent"}, {"feature": "feature", "rgb": "rgb"}), shown), {}),
    }
    stages = {name: METHOD.stages[name] for name in ("e4e", "generator_head", "generator_preview")}
    chosen = {name: known[name] for name in programs}
    return msgspec.structs.replace(METHOD, stages=stages, programs=chosen, keeps=("latent",), moves={}, rows={}, cuts={})


def test_a_stage_that_no_edit_runs_is_taken_from_the_other_programs(model: SDIC) -> None:
    found = run_all(TorchBackend(only("invert", "preview"), model), smooth_pictures(64), example_direction(SIZES)).examples
    assert found["generator_preview"].outputs["reconstruction"].shape == (2, 3, 64, 64)
    with pytest.raises(BundleError, match='^no program runs the stage "generator_preview", so that nothing can be checked'):
        run_all(TorchBackend(only("invert"), model), smooth_pictures(64), example_direction(SIZES))


def test_the_golden_file_of_a_bundle_of_schema_1_is_read_by_its_old_names(tmp_path: Path) -> None:
    manifest = Bundle.open(DEMO_FOLDER).manifest
    assert manifest.golden is not None
    now = read_golden(DEMO_FOLDER / manifest.golden, manifest)
    old = {"rgb_enhanced" if name == "rgb_2" else name: array for name, array in now.tensors.items()}
    write_golden(tmp_path / "old.safetensors", Golden(old, now.strides, now.strength))
    found = read_golden(tmp_path / "old.safetensors", manifest)
    assert set(found.tensors) == set(now.tensors) and found.strides == now.strides
    np.testing.assert_array_equal(found.tensors["rgb_2"], now.tensors["rgb_2"])


def test_smooth_pictures_differ_and_stay_in_range() -> None:
    pictures = smooth_pictures(64, 3)
    assert pictures.shape == (3, 3, 64, 64) and pictures.dtype == np.float32
    assert pictures.min() >= -1 and pictures.max() <= 1
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.2
    assert np.abs(np.diff(pictures, axis=3)).max() < 0.4  # no edges
    np.testing.assert_array_equal(pictures[:2], smooth_pictures(64, 2))


@pytest.mark.parametrize(("shape", "stride"), [((2, 3, 64, 64), 1), ((1, 512, 64, 64), 8), ((1, 3, 1024, 1024), 8), ((1, 3, 256, 256), 2)])
def test_large_maps_are_thinned_to_the_limit(shape: tuple[int, ...], stride: int) -> None:
    array = np.broadcast_to(np.float32(0), shape)
    assert stride_of(array) == stride
    assert array[kept(array, stride, GRID)][0].size <= KEPT
    assert array[kept(array, stride)][0].size <= KEPT * 9 / 8  # with the block in the middle


def test_files_of_the_grid_keep_the_middle_of_every_cell() -> None:
    array = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    np.testing.assert_array_equal(array[kept(array, 4, GRID)][0, 0], [[18, 22], [50, 54]])
    assert array[kept(array, 1)].shape == array.shape


@pytest.mark.parametrize("shape", [(1, 3, 1024, 1024), (1, 3, 512, 512), (1, 3, 256, 256), (1, 64, 256, 256), (1, 512, 64, 64)])
def test_whatever_rows_and_columns_are_off_is_noticed(shape: tuple[int, ...]) -> None:
    """An upsampling convolution makes even and odd rows and columns in different ways, and a picture may be made in bands of any height."""
    array = np.zeros(shape, np.float32)
    golden = make_golden({"picture": array}, np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32))

    def noticed(*cut: slice) -> bool:
        array[(..., *cut)] = 1  # in place: a copy for each of thousands of rows and columns takes longer than all the rest
        found = bool(golden.thinned("picture", array).any())
        array[(..., *cut)] = 0
        return found

    periods = (2, 4, 8) if shape[2] >= 256 else (2,)
    for period in periods:
        assert all(noticed(slice(row, None, period), slice(column, None, period)) for row in range(period) for column in range(period))
    for bands in (2, 3, 4, 5, 8):
        for border in np.linspace(0, shape[2], bands + 1).astype(int)[1:-1]:
            assert noticed(slice(border - 1, border), slice(None)) and noticed(slice(border, border + 1), slice(None)), (bands, border)
    assert all(noticed(slice(row, row + 1), slice(None)) for row in range(shape[2]))
    assert all(noticed(slice(None), slice(column, column + 1)) for column in range(shape[3]) if shape[3] >= 256)
    middle = slice(shape[2] // 2 - 1, shape[2] // 2 + 1)
    assert np.count_nonzero(golden.thinned("picture", _only(array, middle))[0, 0]) >= 2 + 2 * shape[3] // 64


def _only(array: np.ndarray, rows: slice) -> np.ndarray:
    marked = array.copy()
    marked[:, :, rows] = 1
    return marked


def test_weights_of_a_picture_are_thinned_by_outputs_and_inputs() -> None:
    weights = np.zeros((1, 256, 512, 3, 3), np.float32)
    assert stride_of(weights) == 8 and weights[kept(weights, 8, GRID)].shape == (1, 32, 64, 3, 3)
    assert weights[kept(weights, 8)].shape[1:] == (256 * 512 // 64 + 4 * 63, 3, 3)
    code = np.zeros((1, 18, 512), np.float32)
    made = make_golden({"delta": weights[..., 0, 0], "latent": code}, np.zeros((1, 3, 4, 4), np.float32), code)
    assert 128 * 256 <= made.tensors["delta"].size <= 128 * 256 * 9 / 8 and made.tensors["latent"].shape == code.shape
    assert made.strides == {"delta": 2}


def test_a_golden_file_reads_back(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    image, direction = smooth_pictures(64), example_direction(SIZES)
    large = {**tensors, "feature": np.random.default_rng(0).standard_normal((2, 64, 64, 64)).astype(np.float32)}
    golden = make_golden(large, image, direction)
    write_golden(tmp_path / "golden.safetensors", golden)
    read = read_golden(tmp_path / "golden.safetensors", METHOD)
    assert read.strides == golden.strides and read.strides["feature"] == 2 and read.strength == STRENGTH
    assert "latent" not in read.strides and "image" not in read.strides
    assert list(tmp_path.iterdir()) == [tmp_path / "golden.safetensors"]
    np.testing.assert_array_equal(read.tensors["image"], image)
    assert read.pattern == SPREAD and read.tensors["feature"].shape[:2] == (2, 64)
    np.testing.assert_array_equal(read.thinned("feature", large["feature"]), read.tensors["feature"])


def test_a_golden_file_of_before_is_read_as_it_was(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    """It says nothing about a pattern."""
    made = make_golden(tensors, smooth_pictures(64), example_direction(SIZES))
    path, feature = tmp_path / "golden.safetensors", np.random.default_rng(0).standard_normal((2, 16, 64, 64)).astype(np.float32)
    described = {"strides": {"feature": 2}, "strength": 1.5}
    save_file({**made.tensors, "feature": feature[:, :, 1::2, 1::2].copy()}, path, {"golden": json.dumps(described)})
    read = read_golden(path, METHOD)
    np.testing.assert_array_equal(read.thinned("feature", feature), read.tensors["feature"])
    save_file(dict(made.tensors), path, {"golden": json.dumps({**described, "pattern": "stars"})})
    with pytest.raises(BundleError, match='its pattern "stars" is not known'):
        read_golden(path, METHOD)


def test_a_golden_file_is_the_same_bytes_every_time(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    golden = make_golden(tensors, smooth_pictures(64), example_direction(SIZES))
    for name in ("first", "second"):
        write_golden(tmp_path / name, golden)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_files_that_hold_no_golden_tensors_are_refused(tensors: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(BundleError, match=r"golden\.safetensors is not a file of golden tensors .*; build the bundle again"):
        read_golden(path, METHOD)
    save_file({"image": np.zeros((1, 3, 2, 2), np.float32)}, path)
    with pytest.raises(BundleError, match="is not a file of golden tensors"):
        read_golden(path, METHOD)
    rest = {name: array for name, array in tensors.items() if name != "residual"}
    write_golden(path, make_golden(rest, smooth_pictures(64), example_direction(SIZES)))
    assert "latent" in load_file(path)
    with pytest.raises(BundleError, match=r"lacks the golden tensors residual; build the bundle again"):
        read_golden(path, METHOD)
