from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import meadow, moving, read_clip, tone, write_clip
from PIL import Image

from sdic_runtime.errors import FileError, PictureError
from sdic_runtime.video.reader import Clip


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return list(moving(4, (64, 48), 44, 2))


def same(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_clip_is_read_upright(tmp_path: Path, pictures: list[Image.Image], degrees: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", pictures, rotation=degrees)
    clip = Clip(path)
    shown = next(iter(clip.frames())).image
    with av.open(str(path)) as file:
        angle = next(file.decode(video=0)).rotation  # FFmpeg's own reading of the matrix, counter-clockwise
    assert angle % 180 == degrees % 180
    expected = pictures[0].rotate(angle, expand=True)
    assert clip.size == expected.size
    assert same(shown, expected) < 6 < same(shown, expected.rotate(180))


def test_a_mirrored_clip_is_read_as_it_is_shown(tmp_path: Path, pictures: list[Image.Image]) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        one = 1 << 16
        if not hasattr(stream, "set_display_matrix"):
            pytest.skip("this PyAV writes no rotations")
        stream.set_display_matrix([-one, 0, 0, 0, one, 0, 0, 0, 1 << 30])
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    shown = next(iter(Clip(path).frames())).image
    assert same(shown, pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 6


def test_pixels_that_are_not_square_become_square(tmp_path: Path, pictures: list[Image.Image]) -> None:
    said: list[str] = []
    clip = Clip(write_clip(tmp_path / "clip.mp4", pictures, aspect=Fraction(3, 2)), said.append)
    assert clip.size == (96, 48)
    assert next(iter(clip.frames())).image.size == (96, 48)
    assert "not square" in said[0]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_colours_come_back_whatever_the_planes(tmp_path: Path, pictures: list[Image.Image], pixel_format: str) -> None:
    said: list[str] = []
    clip = Clip(write_clip(tmp_path / "clip.mkv", pictures, codec="ffv1", pixel_format=pixel_format), said.append)
    frames = list(clip.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert max(same(frame.image, picture) for frame, picture in zip(frames, pictures, strict=True)) < 6
    assert frames[0].picture.format.name == pixel_format.removesuffix("10le")
    assert bool(said) == pixel_format.endswith("10le")


@pytest.mark.parametrize(("matrix", "space"), [(1, "bt709"), (6, "bt601")])
def test_colours_are_read_by_the_matrix_that_the_clip_names(tmp_path: Path, matrix: int, space: str) -> None:
    red = Image.new("RGB", (64, 48), (200, 40, 60))
    clip = Clip(write_clip(tmp_path / "plain.mp4", [red] * 2, tags={"colorspace": matrix, "color_range": 1}))
    frame = next(iter(clip.frames()))
    # The encoder was given BT.601 planes whatever the tag says; read as BT.709 they are another red.
    assert (same(frame.image, red) < 6) == (space == "bt601")
    assert clip.colours.space == matrix


def test_a_gif_is_read_with_its_times_and_on_white(tmp_path: Path) -> None:
    frames = []
    for index in range(3):
        frame = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
        frame.paste((200, 0, 0, 255), (5 + index, 5, 20 + index, 20))
        frames.append(frame)
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=[100, 200, 100], disposal=2)
    clip = Clip(tmp_path / "moving.gif")
    read = list(clip.frames())
    assert [frame.ticks * clip.time_base for frame in read] == [0, Fraction(1, 10), Fraction(3, 10)]
    assert read[0].image.getpixel((30, 25)) == pytest.approx((255, 255, 255), abs=3)


def test_an_apng_is_read(tmp_path: Path, pictures: list[Image.Image]) -> None:
    pictures[0].save(tmp_path / "moving.apng", "PNG", save_all=True, append_images=pictures[1:], duration=40)
    frames = list(Clip(tmp_path / "moving.apng").frames())
    assert len(frames) == 4
    assert same(frames[3].image, pictures[3]) < 6


def test_a_clip_that_starts_late_starts_at_zero(tmp_path: Path, pictures: list[Image.Image]) -> None:
    path = write_clip(tmp_path / "clip.ts", pictures, ticks=[50, 51, 53, 54])
    clip = Clip(path)
    with av.open(str(path)) as file:
        start = Fraction(file.start_time, 1_000_000)
    assert clip.origin == start > 1
    times = [float(frame.ticks * clip.time_base) for frame in clip.frames()]
    expected, _ = read_clip(path)
    assert times == pytest.approx([float(time - start) for time in expected], abs=1e-4)


def sound_only(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes((tone(0.1)[0] * 30000).astype("<i2").tobytes())


def playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://localhost/secret.ts\n#EXT-X-ENDLIST\n")


BAD = {
    "empty.mp4": (lambda path: path.write_bytes(b""), PictureError, "is empty"),
    "noise.mp4": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), PictureError, "not a video"),
    "sound.wav": (sound_only, PictureError, "no video stream"),
    "list.m3u8": (playlist, PictureError, "not a video"),
    "photo.png": (lambda path: meadow((40, 30)).save(path), PictureError, "not a video"),
    "folder.mp4": (lambda path: path.mkdir(), FileError, "folder"),
    "absent.mp4": (lambda path: None, FileError, "there is no video"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, kind, words = BAD[name]
    make(tmp_path / name)  # type: ignore[no-untyped-call]
    with pytest.raises(kind, match=words) as caught:
        Clip(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_clip_that_was_cut_off_says_what_is_missing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", moving(40, (64, 48), 44, 2), options={"movflags": "faststart", "crf": "10"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(content[: len(content) // 2])
    said: list[str] = []
    frames = list(Clip(tmp_path / "short.mp4", said.append).frames())
    assert 5 < len(frames) < 35
    assert any("its end is missing" in text for text in said)


def test_bytes_that_were_overwritten_are_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", moving(40, (64, 48), 44, 2))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 3000
    content[start : start + 2000] = np.random.default_rng(1).bytes(2000)
    path.write_bytes(content)
    said: list[str] = []
    assert len(list(Clip(path, said.append).frames())) > 5
    assert any("damaged" in text for text in said)


def test_a_sound_track_without_a_decoder_is_omitted_with_a_word(tmp_path: Path, pictures: list[Image.Image]) -> None:
    path = write_clip(tmp_path / "clip.mov", pictures, sound=0.2)
    assert [codec for _, codec in Clip(path).sounds] == ["aac"]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"mp4a", b"apac").replace(b"esds", b"dapa"))  # as a telephone writes spatial sound
    said: list[str] = []
    clip = Clip(path, said.append)
    assert clip.sounds == [] and len(list(clip.frames())) == 4
    assert said == [f"{path} has 1 sound track(s) that this FFmpeg cannot decode; they are omitted"]
