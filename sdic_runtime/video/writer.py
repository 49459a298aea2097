"""Writing: parts of the video, each encoded by itself, and the whole made of them with the clip's sound and times."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from sdic_runtime.errors import BackendError, FileError, OutOfMemoryError, SdicError
from sdic_runtime.files import reason, remedy
from sdic_runtime.video.codecs import Output
from sdic_runtime.video.frames import Colours
from sdic_runtime.video.reader import Clip, library
from sdic_runtime.video.tracks import Timeline

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.packet import Packet

PART_FORMAT = "matroska"  # holds every codec; its milliseconds count frames and no times, see PART_RATE
# Errors that speak of the place and not of the video. EPERM is none: encoders mean anything by -1.
PLACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.EMFILE)
PART_RATE_LEAST, PART_RATE_MOST = 1, 240  # frames per second that encoders and PART_FORMAT's milliseconds can tell apart


class PartWriter:
    """Encodes frames to a part. The encoder sees frames at an even rate, so that quality does not depend on times; those come with the
    whole. `depth`: by how many frames packets are out of order."""

    def __init__(self, path: Path | BinaryIO, output: Output, rate: Fraction, size: tuple[int, int], colours: Colours) -> None:
        self.depth, self._packets, self._count = 0, 0, 0
        self._output = output
        self._step = 1 / part_rate(rate)
        try:
            self._file: OutputContainer = library().open(str(path) if isinstance(path, Path) else path, "w", format=PART_FORMAT)
            stream: Any = self._file.add_stream(output.codec, rate=part_rate(rate), options=dict(output.options))
            stream.width, stream.height, stream.pix_fmt = *size, output.pixel_format
            context = stream.codec_context
            context.time_base = self._step
            context.colorspace, context.color_range = colours.space, colours.range
            context.color_primaries, context.color_trc = colours.primaries, colours.transfer
            self._stream = stream
        except Exception as error:
            raise _failure(output, error) from error

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            with _closed(self._file):
                if kind is None:
                    self._mux(None)
        except SdicError:
            raise
        except Exception as problem:
            if kind is None:  # else what went wrong before is told
                raise _failure(self._output, problem) from problem

    def write(self, picture: av.VideoFrame) -> None:
        if picture.format.name != self._output.pixel_format:
            picture = picture.reformat(format=self._output.pixel_format)
        elif picture.pts is not None or picture.time_base is not None:
            picture = picture.reformat(format=picture.format.name)
        picture.pts, picture.time_base = self._count, self._step
        self._count += 1
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(picture):
                self.depth = max(self.depth, self._packets - _number(packet, self._step))
                self._packets += 1
                self._file.mux(packet)
        except Exception as error:
            raise _failure(self._output, error) from error


def check_encoder(output: Output, rate: Fraction, size: tuple[int, int], colours: Colours) -> None:
    """Raise BackendError where the encoder cannot work here, or not with such frames; before any work that would be lost."""
    with PartWriter(BytesIO(), output, rate, size, colours) as writer:
        writer.write(library().VideoFrame(*size, output.planes))


def part_rate(rate: Fraction) -> Fraction:
    return min(max(rate, Fraction(PART_RATE_LEAST)), Fraction(PART_RATE_MOST))


def _number(packet: Packet, step: Fraction) -> int:
    """Which frame of its part a packet is."""
    return round((packet.pts or 0) * packet.time_base / step)


def _failure(output: Output, error: Exception) -> Exception:
    """An encoder's error as one of ours."""
    if (known := _of_the_system(error)) is not None:
        return known
    why = (getattr(error, "strerror", None) or str(error)).lower()
    return BackendError(f"the encoder {output.codec} failed with these frames: {why}; choose another with --codec")


def _of_the_system(error: Exception) -> SdicError | None:
    """A lack of memory or room, or a place that cannot be written to, as one of ours; None for what FFmpeg says of the video."""
    if isinstance(error, MemoryError):
        return OutOfMemoryError("not enough memory to write the video; use a smaller batch, or make the video smaller")
    if isinstance(error, OSError) and error.errno in PLACE_ERRORS:
        return FileError(f"cannot write the video: {reason(error)}; {remedy(error)}")
    return None


