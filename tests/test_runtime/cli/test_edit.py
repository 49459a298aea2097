"""`sdic-run edit` and `sdic-run sweep` as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.edits import Direction, save_direction
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
    edit = ("--direction", "smile", "--strength", 2, "--direction", "age", "--strength", -1.5, "--bundle", tiny_bundle, *BACKEND)
    for source, out in ((photos / "a.png", "one"), (tmp_path / "kept/a.safetensors", "two")):
        code, lines, _ = run("edit", source, *edit, "--out", out)
        assert (code, lines) == (0, [f"{out}/a.smile+2_age-1.5.png"])
    inversion = pipeline.invert(photos / "a.png")
    latent = inversion.latent + 2 * pipeline.directions["smile"].vector - 1.5 * pipeline.directions["age"].offset(inversion.latent)  # type: ignore[union-attr]
    expected = np.asarray(pipeline.edit(inversion, latent[0] - inversion.latent[0]).images[0])
    for out in ("one", "two"):
        assert np.abs(pixels(tmp_path / out / "a.smile+2_age-1.5.png").astype(int) - expected).max() <= 1


def test_the_two_forms_of_eq6_and_strength_zero(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    base = ("edit", photos / "a.png", "--direction", "smile", "--bundle", tiny_bundle, *BACKEND)
    run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--out", "inversion.png")
    run(*base, "--strength", 0, "--out", "zero.png")
    run(*base, "--strength", 1, "--out", "paper.png")
    run(*base, "--strength", 1, "--eq6", "released", "--out", "released.png")
    assert np.array_equal(pixels(tmp_path / "zero.png"), pixels(tmp_path / "inversion.png"))
    assert not np.array_equal(pixels(tmp_path / "paper.png"), pixels(tmp_path / "inversion.png"))
    assert not np.array_equal(pixels(tmp_path / "paper.png"), pixels(tmp_path / "released.png"))


def test_a_direction_from_a_file_takes_the_strength_after_those_of_names(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    vector = np.random.default_rng(2).standard_normal((1, pipeline.sizes.style_width)).astype(np.float32)
    save_direction(tmp_path / "mine.safetensors", Direction(vector, "mine"))
    edits = ("--direction-file", "mine.safetensors", "--strength", 3, "--direction", "smile", "--strength", 1)
    code, lines, _ = run("edit", photos / "a.png", *edits, "--bundle", tiny_bundle, *BACKEND)
    assert (code, lines) == (0, [str(tmp_path / "a.smile+3_mine+1.png")])
    inversion = pipeline.invert(photos / "a.png")
    expected = pipeline.edit(inversion, 3 * pipeline.directions["smile"].vector + vector).images[0]  # type: ignore[union-attr]
    assert np.abs(pixels(tmp_path / "a.smile+3_mine+1.png").astype(int) - np.asarray(expected)).max() <= 1


def test_ganspace_by_numbers_with_the_basis_of_the_bundle_and_of_a_file(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    from sdic_runtime.edits import GanSpaceEdit

    base = ("edit", photos / "a.png", "--ganspace", "2,1,4,-3.5", "--bundle", tiny_bundle, *BACKEND)
    assert run(*base)[:2] == (0, [str(tmp_path / "a.component2-3.5.png")])
    assert run(*base, "--pca", tiny_bundle / "directions/basis.safetensors", "--out", "again.png")[0] == 0
    inversion = pipeline.invert(photos / "a.png")
    expected = np.asarray(pipeline.edit(inversion, GanSpaceEdit(pipeline.directions["basis"], 2, 1, 4, -3.5)).images[0])
    for name in ("a.component2-3.5.png", "again.png"):
        assert np.abs(pixels(tmp_path / name).astype(int) - expected).max() <= 1


def test_presets_of_the_domain_are_known_by_name(run: Any, photos: Path, make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("faces", domain="faces")
    code, _, errors = run("edit", photos / "a.png", "--ganspace", "eyes", "--bundle", bundle, *BACKEND)
    assert (code, errors) == (2, "error: the GANSpace component 54 does not exist; the basis has components 0 to 5\n")
    code, _, errors = run("edit", photos / "a.png", "--ganspace", "ears", "--bundle", bundle, *BACKEND)
    assert errors == 'error: --ganspace "ears" is not a preset of faces (eyes, beard, lip) or index,start,end,sigma, such as 54,7,8,20\n'


def test_an_inversion_of_several_pictures_gives_numbered_files(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.invert([photos / "a.png", photos / "b.jpg"]).save(tmp_path / "two.safetensors")
    base = ("edit", "two.safetensors", "--direction", "smile", "--strength", 1, "--bundle", tiny_bundle, *BACKEND)
    assert run(*base, "--side-by-side", "--out", "out")[:2] == (
        0,
        [f"out/two-{index}.smile+1{ending}.png" for index in (1, 2) for ending in ("", ".side-by-side")],
    )
    code, _, errors = run(*base, "--out", "one.png")
    assert (code, errors) == (2, "error: --out names one file, one.png, and two.safetensors holds 2 pictures; give a folder instead\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--direction", "smile", "--strength", "nan"), "the strength is nan; give a finite number"),
        (("--direction", "smile", "--strength", "inf"), "the strength is inf; give a finite number"),
        (
            ("--direction", "smiel", "--strength", "1"),
            'there is no direction "smiel"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?',
        ),
        (("--direction", "smile"), "1 direction(s) and 0 --strength value(s) were given; give one --strength for each direction"),
        (
            ("--strength", "1"),
            "give at least one edit: --direction, --direction-file or --ganspace; the bundle's directions are: age, basis, smile",
        ),
        (("--direction", "basis", "--strength", "1"), "a PCA basis is not an edit by itself; choose a component with GanSpaceEdit"),
        (
            ("--direction-file", "long.npy", "--strength", "1"),
            'the direction "long" has shape [1, 9], and this model\'s latent codes are [12, 8]',
        ),
        (("--direction-file", "none.npy", "--strength", "1"), "cannot read the direction none.npy: no such file or directory"),
        (("--ganspace", "1,2,3"), '--ganspace "1,2,3" is not index,start,end,sigma, such as 54,7,8,20'),
        (("--ganspace", "1,0,4,2", "--pca", "long.npy"), "long.npy holds a direction, not a PCA basis with mean, comp and std"),
        (("--ganspace", "1,0,40,2"), "the GANSpace edit is for the style rows 0 to 40 (end not included), and this model has 12 rows"),
        (("--direction", "smile", "--strength", "1", "--eq6", "other"), "Invalid value for '--eq6'"),
        (("--direction", "smile", "--strength", "much"), "Invalid value for '--strength'"),
        (
            ("--direction", "smile", "--strength", "1", "--precision", "fp16"),
            'has no complete set of stages in precision "fp16"; it has: fp32',
        ),
        (("--direction", "smile", "--strength", "1", "--backend", "onnx"), 'there is no backend "onnx"'),
        (
            ("--direction", "smile", "--strength", "1", "--backend", "onnxruntime:threads"),
            'the backend option "threads" in "onnxruntime:threads" is not',
        ),
        (
            ("--direction", "smile", "--strength", "1", "--backend", "onnxruntime:wings=2"),
            'the backend "onnxruntime" has no option "wings"',
        ),
        (("--direction", "smile", "--strength", "1", "--checkpoint", "w.pt"), 'the backend "onnxruntime" has no option "checkpoint"'),
        (("--nonsense",), "No such option: --nonsense; see: sdic-run edit --help"),
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
    edit = ("--direction", "smile", "--strength", 1, *BACKEND)
    code, _, errors = run("edit", "cut.safetensors", *edit, "--bundle", tiny_bundle)
    assert code == 2 and errors.startswith("error: cut.safetensors is not a saved inversion, or damaged") and errors.count("\n") == 1
    other = make_bundle("other", visible_rows=(32, 96))
    code, _, errors = run("edit", "x.safetensors", *edit, "--bundle", other)
    assert code == 2 and 'the inversion was made by the model "tiny"' in errors
    code, _, errors = run("edit", "x.safetensors", *edit, "--bundle", tiny_bundle, "--save")
    assert errors == "error: --save writes the inversion of a picture, and x.safetensors is a saved inversion already; leave --save out\n"
    code, _, errors = run("edit", photos, *edit, "--bundle", tiny_bundle)
    assert errors == f"error: {photos} is a folder; name one picture or one inversion in it\n"


# sweep


def test_a_sweep_is_the_edits_at_its_strengths(run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    code, lines, _ = run(
        "sweep",
        photos / "a.png",
        "--direction",
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
    inversion, size = pipeline.invert(photos / "a.png"), pipeline.sizes.resolution
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
        ((), "give either --direction or --direction-file; the bundle's directions are: age, basis, smile"),
        (("--direction", "smile", "--steps", "1"), "--steps is 1; give a whole number from 2 to 200"),
        (("--direction", "smile", "--from", "nan"), "--from is nan; give a finite number"),
        (("--direction", "smile", "--out", "x.gif"), "--out x.gif is neither a folder nor a file"),
        (("--direction", "smile", "--out", "x.png"), "--out names one file, x.png, and a sweep writes a strip and an animation"),
    ],
)
def test_bad_sweeps(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    code, lines, errors = run("sweep", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, *options)
    assert (code, lines) == (2, []) and sentence in errors and errors.count("\n") == 1
    assert everything_in(tmp_path) == [f"photos/{name}" for name in ("a.png", "b.jpg", "c.webp")]
