"""libsdic reads and sizes pictures as Python does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_pictures import CLOSE, KEPT, assert_same_pictures, draw
from PIL import Image

from sdic_runtime import Pipeline
from sdic_runtime.bundle.manifest import Input
from sdic_runtime.errors import PictureError
from sdic_runtime.pictures import to_bytes


def prepared(native: Any, *pictures: np.ndarray) -> np.ndarray:
    """The network's 8-bit input, which the tiny model gives away: discrepancy = (image - reconstruction) / 2."""
    inversion = native.invert(*pictures)
    return to_bytes(2 * inversion.tensor("discrepancy") + inversion.tensor("reconstruction"))


def pillow(picture: np.ndarray, kind: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """Horizontally first: the order of all Pillow releases before 13, and of Python's `fit`."""
    return np.asarray(Image.fromarray(picture).resize((64, len(picture)), kind).resize((64, 64), kind))


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


def test_a_side_that_is_too_long_is_refused_as_in_python(native: Any, python: Pipeline, refusal: Any) -> None:
    """Between the two resizings a picture of a few bytes would need gigabytes."""
    for shape in ((70_000, 1, 3), (1, 70_000, 3)):
        picture = np.zeros(shape, np.uint8)
        status, sentence = refusal(lambda picture=picture: native.invert(picture))
        with pytest.raises(PictureError) as caught:
            python.invert(picture)
        assert (status, sentence) == (3, str(caught.value))


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


@pytest.mark.parametrize("resampling", ["bicubic", "lanczos"])
def test_other_filters_give_the_pixels_of_pillow(library: Any, make_bundle: Callable[..., Path], resampling: str) -> None:
    native = library.open(make_bundle("other", input=Input((0, 128), resampling)))
    for height, width in SIZES:
        picture = draw(height, width, seed=3)
        np.testing.assert_array_equal(prepared(native, picture)[0], pillow(picture, Image.Resampling[resampling.upper()]))
