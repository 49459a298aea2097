"""A clip's frames one by one: upright, with square pixels, in 8-bit planes, with their times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.errors import FileError, MissingExtraError, OutOfMemoryError, PictureError
from sdic_runtime.files import reason
from sdic_runtime.pictures import PIXEL_LIMIT
from sdic_runtime.video.frames import PLANES, Colours, Turn, frame_of, planes_of

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from PIL.Image import Image

# Demuxers that open no other file and no address.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,nut,gif,apng,webp,ivf,h264,hevc,m4v,y4m,yuv4mpegpipe,dv,wav"
KNOWN = ".mp4, .mov, .mkv, .webm, .avi, .ts, .flv, .ogv, .wmv, .gif or .apng"
USUAL_RATE = Fraction(25)
FASTEST = 1000  # frames per second; above it a stream's word is no rate
MISSING = 0.1  # of the clip: a file that ends earlier than it says by more lacks its end
WHOLE_PLANES = {"yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p", **{name: name for name in PLANES}}
ALPHA_FREE = "yuv420p"


def library() -> Any:
    """PyAV. Raises MissingExtraError."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder speaks on standard error otherwise
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError("av", "video", "video") from None
    return av


def checked(path: Path) -> Path:
    """The path, when there is a file that can be read and is not empty. Raises FileError or PictureError."""
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder; name a video in it")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise PictureError(f"{path} is empty (0 bytes); get the video again")
    except FileNotFoundError:
        raise FileError(f"there is no video {path}; check the path") from None
    except (FileError, PictureError):
        raise
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise FileError(f"cannot read the video {str(path)!r}: {why}") from error
    return path


@dataclass(frozen=True, eq=False)
class Frame:
    """`picture`: upright planes that nobody may write to. `ticks`: when it is shown, `duration`: for how long (0: unknown), both in the
    clip's time base from the clip's start."""

    index: int
    ticks: int
    duration: int
    picture: av.VideoFrame
    colours: Colours

    @cached_property
    def image(self) -> Image:
        """The same as an RGB picture."""
        return self.colours.image(self.picture)


