"""Whole clips: sound, times, faces, cuts, and runs that are killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import meadow, moving, placed, portrait, read_clip, sound_packets, write_clip
from PIL import Image

from sdic_runtime.cli.app import main
from sdic_runtime.errors import ArgumentError, FileError, PictureError, SdicError
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.video import Settings, Smoothing, edit, edit_video

LOSSLESS = "ffv1"
SIZE = 128, 96


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of frames at uneven times with a tone, with B frames."""
    times = np.cumsum([0, *np.random.default_rng(3).integers(400, 2400, 24)]).tolist()
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, moving(25, SIZE, 88, 3), ticks=times, time_base=Fraction(1, 30000), sound=1.2, metadata={"title": "a day"})


def pixels(path: Path) -> np.ndarray:
    return np.stack(read_clip(path)[1]).astype(np.int16)


def test_what_is_about_faces_is_refused_where_none_are_looked_for(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    for settings, sentence in (
        (Settings(mask="person"), 'the mask is "person", which needs a face to be found, and the frames are taken whole; use square'),
        (Settings(face=2), 'the face is "2", which needs faces to be found, and the frames are taken whole; use largest'),
    ):
        with pytest.raises(ArgumentError) as caught:
            edit_video(pipeline, clip, tmp_path / "out.mp4", "smile", settings=settings)
        assert str(caught.value) == sentence
    assert not list(tmp_path.iterdir())


def test_sound_times_and_words_are_kept(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    report = edit_video(pipeline, clip, tmp_path / "out.mp4", "smile", 2.0, Settings(batch=4))
    assert (report.frames, report.edited, report.shots, report.resumed) == (25, 25, 1, 0)
    assert sound_packets(tmp_path / "out.mp4") == sound_packets(clip)
    assert read_clip(tmp_path / "out.mp4")[0] == read_clip(clip)[0]
    assert edit.Clip(tmp_path / "out.mp4").metadata["title"] == "a day"
    last = list(edit.Clip(clip).frames())[-1]
    assert edit.Clip(tmp_path / "out.mp4").seconds == pytest.approx((last.ticks + last.duration) / 30000, abs=0.001)
    changed = np.abs(pixels(tmp_path / "out.mp4") - pixels(clip))[..., 24:-24, 40:-40, :]
    assert changed.mean() > 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"]


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_sound_is_kept_in_other_kinds_of_file(pipeline: Pipeline, clip: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    edit_video(pipeline, clip, out, "smile", settings=Settings(codec="mpeg4"))
    packets, originals = sound_packets(out), sound_packets(clip)
    assert [content for _, content in packets] == [content for _, content in originals]
    first = packets[0][0] - originals[0][0]
    assert all(abs(time - original - first) <= Fraction(1, 1000) for (time, _), (original, _) in zip(packets, originals, strict=True))
    shift = [float(time - old) for time, old in zip(read_clip(out)[0], read_clip(clip)[0], strict=True)]
    assert shift == pytest.approx([float(first)] * 25, abs=0.0011)


def test_an_edit_of_strength_zero_leaves_every_pixel(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    report = edit_video(pipeline, clip, tmp_path / "out.mkv", "smile", 0.0, Settings(codec=LOSSLESS))
    assert np.array_equal(pixels(tmp_path / "out.mkv"), pixels(clip))
    assert report.ratio == 1


def test_outside_the_square_and_where_the_mask_keeps_every_pixel_stays(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    keep = Image.new("L", SIZE)
    keep.paste(255, (0, 0, 128, 40))
    edit_video(pipeline, clip, tmp_path / "out.mkv", "smile", 3.0, Settings(codec=LOSSLESS, keep=keep, paste="replace"))
    changed = (pixels(tmp_path / "out.mkv") != pixels(clip)).any((0, 3))
    assert changed[48:88, 32:96].all()
    assert not changed[:39].any() and not changed[:, :14].any() and not changed[:, -14:].any()
    for size in ((127, 96), (96, 128)):
        with pytest.raises(PictureError, match="128 x 96"):
            edit_video(pipeline, clip, tmp_path / "other.mkv", "smile", settings=Settings(keep=Image.new("L", size)))


def test_a_clip_without_sound_and_one_of_a_single_frame(pipeline: Pipeline, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "one.mp4", moving(1, (64, 48), 44, 2))
    said: list[str] = []
    report = edit_video(pipeline, source, tmp_path / "out.webm", "smile", say=said.append)
    assert (report.frames, report.ratio, said) == (1, None, [])
    assert len(read_clip(tmp_path / "out.webm")[1]) == 1


def test_a_gif_becomes_a_video(pipeline: Pipeline, tmp_path: Path) -> None:
    pictures = list(moving(4, (65, 47), 44, 2))
    pictures[0].save(tmp_path / "in.gif", save_all=True, append_images=pictures[1:], duration=[100, 200, 100, 100])
    said: list[str] = []
    edit_video(pipeline, tmp_path / "in.gif", tmp_path / "out.mp4", "smile", say=said.append)
    assert len(said) == 1 and "65 x 47" in said[0] and "4:4:4" in said[0] and ".webm" in said[0]
    times, frames = read_clip(tmp_path / "out.mp4")
    assert times == [0, Fraction(1, 10), Fraction(3, 10), Fraction(4, 10)]
    assert frames[0].shape == (47, 65, 3)


def test_a_letterboxed_model_edits_the_part_that_it_sees(make_bundle: Any, clip: Path, tmp_path: Path) -> None:
    from sdic_runtime.bundle.manifest import Input

    with Pipeline.load(make_bundle(input=Input((32, 96))), backend="onnxruntime", threads=1) as wide:
        edit_video(wide, clip, tmp_path / "out.mkv", "smile", 3.0, Settings(codec=LOSSLESS, paste="replace"))
    changed = (pixels(tmp_path / "out.mkv") != pixels(clip)).any((0, 3))
    assert changed[32:64, 16:112].all()
    assert not changed[:15].any() and not changed[81:].any()  # 128 x 64 in the middle of 128 x 96


KILLED = """
import os, signal, sys
from pathlib import Path
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.video import Settings, edit, edit_video, faces, journal

edit.PART_FRAMES, faces.FIND_EVERY = 6, 4
bundle, source, out, kind, count = sys.argv[1:]
add = journal.Journal.add

def and_die(self, entry):
    add(self, entry)
    entries = {"Seen": self.seen, "Done": self.done}
    if type(entry).__name__ == kind and len(entries[kind]) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)

journal.Journal.add = and_die
with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
    edit_video(pipeline, source, out, "smile", 2.0, Settings(batch=3, face="all"))
"""


def killed(bundle: Path, source: Path, out: Path, kind: str, count: int) -> None:
    arguments = [sys.executable, "-c", KILLED, *map(str, (bundle, source, out)), kind, str(count)]
    assert subprocess.run(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert not out.exists()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "PART_FRAMES", 6)
    monkeypatch.setattr("sdic_runtime.video.faces.FIND_EVERY", 4)


def test_a_killed_run_goes_on_and_gives_the_same_file(
    pipeline: Pipeline, tiny_bundle: Path, clip: Path, tmp_path: Path, small_parts: None
) -> None:
    out, settings = tmp_path / "out.mp4", Settings(batch=3, face="all")
    edit_video(pipeline, clip, tmp_path / "whole.mp4", "smile", 2.0, settings)
    killed(tiny_bundle, clip, out, "Done", 2)
    said: list[str] = []
    report = edit_video(pipeline, clip, out, "smile", 2.0, settings, say=said.append)
    assert report.resumed == 12
    assert "continuing" in said[0] and "12" in said[0]
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


FULL = """
import resource, sys
from pathlib import Path
from sdic_runtime.errors import FileError
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.video import Settings, edit, edit_video

bundle, source, out, limit = sys.argv[1:]
join = edit.join

def on_a_full_disk(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    join(*arguments)

edit.join = on_a_full_disk
with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
    try:
        edit_video(pipeline, source, out, "smile", 2.0)
    except FileError as error:
        print(error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_disk_that_is_full_at_the_last_step_is_a_sentence(
    pipeline: Pipeline, tiny_bundle: Path, clip: Path, tmp_path: Path, suffix: str
) -> None:
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    edit_video(pipeline, clip, whole, "smile", 2.0)
    for limit in (whole.stat().st_size - 1, whole.stat().st_size // 4):
        arguments = [sys.executable, "-c", FULL, *map(str, (tiny_bundle, clip, out, limit))]
        done = subprocess.run(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("cannot write the video: file too large; make room\n", 0), done.stderr
        assert not out.exists() and not (tmp_path / f".{out.name}.sdic-video/whole").exists()
    assert edit_video(pipeline, clip, out, "smile", 2.0).resumed == 25
    assert out.read_bytes() == whole.read_bytes()


def test_half_a_line_does_not_count_and_other_work_starts_anew(
    pipeline: Pipeline, clip: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> None:
        """As Ctrl-C does after two parts."""
        add = edit.Journal.add

        def then_stop(self: edit.Journal, entry: Any) -> None:
            add(self, entry)
            if len(self.done) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(edit.Journal, "add", then_stop)
            edit_video(pipeline, clip, out, "smile", 2.0)

    out, parts = tmp_path / "out.mp4", tmp_path / ".out.mp4.sdic-video/parts.jsonl"
    stopped()
    with parts.open("rb+") as stream:
        stream.truncate(parts.stat().st_size - 20)  # as a kill in the middle of a write leaves it
    said: list[str] = []
    assert edit_video(pipeline, clip, out, "smile", 2.0, say=said.append).resumed == 6
    stopped()
    assert edit_video(pipeline, clip, out, "smile", 1.5, say=said.append).resumed == 0
    assert "begun anew" in said[-1]


@pytest.mark.parametrize("left", [0, 6, 9, 24])
def test_a_video_that_grows_shorter_meanwhile_is_a_sentence(
    pipeline: Pipeline, clip: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    source, frames, passes = tmp_path / "clip.mp4", edit.Clip.frames, itertools.count()
    source.write_bytes(clip.read_bytes())

    def fewer(self: edit.Clip, kind: str | None = None) -> Any:
        if not next(passes):
            return frames(self, kind)
        os.utime(source, (1, 1))
        return itertools.islice(frames(self, kind), left)

    monkeypatch.setattr(edit.Clip, "frames", fewer)
    with pytest.raises(FileError, match="changed while it was read; start again"):
        edit_video(pipeline, source, tmp_path / "out.mp4", "smile")
    assert list(tmp_path.iterdir()) == [source]


def test_two_runs_do_not_write_one_file(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    with edit.Journal(tmp_path / "out.mkv", "other work").opened(), pytest.raises(FileError, match="another run"):
        edit_video(pipeline, clip, tmp_path / "out.mkv", "smile")


def test_an_error_leaves_nothing_half_written(pipeline: Pipeline, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mkv", moving(3, (63, 47), 44, 2), codec="ffv1")
    with pytest.raises(SdicError, match="no video encoder|h264_nvenc failed"):
        edit_video(pipeline, source, tmp_path / "out.mkv", "smile", settings=Settings(codec="h264_nvenc"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv"]


WRONG = {
    "the same file": ({"out": "clip.mp4"}, ArgumentError, "is the video itself"),
    "an unknown kind": ({"out": "out.doc"}, FileError, "no kind of video"),
    "no folder": ({"out": "none/out.mp4"}, FileError, "there is no folder"),
    "a folder": ({"out": "."}, FileError, "is a folder"),
    "a direction": ({"edit": "laugh"}, ArgumentError, "laugh"),
    "a move": ({"move": "twist"}, ArgumentError, 'move is "twist"'),
    "a strength": ({"strength": float("nan")}, ArgumentError, "strength"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_refused_before_any_work(pipeline: Pipeline, clip: Path, tmp_path: Path, what: str) -> None:
    changes, kind, words = WRONG[what]
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip.read_bytes())
    given: dict[str, Any] = {"out": "out.mp4", "edit": "smile", "strength": 1.0, "move": None, **changes}
    with pytest.raises(kind, match=words):
        edit_video(pipeline, source, tmp_path / given["out"], given["edit"], given["strength"], move=given["move"])
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "wrong",
    [{"face": 0}, {"face": "smallest"}, {"paste": "mix"}, {"mask": "hair"}, {"batch": 0}, {"batch": True}, {"quality": "18"},
     {"quality": 1.5}, {"codec": 264}, {"keep": "background"}, {"smoothing": 0.1}],
)  # fmt: skip
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Settings(**wrong)


def film() -> list[Image.Image]:
    """Six frames of a large and a small face; eleven after a cut with one that leaves."""
    size = (320, 160)
    both = [
        placed(placed(meadow(size), portrait(300), 150, (-75 + index, 0)), portrait(300, mirrored=True), 110, (90, index / 2))
        for index in range(6)
    ]
    other = meadow(size, 7).point(lambda value: 255 - value)
    leaving = [placed(other, portrait(300), 150, (80 + 12 * index, 0)) for index in range(11)]
    return [*both, *leaving]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("faces") / "film.mp4", film(), sound=0.6)


def test_faces_are_followed_through_cuts_and_let_go(face_pipeline: Pipeline, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    settings = Settings(face="all", codec=LOSSLESS, paste="replace", mask="face")
    report = edit_video(face_pipeline, faces, out, "smile", 3.0, settings)
    assert (report.frames, report.faces, report.shots) == (17, 3, 2)
    assert 10 <= report.edited < 16  # not those of half a face
    changed = (pixels(out) != pixels(faces)).any(3)
    left, right = changed[:6, 50:120, 40:110], changed[:6, 50:110, 220:280]
    assert left.any((1, 2)).all() and right.any((1, 2)).all()
    assert not changed[:6, :, 150:170].any()  # between the two
    assert not changed[-1].any()


def test_a_run_killed_while_it_looks_for_faces_goes_on(
    face_pipeline: Pipeline, face_bundle: Path, faces: Path, tmp_path: Path, small_parts: None
) -> None:
    out, settings = tmp_path / "out.mp4", Settings(batch=3, face="all")
    edit_video(face_pipeline, faces, tmp_path / "whole.mp4", "smile", 2.0, settings)
    killed(face_bundle, faces, out, "Seen", 2)
    report = edit_video(face_pipeline, faces, out, "smile", 2.0, settings)
    assert report.resumed == 0
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sound_packets(out) == sound_packets(faces)


def test_one_face_of_several(face_pipeline: Pipeline, faces: Path, tmp_path: Path) -> None:
    short, out = write_clip(tmp_path / "short.mp4", film()[:3]), tmp_path / "out.mkv"
    report = edit_video(face_pipeline, short, out, "smile", 3.0, Settings(face=2, codec=LOSSLESS, mask="person"))
    changed = (pixels(out) != pixels(short)).any((0, 3))
    assert report.faces == 1
    assert changed[50:110, 220:280].any() and not changed[:, :150].any()
    with pytest.raises(ArgumentError, match="no face 3"):
        edit_video(face_pipeline, short, tmp_path / "other.mkv", "smile", settings=Settings(face=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mkv", "short.mp4"]  # nothing that could be continued


def test_a_clip_without_a_face_says_so(face_pipeline: Pipeline, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4", [meadow((64, 48))] * 3)
    with pytest.raises(PictureError, match=r"no face was found .* --aligned"):
        edit_video(face_pipeline, source, tmp_path / "out.mp4", "smile")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]  # the same call would end the same way
    assert edit_video(face_pipeline, source, tmp_path / "out.mp4", "smile", settings=Settings(aligned=True)).edited == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_the_command_prints_the_file_and_the_flicker(
    tiny_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ["video", str(clip), "--bundle", str(tiny_bundle), "--backend", "onnxruntime:threads=1"]
    assert main([*shared, "--edit", "smile:2", "--json", "numbers.json"]) == 0
    name, frames, flicker, json_name = capsys.readouterr().out.splitlines()
    assert (name, json_name) == ("clip.smile+2.mp4", "numbers.json")
    assert frames.startswith("25 of 25 frames edited")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert f"source {numbers['flicker'][0]:.2f}, result {numbers['flicker'][1]:.2f}" in flicker
    assert len(read_clip(tmp_path / name)[1]) == 25
    for wrong, words in (
        (["--edit", "smile", "--face", "all"], "--face is about faces"),
        (["--edit", "smile", "--keep", "background"], "--keep background is about faces"),
        (["--edit", "smile", "--codec", "xvid9"], "no video encoder"),
        (["--edit", "smile", "--quality", "99"], "--quality is 99"),
        (["--edit", "smile", "--smooth", "9"], "smoothing of landmarks"),
        ([], "at least one --edit"),
    ):
        assert main([*shared, *wrong]) == 2
        assert words in (error := capsys.readouterr().err) and "Traceback" not in error
    assert main(["video", "absent.mp4", "--edit", "smile"]) == 2
    assert "there is no video absent.mp4" in capsys.readouterr().err


def test_no_smoothing_is_possible(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    smooth = edit_video(pipeline, clip, tmp_path / "a.mkv", "smile", 2.0, Settings(paste="replace"))
    rough = edit_video(pipeline, clip, tmp_path / "b.mkv", "smile", 2.0, Settings(paste="replace", smoothing=Smoothing(0, 0)))
    assert smooth.flicker[1] < rough.flicker[1]
