"""`sdic-run invert`: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.inversion import Inversion
from sdic_runtime.pictures import to_images
from sdic_runtime.pipeline import Pipeline

BACKEND = ("--backend", "onnxruntime:threads=1")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_invert_writes_what_the_pipeline_gives(run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    code, lines, errors = run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND)
    assert (code, lines, errors) == (0, [str(tmp_path / "a.inverted.png")], "")
    assert np.array_equal(pixels(tmp_path / "a.inverted.png"), np.asarray(pipeline.invert(photos / "a.png").images[0]))


def test_invert_of_a_folder_in_batches_gives_the_same_pictures(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", "together", "--batch", 2)[0] == 0
    for name in ("a.png", "b.jpg", "c.webp"):
        assert run("invert", photos / name, "--bundle", tiny_bundle, *BACKEND, "--out", "apart")[0] == 0
    assert everything_in(tmp_path / "together") == ["a.inverted.png", "b.inverted.png", "c.inverted.png"]
    for name in everything_in(tmp_path / "apart"):
        difference = pixels(tmp_path / "together" / name).astype(int) - pixels(tmp_path / "apart" / name)
        assert np.abs(difference).max() <= 1


def test_invert_writes_everything_that_was_asked_for(run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extras = ("--save", "--side-by-side", "--baseline")
    code, lines, _ = run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--out", out, *extras)
    assert code == 0
    assert sorted(lines) == sorted(
        str(out / f"a.{ending}") for ending in ("inverted.png", "safetensors", "side-by-side.png", "baseline.png")
    )
    inversion = Inversion.load(out / "a.safetensors")
    assert np.array_equal(pixels(out / "a.inverted.png"), np.asarray(inversion.images[0]))
    assert np.array_equal(pixels(out / "a.baseline.png"), np.asarray(pipeline.baseline(inversion).images[0]))
    sheet, size = pixels(out / "a.side-by-side.png"), pipeline.sizes["R"]
    columns = [sheet[8 : 8 + size, 8 + index * (size + 8) : 8 + index * (size + 8) + size] for index in range(3)]
    assert np.array_equal(columns[1], pixels(out / "a.baseline.png")) and np.array_equal(columns[2], pixels(out / "a.inverted.png"))
    seen = to_images(pipeline.prepare(photos / "a.png"))[0].resize((size, size), Image.Resampling.LANCZOS)
    assert np.array_equal(columns[0], np.asarray(seen))


def test_a_named_file_gets_the_result(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    code, lines, _ = run("invert", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--out", tmp_path / "new" / "x.bmp", "--save")
    assert (code, lines) == (0, [str(tmp_path / "new/x.bmp"), str(tmp_path / "new/x.safetensors")])
    assert Image.open(tmp_path / "new/x.bmp").format == "BMP"


def test_bad_pictures_are_named_and_the_good_ones_written(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("this is no picture")
    (photos / "empty.png").touch()
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:700])
    code, lines, errors = run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", "out", "--batch", 2)
    assert code == 2
    assert lines == [str(Path("out") / f"{name}.inverted.png") for name in "abc"]
    assert everything_in(tmp_path / "out") == ["a.inverted.png", "b.inverted.png", "c.inverted.png"]
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == errors.splitlines()
    assert len(errors.splitlines()) == 4
    assert all(name in errors for name in ("text.png", "empty.png", "cut.jpg"))
    assert errors.splitlines()[-1] == "error: 3 of 6 pictures could not be inverted; they are named above"


def test_a_second_run_over_a_folder_does_not_feed_on_its_results(run: Any, photos: Path, tiny_bundle: Path) -> None:
    for _ in range(2):
        assert run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", photos, "--side-by-side", "--baseline")[0] == 0
    assert len(everything_in(photos)) == 3 + 3 * 3


def test_pictures_of_one_name_and_two_endings_get_names_of_their_own(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.open(photos / "a.png").save(photos / "a.jpg")
    assert run("invert", photos / "a.png", photos / "a.jpg", "--bundle", tiny_bundle, *BACKEND, "--out", "out")[0] == 0
    assert everything_in(tmp_path / "out") == ["a.jpg.inverted.png", "a.png.inverted.png"]


def test_results_that_would_replace_something_are_refused(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.open(photos / "a.png").save(tmp_path / "other/a.png")
    Image.open(photos / "a.png").save(tmp_path / "a.inverted.png")
    Image.open(photos / "a.png").save(tmp_path / "a.png")
    before = {name: (tmp_path / name).read_bytes() for name in everything_in(tmp_path)}
    for sources, out, sentence in (
        ((photos / "a.png", tmp_path / "other/a.png"), "out", "have the same name, so one result would replace the other"),
        ((tmp_path / "a.png",), tmp_path / "a.png", "is the input itself, which would be replaced; choose another name"),
        ((tmp_path / "a.png", tmp_path / "a.inverted.png"), tmp_path, "would replace the input"),
        ((photos,), tmp_path / "x.png", "names one file"),
        ((photos,), tmp_path / "x.txt", "is neither a folder nor a file ending in .png"),
    ):
        code, lines, errors = run("invert", *sources, "--bundle", tiny_bundle, *BACKEND, "--out", out)
        assert (code, lines) == (2, []) and sentence in errors and errors.count("\n") == 1
    assert {name: (tmp_path / name).read_bytes() for name in everything_in(tmp_path)} == before


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("the bundle was loaded")

    monkeypatch.setattr(Pipeline, "load", never)
    (tmp_path / "file").touch()
    for command in (("invert",), ("edit", "--edit", "smile"), ("sweep", "--edit", "smile")):
        code, _, errors = run(command[0], photos / "a.png", *command[1:], "--bundle", tiny_bundle, "--out", tmp_path / "file" / "out")
        assert code == 2
        assert errors == f"error: cannot write into the folder {tmp_path}/file/out: not a directory; choose another one with --out\n"


def test_an_image_with_too_many_pixels_is_refused(run: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    code, lines, errors = run("invert", tmp_path / "bomb.png", "--bundle", tiny_bundle, *BACKEND)
    assert (code, lines) == (2, [])
    assert errors == f"error: {tmp_path}/bomb.png has 900 megapixels, and the limit is 100; make the picture smaller\n"


def test_standard_input_and_pipes_are_read_whole(
    run: Any, photos: Path, tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (photos / "a.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with ThreadPoolExecutor(1) as other:
        other.submit((tmp_path / "pipe").write_bytes, content)
        code, lines, errors = run("invert", "-", "pipe", "--bundle", tiny_bundle, *BACKEND, "--out", "out", "--side-by-side")
    assert (code, errors) == (0, "") and lines[0] == "out/stdin.inverted.png"
    expected = np.asarray(pipeline.invert(photos / "a.png").images[0]).astype(int)
    for name in ("stdin", "pipe"):
        assert np.abs(pixels(tmp_path / f"out/{name}.inverted.png") - expected).max() <= 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no picture")))
    errors = run("edit", "-", "--edit", "smile", "--bundle", tiny_bundle, *BACKEND)[2]
    assert errors.startswith("error: the picture on standard input is not a picture this program can read")


def test_skipped_files_of_a_folder_are_counted_and_named(run: Any, photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("film.mov", "notes.txt", "old.inverted.png", "zip"):
        (photos / name).touch()
    (photos / ".hidden").touch()
    Image.open(photos / "a.png").save(photos / "d.jfif", "JPEG")
    code, lines, errors = run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", "out")
    assert (code, len(lines)) == (0, 4)
    assert errors == "skipped 4 file(s) that are no pictures to invert, or results: film.mov, notes.txt, old.inverted.png and 1 more\n"


def test_what_no_program_can_read_is_skipped_and_named(run: Any, photos: Path, tiny_bundle: Path) -> None:
    (photos / "broken.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    code, lines, errors = run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", "out")
    assert (code, len(lines)) == (0, 3)
    assert errors == "skipped 2 file(s) that are no pictures to invert, or results: broken.png, pipe.png\n"


def test_a_name_that_is_too_long_for_its_result_costs_no_other_picture(run: Any, photos: Path, tiny_bundle: Path) -> None:
    long = f"a{'b' * 249}.png"
    (photos / "a.png").rename(photos / long)
    code, lines, errors = run("invert", photos, "--bundle", tiny_bundle, *BACKEND, "--out", "out")
    assert (code, lines) == (2, ["out/b.inverted.png", "out/c.inverted.png"])
    assert "file name too long; use a shorter name\nerror: 1 of 3 pictures could not be inverted" in errors


def test_damaged_metadata_is_nothing_to_talk_about(photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.open(photos / "a.png").save(photos / "exif.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    program = [sys.executable, "-m", "sdic_runtime.cli.app"]
    for command in (["invert"], ["batch", "--workers", "1"]):
        line = [*program, command[0], photos, *command[1:], "--out", tmp_path / "out", "--bundle", tiny_bundle, *BACKEND]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert "Warning" not in done.stderr and "PIL" not in done.stderr


def test_results_of_every_command_are_no_inputs(run: Any, tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    Image.open("a.png").save("trip.2024-05.png")  # a name like that of a result, and no result
    bundle = ("--bundle", tiny_bundle, *BACKEND)
    assert run("invert", "a.png", "trip.2024-05.png", "--baseline", "--side-by-side", "--save", *bundle)[0] == 0
    assert run("edit", "a.png", "--edit", "smile:2,age:-1.5", "--edit", "smile:-1e-05", "--side-by-side", *bundle)[0] == 0
    assert run("edit", "trip.2024-05.safetensors", "--edit", "smile", *bundle)[0] == 0
    assert run("sweep", "a.png", "--edit", "smile", "--steps", 2, *bundle)[0] == 0
    lines = run("invert", ".", "--out", "again", *bundle)[1]
    assert [Path(line).name for line in lines] == [f"{name}.inverted.png" for name in ("a", "b", "c", "trip.2024-05")]


def test_a_name_that_the_output_cannot_show_is_no_failure(photos: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / "\u732b.png")
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "invert", photos, "--out", tmp_path / "out", "--bundle", tiny_bundle, *BACKEND]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"") and b"\\u732b.inverted.png" in done.stdout
    assert (tmp_path / "out/\u732b.inverted.png").is_file()


def test_a_checkpoint_has_one_meaning_everywhere(run: Any, photos: Path, tiny_bundle: Path) -> None:
    sentence = "--checkpoint is for a backend that reads one, such as torch; here it would go to onnxruntime"
    common = ("--checkpoint", "w.pt", "--bundle", tiny_bundle)
    for command in (("invert", photos / "a.png"), ("bench",), ("compare", photos / "a.png", "--against", "onnxruntime")):
        code, lines, errors = run(*command, *common, *BACKEND)
        assert (code, lines) == (2, []) and errors.startswith(f"error: {sentence}") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing.png", "there is no file missing.png; check the path"),
        ("empty", "the folder empty holds no picture; picture names end in .png"),
    ],
)
def test_sources_that_are_not_there(run: Any, tiny_bundle: Path, tmp_path: Path, source: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    code, lines, errors = run("invert", source, "--bundle", tiny_bundle)
    assert (code, lines) == (2, [])
    assert errors.startswith(f"error: {sentence}") and errors.count("\n") == 1


def test_a_flipped_byte_in_the_bundle_is_found(run: Any, photos: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle()
    damaged = folder / "onnx/fp32/dicn.onnx"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, lines, errors = run("invert", photos / "a.png", "--bundle", folder, *BACKEND, "--out", "out")
    assert (code, lines) == (2, []) and "dicn.onnx is damaged: its SHA-256 is not the one in bundle.json" in errors
    assert errors.count("\n") == 1 and everything_in(tmp_path / "out") == []


@pytest.mark.parametrize("command", ["invert", "edit", "batch"])
def test_a_closed_standard_input_is_one_sentence(command: str, run: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    words = {"edit": ("--edit", "smile"), "batch": ("--out", "done")}.get(command, ())
    code, lines, errors = run(command, "-", "--bundle", tiny_bundle, *BACKEND, *words)
    assert (code, lines) == (2, [])
    assert "error: standard input is closed, and it is to be read; pipe something into the command, or name a file" in errors