class Clip:
    """A file with a video stream: what it says about itself; `frames` reads it from the start, as often as wanted."""

    def __init__(self, path: str | os.PathLike[str], say: Callable[[str], None] = lambda text: None) -> None:
        """`say` is told, once each, what about the file is worth a word. Raises FileError or PictureError."""
        self.path = Path(path)
        self._say, self._said = say, set[str]()
        with self._opened() as source:
            stream = source.streams.video[0]
            self.time_base: Fraction = stream.time_base or Fraction(1, 90000)
            self.origin = max(Fraction(source.start_time or 0, 1_000_000), Fraction(0))
            rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
            self.rate = Fraction(rate).limit_denominator(1001) if 0 < rate <= FASTEST else USUAL_RATE
            length = stream.duration * self.time_base if stream.duration else Fraction(source.duration or 0, 1_000_000)
            self.seconds = float(length)
            self.expected = stream.frames or round(length * self.rate)  # frames, as far as the file says; 0: it does not
            # FFmpeg may have no decoder for a track, and then it can hardly be copied either.
            known = [sound for sound in source.streams.audio if sound.codec_context is not None]
            self.sounds = [(sound.index, str(sound.codec_context.name)) for sound in known]
            unknown = len(source.streams.audio) - len(known)
            others = len(source.streams) - len(source.streams.audio) - 1
            self.metadata = dict(source.metadata)
            first = next(self._decoded(source), None)
        if first is None:
            raise PictureError(f"{self.path} holds no frame that can be decoded; get the video again")
        self._describe(first, stream.sample_aspect_ratio)
        if unknown:
            self.note(f"{self.path} has {unknown} sound track(s) that this FFmpeg cannot decode; they are omitted")
        if others > 0:
            self.note(f"{self.path} has {others} stream(s) that are neither its video nor sound; they are omitted")

    def _describe(self, first: av.VideoFrame, aspect: Fraction | None) -> None:
        self.turn = Turn.of(first)
        pixel = Fraction(aspect or 1)
        wide, high = max(pixel, Fraction(1)), max(1 / pixel, Fraction(1)) if pixel else Fraction(1)
        self._stored = max(round(first.width * wide), 1), max(round(first.height * high), 1)
        self.size = self._stored[::-1] if self.turn.transposed else self._stored
        if self.size[0] * self.size[1] > PIXEL_LIMIT:
            raise PictureError(f"{self.path} has {self.size[0]} x {self.size[1]} pixels; make the video smaller")
        kind = first.format
        self.transparent = any(component.is_alpha for component in kind.components) or kind.has_palette
        self.colours = Colours.of(first)
        wanted = WHOLE_PLANES.get(kind.name, ALPHA_FREE)
        self.wanted = "yuv444p" if self.turn.transposed and wanted == "yuv422p" else wanted
        if self._stored != (first.width, first.height):
            self.note(f"{self.path} has pixels that are not square; the result has square ones, {self.size[0]} x {self.size[1]}")
        if any(component.bits > 8 for component in kind.components):
            self.note(f"{self.path} has more than 8 bits per channel ({kind.name}); the result has 8")
        if first.interlaced_frame:
            self.note(f"{self.path} is interlaced; deinterlace it first for clean edges")

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """The file, for its packets."""
        with self._opened() as source:
            yield source

    @contextmanager
    def _opened(self) -> Iterator[InputContainer]:
        av = library()
        checked(self.path)
        allowed = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        try:
            source = av.open(f"file:{os.fspath(self.path.absolute())}", options=allowed)
        except (av.error.FFmpegError, ValueError) as error:
            raise PictureError(f"{self.path} is not a video this program can read, or damaged; use {KNOWN}") from error
        with source:
            if not source.streams.video or source.streams.video[0].codec_context is None:
                raise PictureError(f"{self.path} has no video stream that can be decoded; use {KNOWN}")
            yield source

    def _decoded(self, source: InputContainer) -> Iterator[av.VideoFrame]:
        """The decoder's frames. A packet that cannot be decoded is omitted, with a word about it."""
        av = library()
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        packets = source.demux(stream)
        seen = 0
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                return
            except MemoryError as error:
                raise OutOfMemoryError(f"not enough memory to decode {self.path}; make the video smaller") from error
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                if not seen and not isinstance(error, av.error.InvalidDataError):
                    raise PictureError(f"{self.path} cannot be decoded: {error.strerror}; get the video again") from error
                self.note(f"{self.path} is damaged; what cannot be decoded is omitted")
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self.note(f"{self.path} is damaged; some frames are only partly there")
                seen += 1
                yield frame

    def frames(self, pixel_format: str | None = None) -> Iterator[Frame]:
        """All frames in order of their times, upright, as `pixel_format` (one of `frames.PLANES`; the clip's own when None)."""
        kind = pixel_format or self.wanted
        shift, last, end = round(self.origin / self.time_base), None, 0
        step = max(round(1 / self.rate / self.time_base), 1)
        with self._opened() as source:
            for index, decoded in enumerate(self._decoded(source)):
                ticks = decoded.pts - shift if decoded.pts is not None else (last + step if last is not None else 0)
                if last is not None and ticks <= last:
                    self.note(f"{self.path} has frames whose times do not grow; they are shown one after the other")
                    ticks = last + 1
                last, end = ticks, ticks + (decoded.duration or step)
                yield Frame(index, ticks, decoded.duration or 0, self._upright(decoded, kind), self.colours)
        if self.seconds and end * self.time_base < self.seconds * (1 - MISSING):
            self.note(f"{self.path} says {self.seconds:.1f} s and has frames for {float(end * self.time_base):.1f} s; its end is missing")

    def _upright(self, decoded: av.VideoFrame, kind: str) -> av.VideoFrame:
        if self.transparent:
            decoded = self._on_white(decoded)
        picture = self.colours.planar(decoded, kind, self._stored)
        if not self.turn:
            return picture
        return frame_of([self.turn(plane) for plane in planes_of(picture)], kind, self.colours)

    def _on_white(self, decoded: av.VideoFrame) -> av.VideoFrame:
        pixels = decoded.to_ndarray(format="rgba").astype(np.uint16)
        alpha = pixels[..., 3:]
        white = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return library().VideoFrame.from_ndarray(white.astype(np.uint8), format="rgb24")
