"""Pictures of another shape than the model's, in the library and through every command: never squashed without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import write_bundle

from sdic_runtime import ArgumentError, PictureError, PictureWarning, Pipeline
from sdic_runtime.bundle.manifest import FFHQ
from sdic_runtime.cli.app import plain_warnings
from sdic_runtime.decoding.shapes import fits, middle, shaped, wanted_shape

SQUARE, CAR = {"R": 128, "S": 64}, ((0, 128), (16, 112))


@pytest.fixture(scope="module")
def wide() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_bundle, backend="onnxruntime", threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with Pipeline.load(write_bundle(tmp_path_factory.mktemp("faces") / "bundle", faces=FFHQ), backend="onnxruntime", threads=1) as pipeline:
        yield pipeline


def test_a_model_of_aligned_faces_refuses_a_photograph(aligned: Pipeline, wide: Image.Image, tmp_path: Path) -> None:
    wide.save(tmp_path / "a.png")
    sentence = (
        r"a.png has 60 x 40 pixels, and the model takes squares with an aligned face; "
        r'give the crop of sdic_runtime.faces.find\(picture\)\[0\], or say shape="crop" or shape="squash"'
    )
    with pytest.raises(PictureError, match=sentence):
        aligned.invert(tmp_path / "a.png")
    for picture in (wide, np.asarray(wide)):
        with pytest.raises(PictureError, match="the picture has 60 x 40 pixels"):
            aligned.invert(picture)
    (result,) = aligned.invert_many([wide], keep_going=True)
    assert isinstance(result.error, PictureError)
    (result,) = aligned.invert_many([wide], shape="crop")
    assert result.inversion is not None
    same = aligned.invert(wide.crop((10, 0, 50, 40)))
    assert np.array_equal(result.inversion.latent, same.latent)


def test_other_models_squash_with_a_warning(whole: Pipeline, wide: Image.Image) -> None:
    with pytest.warns(PictureWarning, match="60 x 40 pixels and is squashed, because the model takes squares; crop it, or say") as said:
        told = whole.invert(wide)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape, same in (("squash", wide.resize((64, 64), Image.Resampling.BILINEAR)), ("crop", wide.crop((10, 0, 50, 40)))):
            found = whole.invert(wide, shape=shape)
            np.testing.assert_allclose(found.latent, whole.invert(same).latent, atol=0.02)
        assert np.array_equal(told.latent, whole.invert(wide, shape="squash").latent)
        whole.invert(wide.resize((66, 65)))  # within what is no distortion
        whole.invert(np.zeros((1, 3, 64, 64), np.float32))


def test_a_shape_that_is_none(whole: Pipeline, wide: Image.Image) -> None:
    with pytest.raises(ArgumentError, match='shape is "stretch"; use "crop" or "squash"'):
        whole.invert(wide, shape="stretch")


def test_the_shape_of_a_letterboxed_model(wide: Image.Image) -> None:
    square, car = (wanted_shape(SQUARE, rows) for rows in CAR)
    assert (square, car) == (1, 128 / 96)
    assert fits((400, 300), car)
    assert not fits((400, 400), car)
    assert middle(wide, car).size == (53, 40)
    with pytest.warns(PictureWarning, match="because the model takes pictures of 128 x 96"):
        assert shaped(wide, "a.png", SQUARE, CAR[1], None) is wide


def test_commands_print_it_as_a_notice(whole: Pipeline, wide: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="another"), plain_warnings():
        whole.invert(wide)
        warnings.warn("another", UserWarning, 1)
    assert capsys.readouterr().err.startswith("the picture has 60 x 40 pixels and is squashed")