@contextmanager
def _closed(file: OutputContainer) -> Iterator[OutputContainer]:
    """An open file that is closed at the end, which writes what is left. What went wrong before that is told, and not what closing said."""
    try:
        yield file
    except BaseException:
        with suppress(Exception):
            file.close()
        raise
    file.close()


@dataclass(frozen=True)
class Part:
    """A finished part: frames [first, end) of the clip."""

    path: Path
    first: int
    end: int
    depth: int


def join(parts: Sequence[Part], timeline: Timeline, clip: Clip, output: Output, target: Path) -> None:
    """Write the whole: the parts with the clip's times, its sound as it is, and its words about itself. Raises SdicError."""
    av = library()
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(av.open(str(parts[0].path)))
            source = stack.enter_context(clip.opened())
            options = dict(output.container.options)
            whole = stack.enter_context(_closed(av.open(str(target), "w", format=output.container.muxer, options=options)))
            stream = whole.add_stream_from_template(opened.streams.video[0], opaque=True)
            stream.time_base = clip.time_base
            if opened.streams.video[0].codec_context.codec.canonical_name == "hevc" and output.container.muxer in ("mp4", "mov"):
                stream.codec_context.codec_tag = "hvc1"  # with headers outside of the frames: Apple's players show no other kind
            sounds = {index: whole.add_stream_from_template(source.streams[index], opaque=True) for index, _ in clip.sounds}
            for index, sound in sounds.items():
                sound.metadata.update({key: value for key, value in source.streams[index].metadata.items() if key == "language"})
            whole.metadata.update(clip.metadata)
            pictures = _pictures(parts, timeline, clip, stream, opened.streams.video[0].codec_context.extradata)
            for _, _, packet in heapq.merge(pictures, _sound(source, sounds, clip.origin), key=lambda one: one[:2]):
                whole.mux(packet)
    except SdicError:
        raise
    except (av.error.FFmpegError, MemoryError, ValueError) as error:
        known = _of_the_system(error)
        raise known or FileError(f"cannot put {target} together: {error}; choose another kind of file with --out") from error


Timed = tuple[Fraction, int, Any]  # when a packet is decoded, its stream, and the packet


def _pictures(parts: Sequence[Part], timeline: Timeline, clip: Clip, stream: Any, header: bytes | None) -> Iterator[Timed]:
    """The video's packets. A packet is decoded `depth` frames before the one in its place is shown."""
    ticks, depth = timeline.ticks, max(part.depth for part in parts)
    step = min((after - before for before, after in pairwise(ticks)), default=1)
    frame_step, number = 1 / part_rate(clip.rate), 0
    for part in parts:
        with library().open(str(part.path)) as source:
            if source.streams.video[0].codec_context.extradata != header:
                raise FileError(f"the parts of the video in {part.path.parent} do not fit together; remove that folder and start again")
            for packet in source.demux(source.streams.video[0]):
                if not packet.size:
                    continue
                index = part.first + _number(packet, frame_step)
                before = number - depth
                packet.pts = ticks[index]
                packet.dts = ticks[before] if before >= 0 else ticks[0] + before * step
                if number + 1 < len(ticks):
                    packet.duration = ticks[index + 1] - ticks[index] if index + 1 < len(ticks) else step
                else:  # so long that the whole ends with the last frame, which need not be this one
                    packet.duration = max(ticks[-1] + (timeline.durations[-1] or step) - depth * step - packet.dts, 1)
                packet.time_base, packet.stream = clip.time_base, stream
                number += 1
                yield packet.dts * clip.time_base, -1, packet


def _sound(source: Any, streams: dict[int, Any], origin: Fraction) -> Iterator[Timed]:
    """The sound's packets as they are, in order of time."""
    if not streams:
        return
    last = Fraction(0)
    for packet in source.demux([source.streams[index] for index in streams]):
        if not packet.size:
            continue
        shift, index = round(origin / packet.time_base), packet.stream_index
        packet.pts = packet.pts - shift if packet.pts is not None else None
        packet.dts = packet.dts - shift if packet.dts is not None else packet.pts
        last = max(last, packet.dts * packet.time_base if packet.dts is not None else last)
        packet.stream = streams[index]
        yield last, index, packet
