"""Clips made for the tests: a photograph with a face that moves, a tone, and what can be odd about a video."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

SIZE = 192, 160
SOUND_RATE = 48000


@cache
def portrait(side: int = 176, mirrored: bool = False) -> Image.Image:
    """scikit-image's `astronaut`, her head and shoulders."""
    from skimage import data

    image = Image.fromarray(data.astronaut()).crop((60, 0, 380, 320)).resize((side, side), Image.Resampling.LANCZOS)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


@cache
def meadow(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A background without a face: soft green noise."""
    small = np.random.default_rng(seed).integers(60, 150, (9, 12, 3)).astype(np.uint8)
    small[..., 1] //= 2
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def moving(frames: int, size: tuple[int, int] = SIZE, side: int = 150, amount: float = 6.0, rate: float = 25) -> Iterator[Image.Image]:
    """The portrait on a meadow, swaying by `amount` pixels and nodding by two degrees, once in a second."""
    for index in range(frames):
        phase = 2 * math.pi * index / rate
        away = amount * math.sin(phase), amount / 3 * math.cos(phase)
        yield placed(meadow(size), portrait(2 * side), side, away, math.radians(2) * math.sin(phase))


def placed(scene: Image.Image, picture: Image.Image, side: float, away: tuple[float, float], angle: float = 0.0) -> Image.Image:
    """`scene` with a square picture of `side` pixels, turned, its middle `away` from the scene's; placed to fractions of a pixel."""
    finer = picture.width / side
    cosine, sine = math.cos(angle) * finer, math.sin(angle) * finer
    x, y = scene.width / 2 + away[0], scene.height / 2 + away[1]
    matrix = (cosine, sine, picture.width / 2 - cosine * x - sine * y, -sine, cosine, picture.height / 2 + sine * x - cosine * y)
    moved, mask = (
        part.transform(scene.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        for part in (picture, Image.new("L", picture.size, 255))
    )
    return Image.composite(moved, scene, mask)


def tone(seconds: float, channels: int = 1) -> np.ndarray:
    """A sine of 440 Hz, float32 [channels, N]."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE)
    return np.repeat(wave.astype(np.float32)[None], channels, 0)


def write_clip(
    path: Path,
    pictures: Sequence[Image.Image] | Iterator[Image.Image],
    *,
    rate: int | Fraction = 25,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sound: float | None = None,
    sound_codec: str = "aac",
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write `pictures` as a video; `ticks` are their times in `time_base`, even ones when None; `sound`: seconds of a tone."""
    pictures = list(pictures)
    base = time_base or 1 / Fraction(rate)
    quality = {"crf": "12", "preset": "ultrafast", "bf": "2"} if codec == "libx264" else {}
    with av.open(str(path), "w") as file:
        file.metadata.update(metadata or {})
        stream: Any = file.add_stream(codec, rate=rate, options=quality if options is None else options)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, pixel_format
        stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV writes no rotations")
            stream.set_display_rotation(rotation)
        audio: Any = file.add_stream(sound_codec, rate=SOUND_RATE, layout="mono") if sound else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = (ticks[index] if ticks is not None else index), base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if audio is not None:
            samples = tone(sound or 0)
            for start in range(0, samples.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
                file.mux(audio.encode(part))
            file.mux(audio.encode(None))
    return path


def read_clip(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """When each frame is shown, and its pixels, uint8 [H, W, 3]."""
    times, pictures = [], []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            times.append(frame.pts * frame.time_base)
            pictures.append(frame.to_ndarray(format="rgb24"))
    return times, pictures


def sound_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """Each packet of sound: when, and its bytes."""
    with av.open(str(path)) as file:
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in file.demux(audio=0) if packet.size]
