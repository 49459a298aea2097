"""Frames' planes, cuts, smoothing, tracks: the parts of the room by themselves."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import meadow, moving, portrait, write_clip
from PIL import Image

from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError
from sdic_runtime.video import Smoothing
from sdic_runtime.video.codecs import CONTAINERS, ENCODERS, output_of
from sdic_runtime.video.cuts import marked
from sdic_runtime.video.faces import Sighting
from sdic_runtime.video.flicker import Meter
from sdic_runtime.video.frames import PLANES, Colours, planes_of
from sdic_runtime.video.reader import Clip
from sdic_runtime.video.smoothing import smoothed, weights
from sdic_runtime.video.tracks import Timeline, Track, WholeFrames, chosen, ranks, tracks_of
from sdic_runtime.video.writer import Part, PartWriter, join

COLOURS = Colours(1, 1, 1, 1, 1)


@pytest.mark.parametrize("kind", PLANES)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_only_what_changed_is_converted(kind: str, size: tuple[int, int]) -> None:
    picture = av.VideoFrame.from_image(portrait().resize(size)).reformat(format=kind)
    before = COLOURS.image(picture)
    after = before.copy()
    after.paste((255, 0, 0), (size[0] - 9, 11, size[0], 20))
    originals = [plane.copy() for plane in planes_of(picture)]
    made = COLOURS.changed(picture, before, after)
    assert all(np.array_equal(plane, old) for plane, old in zip(planes_of(picture), originals, strict=True))
    bright, old = planes_of(made)[0], originals[0]
    changed = bright != old
    assert changed[12:19, -8:].all()
    changed[11:20, -9:] = False
    assert not changed.any()
    across, down = PLANES[kind]
    for plane, old in zip(planes_of(made)[1:], originals[1:], strict=True):
        different = plane != old
        assert different.any()
        different[11 // down : -(-20 // down), (size[0] - 9) // across :] = False
        assert not different.any()
    shown = np.asarray(COLOURS.image(made), np.int16)[13:18, -6:-1]
    assert np.abs(shown - [255, 0, 0]).max() < 12


def test_nothing_changed_is_the_frame_itself() -> None:
    picture = av.VideoFrame.from_image(portrait(64)).reformat(format="yuv420p")
    image = COLOURS.image(picture)
    assert COLOURS.changed(picture, image, image.copy()) is picture


def cuts_in(tmp_path: Path, pictures: Sequence[Image.Image]) -> list[int]:
    clip = Clip(write_clip(tmp_path / "clip.mp4", pictures))
    return [frame.index for frame, begins in marked(clip.frames()) if begins]


def test_cuts_are_found_and_flashes_and_pans_are_none(tmp_path: Path) -> None:
    one, other = list(moving(20, (64, 48), 44, 4)), [meadow((64, 48), seed).point(lambda value: 255 - value) for seed in range(3)]
    assert cuts_in(tmp_path, [*one, *[other[0]] * 8, *one[:6]]) == [0, 20, 28]
    flash = one[9].point(lambda value: min(255, value * 2 + 90))
    assert cuts_in(tmp_path, [*one[:9], flash, *one[10:]]) == [0]
    wide = meadow((640, 48), 5)
    assert cuts_in(tmp_path, [wide.crop((index * 30, 0, index * 30 + 64, 48)) for index in range(19)]) == [0]
    assert cuts_in(tmp_path, [one[0]]) == [0]


def test_smoothing_keeps_an_even_acceleration_and_takes_noise_away() -> None:
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.01, 0.08, 80))  # a variable frame rate
    motion = np.stack([5 + 30 * times - 12 * times**2, np.zeros(80)], 1)
    np.testing.assert_allclose(smoothed(times, motion, 0.1), motion, atol=1e-6)
    noisy = motion + random.normal(0, 1, motion.shape)
    rest = smoothed(times, noisy, 0.1) - motion
    assert rest.std() < 0.65
    assert np.array_equal(smoothed(times, noisy, 0), noisy)
    assert smoothed(times[:3], noisy[:3], 0.1).shape == (3, 2)


def test_smoothing_does_not_blow_up_where_frames_are_far_apart() -> None:
    times = np.array([0, 0.04, 5, 9, 20, 20.04, 20.08])
    values = np.array([1.0, 2, 3, 4, 5, 6, 5])
    assert np.abs(smoothed(times, values, 0.1) - values).max() < 1


def test_weights_are_a_mean_and_bad_smoothing_is_refused() -> None:
    share = weights(np.array([0, 0.04, 0.2]), 0.04, 0.04)
    assert share.sum() == pytest.approx(1) and share.argmax() == 1 and share[2] < 0.001
    for value in (-1, 3, float("nan")):
        with pytest.raises(ArgumentError, match="smoothing of codes"):
            Smoothing(codes=value)


def line(frames: int, rate: int = 25, cuts: Sequence[int] = (0,)) -> Timeline:
    timeline = Timeline(Fraction(1, rate))
    for index in range(frames):
        timeline.add(index, 1, index in cuts)
    return timeline


def sighting(track: int, x: float, eyes: float = 20) -> Sighting:
    points = np.tile([x, 100.0], (40, 1)) + np.random.default_rng(1).normal(0, 0.01, (40, 2))
    points[:4] += [[-eyes / 2, 0], [eyes / 2, 0], [0, eyes], [0, eyes / 2]]
    return Sighting(track, points, 1.0)


def test_a_face_that_is_lost_for_a_moment_is_one_track_and_a_short_one_is_none() -> None:
    timeline = line(60, cuts=(0, 40))
    seen = [(index, sighting(0, 50 + index)) for index in range(20)]
    seen += [(index, sighting(1, 50 + index)) for index in range(24, 40)]  # found again four frames later
    seen += [(index, sighting(2, 300)) for index in range(30, 33)]
    seen += [(index, sighting(3, 90)) for index in range(40, 60)]  # after a cut at the same place
    tracks = tracks_of(sorted(seen, key=lambda one: one[0]), timeline, 0.1)
    assert [(track.first, track.end) for track in tracks] == [(0, 40), (40, 60)]
    assert tracks[0].points[22, 2, 0] == pytest.approx(72, abs=0.5)
    assert tracks[0].weights.min() == tracks[1].weights.min() == 1  # what begins and ends with its shot does not fade


def test_an_edit_fades_with_a_face_that_enters_or_leaves() -> None:
    seen = [(index, sighting(0, 50)) for index in range(10, 40)]
    (track,) = tracks_of(seen, line(60), 0.1)
    assert 0 < track.weights[0] < track.weights[2] < track.weights[6] == 1 == track.weights[15]
    assert 0 < track.weights[-1] < 0.3


def track(first: int, end: int, eyes: float) -> Track:
    return Track(first, np.stack([sighting(0, 0, eyes).points] * (end - first)), np.ones(end - first))


def test_faces_are_ranked_among_those_seen_at_once() -> None:
    tracks = [track(0, 50, 20), track(0, 30, 40), track(60, 90, 10), track(0, 50, 20)]
    assert ranks(tracks) == [2, 1, 1, 3]
    assert chosen(tracks, "all") == [0, 1, 2, 3]
    assert chosen(tracks, "largest") == chosen(tracks, 1) == [1, 2]
    assert chosen(tracks, 3) == [3]
    with pytest.raises(ArgumentError, match="no face 4 .* at most 3"):
        chosen(tracks, 4)


def test_whole_frames_are_taken_from_the_middle() -> None:
    (place,) = WholeFrames((200, 100), (0, 1), [0])(0)
    np.testing.assert_allclose(place.square.corners[[0, 2]], [[50, 0], [150, 100]])
    (place,) = WholeFrames((200, 100), (0.25, 0.75), [0])(0)  # what a person sees of the model's square is twice as wide as high
    np.testing.assert_allclose(place.square.corners[[0, 2]], [[0, -50], [200, 150]])


def test_flicker_is_what_jumps_to_and_fro() -> None:
    places, size = WholeFrames((128, 128), (0, 1), [0] * 9), (128, 128)

    def measured(values: Sequence[int]) -> float | None:
        meter = Meter()
        for index, value in enumerate(values):
            (place,) = places(index)
            gray = Image.new("RGB", size, (100 + 2 * (-1) ** index,) * 3)
            meter.add(index, place, gray, Image.new("RGB", size, (value,) * 3))
        assert meter.sums.count == len(values) - 2
        assert meter.sums.means[0] == pytest.approx(8, abs=0.01)
        return meter.sums.ratio

    assert measured([50, 60, 70, 80, 90]) == pytest.approx(0, abs=0.01)  # an even change is none
    assert measured([100, 104, 100, 104, 100]) == pytest.approx(1, abs=0.01)


REFUSED = {
    "kind": ({"path": "out.txt"}, FileError, "no kind of video"),
    "codec": ({"codec": "h265x"}, ArgumentError, 'no video encoder "h265x" .* try libx264'),
    "sound as a codec": ({"codec": "aac"}, ArgumentError, "no video encoder"),
    "codec in container": ({"path": "out.webm", "codec": "libx264"}, ArgumentError, "cannot hold libx264"),
    "sound in container": ({"path": "out.webm", "sounds": ["aac"]}, FileError, r"sound \(aac\).*use .mp4"),
    "quality": ({"quality": 70}, ArgumentError, r"0 \(best\) to 51"),
    "no quality": ({"path": "out.mkv", "codec": "ffv1", "quality": 3}, ArgumentError, "no --quality"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused(what: str) -> None:
    changes, kind, words = REFUSED[what]
    given = {"path": "out.mp4", "codec": None, "quality": None, "wanted": "yuv420p", "size": (64, 48), "sounds": [], **changes}
    with pytest.raises(kind, match=words):
        output_of(Path(given.pop("path")), *given.values())


CHOICES = [
    ("clip.mp4", None), ("clip.mov", "libx265"), ("clip.mp4", "libx265"), ("clip.m4v", "libx265"), ("clip.webm", None),
    ("clip.mkv", "libsvtav1"), ("clip.mkv", "ffv1"), ("clip.mp4", "mpeg4"), ("clip.mkv", "prores_ks"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), CHOICES)
def test_every_encoder_keeps_frames_and_their_times(tmp_path: Path, name: str, codec: str | None) -> None:
    ticks = [0, 1, 2, 5, 6, 9, 10, 11, 12, 20]
    source = write_clip(
        tmp_path / "source.mkv", moving(10, (64, 64), 60, 2), ticks=ticks, time_base=Fraction(1, 25), metadata={"title": "a"}
    )
    clip, timeline = Clip(source), Timeline(Fraction(1, 25))
    output = output_of(tmp_path / name, codec, None, clip.wanted, clip.size, [])
    frames = list(clip.frames(output.planes))
    timeline = Timeline(clip.time_base)
    for frame in frames:
        timeline.add(frame.ticks, frame.duration, not frame.index)
    parts = []
    for first, end in ((0, 4), (4, 10)):
        with PartWriter(tmp_path / f"{first}.mkv", output, clip.rate, clip.size, clip.colours) as writer:
            for frame in frames[first:end]:
                writer.write(frame.picture)
        parts.append(Part(tmp_path / f"{first}.mkv", first, end, writer.depth))
    join(parts, timeline, clip, output, tmp_path / name)
    if codec == "libx265":
        assert b"hvc1" in (tmp_path / name).read_bytes()  # Apple's players show no other kind
    result = Clip(tmp_path / name)
    read = list(result.frames())
    assert [float(frame.ticks * result.time_base) for frame in read] == pytest.approx([tick / 25 for tick in ticks], abs=1e-3)
    for frame, old in zip(read, frames, strict=True):
        assert np.abs(np.asarray(frame.image, np.int16) - np.asarray(old.image)).mean() < (0.01 if codec == "ffv1" else 6)
    assert result.metadata.get("title", result.metadata.get("TITLE")) == "a"


class FullDisk(io.BytesIO):
    """A file that takes `room` bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, content: Any) -> int:
        if self.tell() + len(content) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


