"""Photographs given to the commands: faces found, aligned, inverted, edited, and the whole photograph written again."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data
from tiny_bundle import change_manifest, write_bundle

from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.bundle.manifest import FFHQ
from sdic_runtime.faces import find
from sdic_runtime.inversion import Inversion

ORIENTATION, MAKE = 0x0112, 0x010F
Run = Callable[..., tuple[int, list[str], str]]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), int)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((60, 0, 380, 320))


@pytest.fixture(scope="module")
def pair(photo: Image.Image) -> Image.Image:
    """Two faces, the right one smaller."""
    both = Image.new("RGB", (600, 320), "gray")
    both.paste(photo, (0, 0))
    both.paste(photo.resize((256, 256)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), (330, 30))
    return both


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = write_bundle(tmp_path_factory.mktemp("bundle") / "faces", faces=FFHQ)
    return ("--bundle", folder, "--backend", "onnxruntime:threads=1")


@pytest.fixture
def here(tmp_path: Path, photo: Image.Image, pair: Image.Image) -> Path:
    photo.save(tmp_path / "a.png")
    pair.save(tmp_path / "two.png")
    return tmp_path


def test_the_whole_photograph_comes_back_as_it_came(run: Run, options: Any, photo: Image.Image, tmp_path: Path) -> None:
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[ORIENTATION], exif[MAKE] = 6, "Camera"
    turned = photo.crop((0, 0, 320, 300)).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.JPG", "JPEG", exif=exif, icc_profile=profile, quality=95, dpi=(300, 300))
    code, lines, errors = run("edit", "a.JPG", "--edit", "smile:2", *options)
    assert (code, lines, errors) == (0, [str(tmp_path / "a.smile+2.jpg")], "")
    with Image.open(tmp_path / "a.smile+2.jpg") as written:
        assert written.size == (320, 300)
        assert written.getexif()[MAKE] == "Camera"
        assert written.getexif().get(ORIENTATION, 1) == 1
        assert (written.info["icc_profile"], written.info["dpi"]) == (profile, (300, 300))
    left, top, right, bottom = find(photo)[0].square.bounds(photo)
    changed = np.abs(pixels(tmp_path / "a.smile+2.jpg") - np.asarray(photo.crop((0, 0, 320, 300)), int))
    assert changed[top + 40 : bottom - 60, left + 60 : right - 60].mean() > 10
    assert changed[bottom + 8 :].mean() < 3  # JPEG alone


def test_strength_zero_is_the_photograph(run: Run, options: Any, here: Path) -> None:
    assert run("edit", "a.png", "--edit", "smile:0", *options)[0] == 0
    assert np.abs(pixels(here / "a.smile+0.png") - pixels(here / "a.png")).max() <= 1


def test_difference_and_replace(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    from sdic_runtime.pipeline import Pipeline

    (face,) = find(photo)
    with Pipeline.load(options[1], backend="onnxruntime", threads=1) as pipeline:
        inversion = pipeline.invert(face.crop)
        edited = pipeline.edit(inversion, "smile", 2).images[0]
    for paste, expected in (
        ("difference", face.paste(edited, base=inversion.images[0], mask="square")),
        ("replace", face.paste(edited, mask="square")),
    ):
        assert run("edit", "a.png", "--edit", "smile:2", "--paste", paste, "--out", f"{paste}.png", *options)[0] == 0
        assert np.abs(pixels(here / f"{paste}.png") - np.asarray(expected, int)).max() <= 1
    assert run("invert", "a.png", *options)[1] == [str(here / "a.inverted.png")]
    assert np.abs(pixels(here / "a.inverted.png") - np.asarray(face.paste(inversion.images[0], mask="square"), int)).max() <= 1


@pytest.mark.parametrize(
    ("face", "changes"), [("largest", (True, False)), ("1", (True, False)), ("2", (False, True)), ("all", (True, True))]
)
def test_which_faces(run: Run, options: Any, here: Path, pair: Image.Image, face: str, changes: tuple[bool, bool]) -> None:
    assert run("edit", "two.png", "--edit", "smile:3", "--face", face, "--out", "out.png", *options)[0] == 0
    changed = np.abs(pixels(here / "out.png") - np.asarray(pair, int)).mean(2)
    assert (changed[110:140, 150:180].mean() > 5, changed[110:130, 455:475].mean() > 5) == changes


def test_crops_alone(run: Run, options: Any, here: Path) -> None:
    lines = run("edit", "two.png", "--edit", "smile:3", "--face", "all", "--crop-only", "--save", *options)[1]
    assert lines == [str(here / f"two-{number}.smile+3.png") for number in (1, 2)] + [str(here / "two.safetensors")]
    assert {Image.open(line).size for line in lines[:2]} == {(128, 128)}
    assert Inversion.load(here / "two.safetensors").names == ("two.png", "two.png")


def test_a_crop_is_recognised_and_taken_whole(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    (face,) = find(photo)
    for size in (1024, 200):
        face.aligned(size).save(here / f"crop{size}.png")
        said = run("edit", f"crop{size}.png", "--edit", "smile", "--aligned", "--out", "said.png", *options)
        code, _, errors = run("edit", f"crop{size}.png", "--edit", "smile", "--out", "found.png", *options)
        assert (said[0], said[2], code) == (0, "", 0)
        assert errors == f"crop{size}.png is an aligned crop of a face already, and is taken whole; say so with --aligned\n"
        assert np.array_equal(pixels(here / "said.png"), pixels(here / "found.png"))
        assert pixels(here / "said.png").shape == (128, 128, 3)


def test_without_a_face(run: Run, options: Any, here: Path) -> None:
    Image.fromarray(data.chelsea()).save(here / "cat.png")
    code, lines, errors = run("invert", "cat.png", "a.png", *options, "--out", "out")
    sentence = "error: no face was found in cat.png; if it is an aligned crop of a face already, add --aligned\n"
    assert (code, lines) == (2, ["out/a.inverted.png"])
    assert errors == sentence + "error: 1 of 2 pictures could not be inverted; they are named above\n"
    assert run("edit", "cat.png", "--edit", "smile", *options)[::2] == (2, sentence)
    code, _, errors = run("edit", "cat.png", "--edit", "smile", "--aligned", *options)
    assert code == 0
    assert errors == (
        "cat.png has 451 x 300 pixels and is squashed, because the model takes squares; crop it, or add --crop to take its middle; "
        "without --aligned the face is looked for and aligned\n"
    )


def test_a_poor_face_is_told(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    photo.resize((200, 200)).save(here / "small.png")
    code, _, errors = run("invert", "small.png", *options)
    assert code == 0
    assert re.fullmatch(r"small.png: the face is small, 2[78] pixels between the eyes; its details will be invented\n", errors)


def test_what_is_kept(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    mask = Image.new("L", photo.size)
    mask.paste(255, (0, 0, 165, 320))
    mask.save(here / "mask.png")
    mask.resize((9, 9)).save(here / "small.png")
    edit = ("edit", "a.png", "--edit", "smile:3", "--paste", "replace", *options)
    changed = {}
    for name, keep in (("none", ()), ("mask", ("--keep", "mask.png")), ("background", ("--keep", "background"))):
        assert run(*edit, *keep, "--out", f"{name}.png")[0] == 0
        changed[name] = np.abs(pixels(here / f"{name}.png") - np.asarray(photo, int)).mean(2)
    assert changed["mask"][:, :165].max() == 0
    assert np.array_equal(changed["mask"][:, 170:], changed["none"][:, 170:])
    assert changed["background"][40:120, 75:90].mean() < changed["none"][40:120, 75:90].mean() / 4
    assert changed["background"][110:140, 150:180].mean() > 5
    assert run(*edit, "--keep", "small.png")[2] == (
        "error: the mask of --keep has 9 x 9 pixels and a.png 320 x 320; give it the photograph's size\n"
    )


def test_a_saved_inversion_goes_back_into_its_photograph(run: Run, here: Path) -> None:
    """The demo model, because its inversions are like the pictures."""
    shutil.copytree(DEMO_FOLDER, here / "demo")
    change_manifest(here / "demo", faces=FFHQ)
    options = ("--bundle", here / "demo", "--backend", "onnxruntime:threads=1")
    for number in ("1", "2"):
        assert run("edit", "two.png", "--face", number, "--edit", "smile:3", "--save", "--out", "at-once.png", *options)[0] == 0
        edit = ("edit", "at-once.safetensors", "--edit", "smile:3", *options)
        assert run(*edit, "--photo", "two.png", "--out", "saved.png")[0] == 0
        assert np.abs(pixels(here / "saved.png") - pixels(here / "at-once.png")).max() <= 1
    assert pixels(Path(run(*edit)[1][0])).shape == (128, 128, 3)


def test_standard_input(run: Run, options: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO((here / "a.png").read_bytes())))
    assert run("edit", "-", "--edit", "smile", *options)[:2] == (0, [str(here / "stdin.smile+1.png")])
    assert pixels(here / "stdin.smile+1.png").shape == (320, 320, 3)


def test_a_sweep_shows_the_whole_photograph(run: Run, options: Any, here: Path) -> None:
    code, lines, _ = run("sweep", "two.png", "--edit", "smile", "--steps", 2, "--face", "all", *options)
    assert (code, lines) == (0, [str(here / "two.smile.strip.png"), str(here / "two.smile.gif")])
    with Image.open(here / "two.smile.gif") as animation:
        assert animation.size == (600, 320)
    lines = run("sweep", "two.png", "--edit", "smile", "--steps", 2, "--crop-only", *options)[1]
    with Image.open(lines[1]) as animation:
        assert animation.size == (128, 128)


def test_a_batch_of_photographs(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    (here / "in").mkdir()
    photo.save(here / "in" / "a.jpg", quality=95)
    Image.fromarray(data.chelsea()).save(here / "in" / "cat.png")
    photo.resize((200, 200)).save(here / "in" / "small.webp", quality=95)
    words = ("batch", "in", "--out", "out", "--edit", "smile:2", "--workers", 1, *options)
    code, lines, errors = run(*words)
    assert (code, lines) == (2, ["2 of 3 pictures done"])
    assert "in/small.webp: the face is small" in errors
    assert "no face was found in" in (here / "out" / "failures.csv").read_text()
    names = sorted(path.name for path in (here / "out").iterdir() if not path.name.startswith("."))
    assert names == ["a.inverted.jpg", "a.smile+2.jpg", "failures.csv", "small.inverted.webp", "small.smile+2.webp"]
    with Image.open(here / "out" / "a.smile+2.jpg") as written:
        assert written.size == photo.size
    assert run(*words)[1] == ["0 of 3 pictures done, 2 were complete before"]
    assert run(*words, "--paste", "replace")[1] == ["2 of 3 pictures done"]
    assert "--crop-only with --face all writes as many files" in run(*words, "--crop-only", "--face", "all")[2]


def test_results_are_no_inputs(run: Run, options: Any, here: Path, photo: Image.Image) -> None:
    (here / "in").mkdir()
    photo.save(here / "in" / "a.jpg")
    for _ in range(2):
        assert run("invert", "in", "--out", "in", *options)[0] == 0
        assert run("edit", "in/a.jpg", "--edit", "smile:2", "--out", "in", *options)[0] == 0
    assert sorted(path.name for path in (here / "in").iterdir()) == ["a.inverted.jpg", "a.jpg", "a.smile+2.jpg"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--face", "0"), '--face is "0"; give a number from 1, all, or largest'),
        (("--face", "left"), '--face is "left"; give a number from 1, all, or largest'),
        (("--face", "3"), "two.png has 2 faces, and --face is 3; give a number up to 2, all, or largest"),
        (("--paste", "glue"), '--paste is "glue"; use difference or replace'),
        (("--aligned", "--face", "2"), "--face is for photographs, and --aligned says that the picture is a crop already; omit one"),
        (("--crop-only", "--keep", "background"), "--crop-only writes no photograph, which --keep is about; omit one of them"),
        (("--crop",), "--crop is for pictures that are taken whole, and here a face is looked for; omit it or add --aligned"),
        (("--keep", "absent.png"), "there is no picture at absent.png"),
        (("--aligned", "--keep", "background"), "--keep background is for photographs with a model of aligned faces; here give one mask"),
        (("--photo", "a.png"), "--photo is for a saved inversion, and two.png is none; omit it"),
    ],
)
def test_options_that_cannot_be(run: Run, options: Any, here: Path, words: tuple[str, ...], sentence: str) -> None:
    before = sorted(path.name for path in here.iterdir())
    code, lines, errors = run("edit", "two.png", "--edit", "smile", *words, *options)
    assert (code, lines, errors) == (2, [], f"error: {sentence}\n")
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_saved_inversion_and_options_for_photographs(run: Run, options: Any, here: Path) -> None:
    run("invert", "a.png", "--save", *options)
    Image.fromarray(data.chelsea()).save(here / "cat.png")
    edit = ("edit", "a.safetensors", "--edit", "smile", *options)
    assert "is a saved inversion; name its photograph with --photo" in run(*edit, "--paste", "replace")[2]
    for words in (("--face", "1"), ("--crop-only",), ("--aligned",), ("--aligned", "--crop"), ("--ignore-profiles",)):
        code, lines, errors = run(*edit, *words)
        assert (code, lines) == (2, [])
        assert errors == f"error: {words[0]} is about pictures that are inverted, and a.safetensors is a saved inversion; omit it\n"
    assert "here give one mask" in run(*edit, "--keep", "background")[2]
    assert "take no mask; omit it" in run(*edit, "--keep", "a.png")[2]
    assert "no face in cat.png looks like the inversion; give the photograph" in run(*edit, "--photo", "cat.png")[2]
    assert "with a bundle of aligned faces; omit other choices" in run(*edit, "--photo", "a.png", "--face", "1")[2]


def test_a_picture_of_another_shape_is_squashed_with_a_word(run: Run, tiny_bundle: Path, here: Path, pair: Image.Image) -> None:
    options = ("--edit", "smile", "--bundle", tiny_bundle, "--backend", "onnxruntime:threads=1")
    pair.crop((140, 0, 460, 320)).save(here / "middle.png")
    code, _, errors = run("edit", "two.png", *options, "--out", "squashed.png")
    assert code == 0
    assert (
        errors
        == "two.png has 600 x 320 pixels and is squashed, because the model takes squares; crop it, or add --crop to take its middle\n"
    )
    assert run("edit", "two.png", *options, "--crop", "--out", "cropped.png")[::2] == (0, "")
    assert run("edit", "middle.png", *options, "--out", "middle-edited.png")[::2] == (0, "")
    assert np.array_equal(pixels(here / "cropped.png"), pixels(here / "middle-edited.png"))
    assert not np.array_equal(pixels(here / "cropped.png"), pixels(here / "squashed.png"))
    assert (
        run("edit", "two.png", *options, "--face", "2")[2] == 'error: --face is for models of aligned faces, and "tiny" is none; omit it\n'
    )


def test_compare_takes_the_face(run: Run, options: Any, here: Path) -> None:
    words = ("compare", "two.png", "--backend", "onnxruntime", "--against", "onnxruntime:threads=1", *options[:2])
    assert run(*words, "--face", "2")[0] == 0
    assert run(*words, "--face", "3")[2].startswith("error: two.png has 2 faces, and --face is 3")
