"""Golden tensors: what they are, how they are thinned, and the file they live in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sdic_export.golden import (
    KEPT,
    MADE_BY,
    STRENGTH,
    example_direction,
    make_golden,
    read_golden,
    run_chain,
    smooth_pictures,
    stage_inputs,
    stride_of,
    thin,
    write_golden,
)
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES, Sizes
from sdic_train.backend import TorchBackend
from sdic_train.networks.sdic.model import SDIC

SIZES = Sizes(128, 64, 12, 16, 8)


@pytest.fixture(scope="module")
def tensors(model: SDIC) -> dict[str, np.ndarray]:
    return run_chain(TorchBackend(model, "cpu", compiled=False), smooth_pictures(64), example_direction(SIZES))


def test_the_chain_gives_what_the_model_gives(model: SDIC, tensors: dict[str, np.ndarray]) -> None:
    delta = torch.from_numpy(STRENGTH * example_direction(SIZES))
    with torch.no_grad():
        inversion = model.invert(torch.from_numpy(smooth_pictures(64)))
        edited = {form: model.edit(inversion, delta, form) for form in ("paper", "released")}
        rgb, enhanced = model.generator.head(inversion.latent)[1], model.generator.head(inversion.latent_enhanced)[1]
    want = {
        **inversion._asdict(),
        "rgb": rgb,
        "rgb_enhanced": enhanced,
        **{f"edited.{form}.picture": picture for form, picture in edited.items()},
    }
    assert set(tensors) == set(want) == set(MADE_BY)
    for name, value in want.items():
        np.testing.assert_allclose(tensors[name], value.numpy(), rtol=0, atol=1e-5 * float(value.std()), err_msg=name)
    assert np.abs(tensors["edited.paper.picture"] - tensors["edited.released.picture"]).max() > 1e-3


def test_the_tail_reads_the_skip_and_the_code_of_the_enhanced_latent(tensors: dict[str, np.ndarray]) -> None:
    inputs = stage_inputs("generator_tail", {"image": smooth_pictures(64), **tensors})
    assert list(inputs) == list(STAGES["generator_tail"].inputs)
    assert inputs["latent"] is tensors["latent_enhanced"] and inputs["rgb"] is tensors["rgb_enhanced"]
    assert stage_inputs("generator_preview", tensors)["latent"] is tensors["latent"]


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
    assert thin(array, stride)[0].size <= KEPT


def test_thinning_keeps_the_middle_of_every_cell() -> None:
    array = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    np.testing.assert_array_equal(thin(array, 4)[0, 0], [[18, 22], [50, 54]])
    assert thin(array, 1) is array


def test_a_golden_file_reads_back(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    image, direction = smooth_pictures(64), example_direction(SIZES)
    large = {**tensors, "feature": np.random.default_rng(0).standard_normal((2, 64, 64, 64)).astype(np.float32)}
    golden = make_golden(large, image, direction)
    write_golden(tmp_path / "golden.safetensors", golden)
    read = read_golden(tmp_path / "golden.safetensors")
    assert read.strides == golden.strides and read.strides["feature"] == 2 and read.strength == STRENGTH
    assert "latent" not in read.strides and "image" not in read.strides
    assert list(tmp_path.iterdir()) == [tmp_path / "golden.safetensors"]
    np.testing.assert_array_equal(read.tensors["image"], image)
    np.testing.assert_array_equal(read.tensors["feature"], large["feature"][:, :, 1::2, 1::2])
    np.testing.assert_array_equal(read.thinned("feature", large["feature"]), read.tensors["feature"])


def test_a_golden_file_is_the_same_bytes_every_time(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    golden = make_golden(tensors, smooth_pictures(64), example_direction(SIZES))
    for name in ("first", "second"):
        write_golden(tmp_path / name, golden)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_files_that_hold_no_golden_tensors_are_refused(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(SdicError, match=r"golden\.safetensors is not a file of golden tensors .*; build the bundle again"):
        read_golden(path)
    save_file({"image": np.zeros((1, 3, 2, 2), np.float32)}, path)
    with pytest.raises(SdicError, match="is not a file of golden tensors"):
        read_golden(path)
    rest = {name: array for name, array in tensors.items() if name != "residual"}
    write_golden(path, make_golden(rest, smooth_pictures(64), example_direction(SIZES)))
    assert "latent" in load_file(path)
    with pytest.raises(SdicError, match=r"lacks the golden tensors residual; build the bundle again"):
        read_golden(path)
