"""`sdic-run edit` and `sdic-run sweep` as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.directions import save_direction
from sdic_runtime.edits import Direction
from sdic_runtime.pipeline import Pipeline

BACKEND = ("--backend", "onnxruntime:threads=1")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_edit_of_a_saved_inversion_is_that_of_the_picture(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--out", "kept", "--save")
    edit = ("--edit", "smile:2,age:-1.5", "--bundle", tiny_bundle, *BACKEND)
    for source, out in ((photos / "a.png", "one"), (tmp_path / "kept/a.safetensors", "two")):
        code, lines, _ = run("edit", source, *edit, "--out", out)
        assert (code, lines) == (0, [f"{out}/a.smile+2_age-1.5.png"])
    assert run("edit", tmp_path / "kept/a.safetensors", *edit)[1] == [str(tmp_path / "kept/a.smile+2_age-1.5.png")], "beside its input"
    inversion = pipeline.invert(photos / "a.png")
    latent = inversion.latent + 2 * pipeline.directions["smile"].vector - 1.5 * pipeline.directions["age"].offset(inversion.latent)  # type: ignore[union-attr]
    expected = np.asarray(pipeline.edit(inversion, latent[0] - inversion.latent[0]).images[0])
    for out in ("one", "two"):
        assert np.abs(pixels(tmp_path / out / "a.smile+2_age-1.5.png").astype(int) - expected).max() <= 1


def test_the_two_forms_of_eq6_and_strength_zero(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    base = ("edit", photos / "a.png", "--bundle", tiny_bundle, *BACKEND)
    run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--out", "inversion.png")
    run(*base, "--edit", "smile:0", "--out", "zero.png")
    run(*base, "--edit", "smile:1", "--out", "paper.png")
    run(*base, "--edit", "smile", "--eq6", "released", "--out", "released.png")
    run(*base, "--edit", "smile", "--move", "released", "--out", "again.png")
    assert np.array_equal(pixels(tmp_path / "zero.png"), pixels(tmp_path / "inversion.png"))
    assert not np.array_equal(pixels(tmp_path / "paper.png"), pixels(tmp_path / "inversion.png"))
    assert not np.array_equal(pixels(tmp_path / "paper.png"), pixels(tmp_path / "released.png"))
    assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / "released.png"))


def test_a_direction_from_a_file_and_one_of_the_bundle_at_once(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    vector = np.random.default_rng(2).standard_normal((1, pipeline.sizes["C"])).astype(np.float32)
    save_direction(tmp_path / "mine.safetensors", Direction(vector, "mine"))
    edits = ("--edit", "smile,./mine.safetensors:3")
    code, lines, _ = run("edit", photos / "a.png", *edits, "--bundle", tiny_bundle, *BACKEND)
    assert (code, lines) == (0, [str(tmp_path / "a.smile+1_mine+3.png")])
    inversion = pipeline.invert(photos / "a.png")
    expected = pipeline.edit(inversion, pipeline.directions["smile"].vector + 3 * vector).images[0]  # type: ignore[union-attr]
    assert np.abs(pixels(tmp_path / "a.smile+1_mine+3.png").astype(int) - np.asarray(expected)).max() <= 1


def test_ganspace_by_numbers_with_the_basis_of_the_bundle_and_of_a_file(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    from sdic_runtime.edits import GanSpaceEdit

    base = ("edit", photos / "a.png", "--edit", "2/1/4/-3.5", "--bundle", tiny_bundle, *BACKEND)
    assert run(*base)[:2] == (0, [str(tmp_path / "a.2-1-4--3.5+1.png")])
    assert run(*base, "--pca", tiny_bundle / "directions/basis.safetensors", "--out", "again.png")[0] == 0
    inversion = pipeline.invert(photos / "a.png")
    expected = np.asarray(pipeline.edit(inversion, GanSpaceEdit(pipeline.directions["basis"], 2, 1, 4, -3.5)).images[0])
    for name in ("a.2-1-4--3.5+1.png", "again.png"):
        assert np.abs(pixels(tmp_path / name).astype(int) - expected).max() <= 1


def test_presets_of_the_domain_are_known_by_name(run: Any, photos: Path, make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("faces", domain="faces")
    code, _, errors = run("edit", photos / "a.png", "--edit", "eyes", "--bundle", bundle, *BACKEND)
    assert (code, errors) == (2, "error: the GANSpace component 54 does not exist; the basis has components 0 to 5\n")


def test_an_inversion_of_several_pictures_gives_numbered_files(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.invert([photos / "a.png", photos / "b.jpg"]).save(tmp_path / "two.safetensors")
    base = ("edit", "two.safetensors", "--edit", "smile", "--bundle", tiny_bundle, *BACKEND)
    assert run(*base, "--side-by-side", "--out", "out")[:2] == (
        0,
        [f"out/two-{index}.smile+1{ending}.png" for index in (1, 2) for ending in ("", ".side-by-side")],
    )
    code, _, errors = run(*base, "--out", "one.png")
    assert (code, errors) == (2, "error: --out names one file, one.png, and two.safetensors holds 2 pictures; give a folder instead\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--edit", "smile:nan"), "the strength of \"smile\" is 'nan'; give a finite number"),
        (("--edit", "smile:inf"), "the strength of \"smile\" is 'inf'; give a finite number"),
        (("--edit", "smile:much"), "the strength of \"smile\" is 'much'; give a finite number"),
        (("--edit", "smiel:1"), 'there is no direction "smiel"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?'),
        (("--edit", ":1"), '--edit is ":1"; give NAME:STRENGTH, such as smile:2, or several with commas'),
        ((), "give at least one --edit; the bundle's directions are: age, basis, smile"),
        (("--edit", "basis:1"), '"basis" is a PCA basis of 6 components, and no edit by itself; choose a component: INDEX/START/END/SIGMA'),
        (("--edit", "long.npy"), 'the direction "long" has shape [1, 9], and this model\'s latent codes are [12, 8]'),
        (("--edit", "none.npy"), "cannot read the direction none.npy: no such file or directory"),
        (("--edit", "1/2/3"), '"1/2/3" is not a GANSpace component INDEX/START/END/SIGMA, such as 54/7/8/20'),
        (("--edit", "1/0/4/2", "--pca", "long.npy"), "long.npy holds a direction, not a PCA basis with mean, comp and std"),
        (("--edit", "1/0/40/2"), "the GANSpace edit is for the style rows 0 to 40 (end not included), and this model has 12 rows"),
        (("--edit", "smile", "--eq6", "other"), 'move is "other"; the bundle "tiny" has: paper, released'),
        (("--edit", "smile", "--edit", "age", "--out", "one.png"), "--out names one file, one.png, for 2 edits; give a folder instead"),
        (("--edit", "smile", "--precision", "fp16"), 'has no complete set of stages in precision "fp16"; it has: fp32'),
        (("--edit", "smile", "--backend", "onnx"), 'there is no backend "onnx"'),
        (("--edit", "smile", "--backend", "onnxruntime:threads"), 'the backend option "threads" in "onnxruntime:threads" is not'),
        (("--edit", "smile", "--backend", "onnxruntime:wings=2"), 'the backend "onnxruntime" has no option "wings"'),
        (("--nonsense",), "; see: sdic-run edit --help"),
    ],
)
def test_bad_edits_are_one_sentence_and_no_file(
    run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    np.save(tmp_path / "long.npy", np.ones(9, np.float32))
    before = everything_in(tmp_path)
    backend = () if "--backend" in options else BACKEND
    code, lines, errors = run("edit", photos / "a.png", "--bundle", tiny_bundle, *backend, *options)
    assert (code, lines) == (2, [])
    assert errors.startswith("error: ") and sentence in errors and errors.count("\n") == 1
    assert everything_in(tmp_path) == before


def test_a_damaged_or_foreign_inversion_is_refused(
    run: Any, photos: Path, tiny_bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--save", "--out", "x.png")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-100])
    edit = ("--edit", "smile", *BACKEND)
    code, _, errors = run("edit", "cut.safetensors", *edit, "--bundle", tiny_bundle)
    assert code == 2 and errors.startswith("error: cut.safetensors is not a saved inversion, or damaged") and errors.count("\n") == 1
    other = make_bundle("other", visible_rows=(32, 96))
    code, _, errors = run("edit", "x.safetensors", *edit, "--bundle", other)
    assert code == 2 and 'the inversion was made by the model "tiny"' in errors
    code, _, errors = run("edit", "x.safetensors", *edit, "--bundle", tiny_bundle, "--save")
    assert errors == "error: --save writes the inversion of a picture, and x.safetensors is a saved inversion already; omit --save\n"
    code, _, errors = run("edit", "x.safetensors", *edit, "--bundle", tiny_bundle, "--crop")
    assert errors == "error: --crop is about pictures that are inverted, and x.safetensors is a saved inversion; omit it\n"
    code, _, errors = run("edit", photos, *edit, "--bundle", tiny_bundle)
    assert errors == f"error: {photos} is a folder; name one picture or one inversion in it\n"


# sweep


def test_a_sweep_is_the_edits_at_its_strengths(run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    code, lines, _ = run(
        "sweep",
        photos / "a.png",
        "--edit",
        "smile",
        "--from",
        -2,
        "--to",
        2,
        "--steps",
        5,
        "--batch",
        2,
        "--bundle",
        tiny_bundle,
        *BACKEND,
        "--out",
        "out",
    )
    assert (code, lines) == (0, ["out/a.smile.strip.png", "out/a.smile.gif"])
    inversion, size = pipeline.invert(photos / "a.png"), pipeline.sizes["R"]
    strip = pixels(tmp_path / "out/a.smile.strip.png")
    for index, strength in enumerate((-2, -1, 0, 1, 2)):
        cell = strip[8 : 8 + size, 8 + index * (size + 8) : 8 + index * (size + 8) + size]
        expected = np.asarray(pipeline.edit(inversion, "smile", strength).images[0])
        assert np.abs(cell.astype(int) - expected).max() <= 1
    with Image.open(tmp_path / "out/a.smile.gif") as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (8, (size, size), 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "give at least one --edit; the bundle's directions are: age, basis, smile"),
        (("--edit", "smile", "--steps", "1"), "Invalid value for '--steps'"),
        (("--edit", "smile", "--from", "nan"), "--from is nan; give a finite number"),
        (("--edit", "smile", "--out", "x.gif"), "--out x.gif is neither a folder nor a file"),
        (("--edit", "smile", "--out", "x.png"), "--out names one file, x.png, and a sweep writes a strip and an animation"),
    ],
)
def test_bad_sweeps(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    code, lines, errors = run("sweep", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, *options)
    assert (code, lines) == (2, []) and sentence in errors and errors.count("\n") == 1
    assert everything_in(tmp_path) == [f"photos/{name}" for name in ("a.png", "b.jpg", "c.webp")]