@pytest.mark.parametrize("codec", ["mpeg4", "ffv1"])
def test_a_part_on_a_full_disk_is_a_sentence(codec: str) -> None:
    output = output_of(Path("out.mkv"), codec, None, "yuv420p", (64, 64), [])
    picture = av.VideoFrame.from_image(portrait(64)).reformat(format="yuv420p")

    def write(disk: FullDisk) -> int:
        with PartWriter(disk, output, Fraction(25), (64, 64), COLOURS) as writer:
            for _ in range(4):
                writer.write(picture)
        return len(disk.getvalue())

    size = write(FullDisk(1 << 30))
    for room in (0, 400, size // 2, size - 1):  # the last fails while it is closed
        with pytest.raises(FileError, match="no space left on device; make room"):
            write(FullDisk(room))
    with pytest.raises(KeyboardInterrupt), PartWriter(FullDisk(0), output, Fraction(25), (64, 64), COLOURS):
        raise KeyboardInterrupt  # what went wrong first is told


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'"av".*sdic-toolkit\[video\]'):
        Clip(tmp_path / "clip.mp4")


def test_odd_sizes_are_kept() -> None:
    output = output_of(Path("out.mp4"), None, None, "yuv420p", (63, 48), [])
    assert output.planes == output.pixel_format == "yuv444p"
    assert set(ENCODERS) >= {container.codec for container in CONTAINERS.values()}
