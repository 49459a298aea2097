"""What a result can be written as: containers, video encoders, and how good."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.video.frames import PLANES
from sdic_runtime.video.reader import library


@dataclass(frozen=True)
class Container:
    """A kind of file: FFmpeg's name for it, the encoder that is taken when none is named, and options for writing."""

    muxer: str
    codec: str
    options: tuple[tuple[str, str], ...] = ()


EXACT = (("fflags", "+bitexact"),)  # no random numbers in the file
MP4 = (*EXACT, ("movflags", "+faststart"))  # plays while it is loaded
CONTAINERS = {
    ".mp4": Container("mp4", "libx264", MP4),
    ".m4v": Container("mp4", "libx264", MP4),
    ".mov": Container("mov", "libx264", MP4),
    ".mkv": Container("matroska", "libx264", EXACT),
    ".webm": Container("webm", "libvpx-vp9", EXACT),
}


@dataclass(frozen=True)
class Encoder:
    """An encoder's own scale of quality: the options that are set to it, the best and the worst value, and the one that is taken when none
    is given; further options. `even`: it needs even sizes where colour has half the pixels."""

    scale: tuple[str, ...] = ()
    best: int = 0
    worst: int = 0
    usual: int = 0
    options: tuple[tuple[str, str], ...] = ()
    even: bool = False


X26X = (("preset", "medium"),)
SAME = ("x264-params", "asm=avx2")  # with AVX-512, x264 (165) does not give the same bits every time: seen for 320 x 160 and smaller frames
ENCODERS = {
    "libx264": Encoder(("crf",), 0, 51, 18, (*X26X, SAME), even=True),
    "libx265": Encoder(("crf",), 0, 51, 20, (*X26X, ("x265-params", "log-level=error")), even=True),
    "libvpx-vp9": Encoder(("crf",), 0, 63, 24, (("b", "0"), ("row-mt", "1"), ("deadline", "good"), ("cpu-used", "3"))),
    "libsvtav1": Encoder(("crf",), 0, 63, 26, (("preset", "8"),), even=True),
    "libopenh264": Encoder(even=True),
    "h264_nvenc": Encoder(("cq",), 0, 51, 19, even=True),
    "hevc_nvenc": Encoder(("cq",), 0, 51, 21, even=True),
    "mpeg4": Encoder(("qmin", "qmax"), 1, 31, 2),
    "ffv1": Encoder(),
}


@dataclass(frozen=True)
class Output:
    """How a result is written: all checked."""

    container: Container
    codec: str
    pixel_format: str  # what the encoder is given
    planes: str  # what frames are edited in, one of `frames.PLANES`
    options: tuple[tuple[str, str], ...]


def output_of(path: Path, codec: str | None, quality: int | None, wanted: str, size: tuple[int, int], sounds: Sequence[str]) -> Output:
    """How `path` is written for frames of `size` whose own pixel format is `wanted`, with the clip's `sounds` (their codecs). Raises
    FileError or ArgumentError."""
    container = CONTAINERS.get(path.suffix.lower())
    if container is None:
        raise FileError(f'cannot write {path}: "{path.suffix}" is no kind of video that can be written; use {", ".join(CONTAINERS)}')
    name, known = _encoder(codec or container.codec)
    held = _held(container)
    if held and known.canonical_name not in held:
        raise ArgumentError(f"a {path.suffix} file cannot hold {codec}; use another --codec, or {_instead(known.canonical_name, path)}")
    silent = next((sound for sound in sounds if held and _canonical(sound) not in held), None)
    if silent is not None:
        raise FileError(f"a {path.suffix} file cannot hold the video's sound ({silent}), which is copied; use {_instead(silent, path)}")
    encoder = ENCODERS.get(name, Encoder())
    planes, pixel_format = _formats(known, wanted, encoder.even and any(length % 2 for length in size))
    return Output(container, name, pixel_format, planes, (*encoder.options, *_quality(name, encoder, quality)))


def _encoder(name: str) -> tuple[str, Any]:
    av = library()
    try:
        known = av.codec.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        known = None
    if known is None or known.type != "video":
        there = [each for each in ENCODERS if _is_there(each)]
        raise ArgumentError(f'there is no video encoder "{name}" in this FFmpeg; try {", ".join(there)}')
    return str(known.name), known


def _is_there(name: str) -> bool:
    av = library()
    try:
        return av.codec.Codec(name, "w") is not None
    except (av.error.FFmpegError, ValueError):
        return False


def _canonical(codec: str) -> str:
    """The codec's name, whoever decodes it."""
    av = library()
    try:
        return str(av.codec.Codec(codec, "r").canonical_name)
    except (av.error.FFmpegError, ValueError, AttributeError):
        return codec


def _held(container: Container) -> set[str]:
    """The codecs that a container can hold."""
    av = library()
    with av.open(io.BytesIO(), "w", format=container.muxer) as probe:
        return set(probe.supported_codecs)


def _instead(codec: str, path: Path) -> str:
    """The endings of files that can hold `codec`."""
    fitting = [suffix for suffix, each in CONTAINERS.items() if suffix != path.suffix.lower() and _canonical(codec) in _held(each)]
    return " or ".join(fitting) or "another video"


def _quality(name: str, encoder: Encoder, quality: int | None) -> tuple[tuple[str, str], ...]:
    if not encoder.scale:
        if quality is not None:
            raise ArgumentError(f"the encoder {name} takes no --quality here; omit it")
        return ()
    value = encoder.usual if quality is None else quality
    if not encoder.best <= value <= encoder.worst:
        raise ArgumentError(f"--quality is {value}; the scale of {name} goes from {encoder.best} (best) to {encoder.worst}")
    return tuple((option, str(value)) for option in encoder.scale)


def _formats(codec: Any, wanted: str, whole: bool) -> tuple[str, str]:
    """The planes that frames are edited in, and what the encoder is given; `whole`: every pixel needs a colour of its own."""
    offered = [kind.name for kind in codec.video_formats or ()]
    order = ["yuv444p", wanted] if whole else [wanted, "yuv420p", "yuv422p", "yuv444p"]
    for kind in order:
        if kind in offered:
            return kind, kind
    if not offered:
        raise ArgumentError(f"the encoder {codec.name} does not say what pixels it takes; use another --codec")
    return ("yuv444p" if whole else wanted if wanted in PLANES else "yuv420p"), offered[0]
