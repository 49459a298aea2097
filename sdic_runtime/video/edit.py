"""A clip in, the edited clip out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from sdic_runtime.edits import Edit, EditLike, as_edit, check_number, fingerprint
from sdic_runtime.errors import ArgumentError, FileError, PictureError, SdicError
from sdic_runtime.files import reason, remedy
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.progress import progress
from sdic_runtime.subjects import ALL, DIFFERENCE, FFHQ, LARGEST, REPLACE
from sdic_runtime.video.codecs import Output, output_of
from sdic_runtime.video.cuts import marked
from sdic_runtime.video.faces import Follower, Sighting, blocks
from sdic_runtime.video.flicker import Flicker, Meter
from sdic_runtime.video.journal import Done, Journal, Seen, work_of
from sdic_runtime.video.reader import Clip, Frame, library
from sdic_runtime.video.render import MASKS, SQUARE, Work, rendered
from sdic_runtime.video.smoothing import Smoothing
from sdic_runtime.video.tracks import Place, Places, Timeline, WholeFrames, chosen, tracks_of
from sdic_runtime.video.writer import Part, PartWriter, check_encoder, join

if TYPE_CHECKING:
    from PIL.Image import Image

PART_FRAMES = 48  # frames of a part: as much is done again after a kill
LARGEST_BATCH = 8  # frames that wait for one another when no batch is given; they are large
FORM = 1  # of the journal, and of all that decides about pixels


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Settings:
    """How a clip is edited.

    `face`: "largest", "all", or 1 for the largest of those seen at once, 2 for the next. `paste`: "difference" adds what the edit changed,
    "replace" puts the model's picture in place. `mask`: "square", "person" or "face"; see `Face.mask`. `keep`: an 8-bit picture of the
    frames' size, 255 where nothing may change. `aligned`: the frames are what the model takes already (always so where the bundle's
    pictures are not aligned faces): the largest middle part of each. `codec`: an encoder of FFmpeg; `quality`: on the encoder's own scale.
    `batch`: frames that are computed at once.
    """

    face: str | int = LARGEST
    paste: str = DIFFERENCE
    mask: str = SQUARE
    keep: Image | None = None
    aligned: bool = False
    codec: str | None = None
    quality: int | None = None
    smoothing: Smoothing = field(default_factory=Smoothing)
    batch: int | None = None

    def __post_init__(self) -> None:
        numbered = _is_whole(self.face) and int(self.face) >= 1
        if not numbered and self.face not in (ALL, LARGEST):
            raise ArgumentError(f"the face is {self.face!r}; give all, largest, or a number from 1 on")
        for name, known in (("paste", (DIFFERENCE, REPLACE)), ("mask", MASKS)):
            if getattr(self, name) not in known:
                raise ArgumentError(f"{name} is {getattr(self, name)!r}; use {' or '.join(known)}")
        if self.batch is not None and (not _is_whole(self.batch) or self.batch < 1):
            raise ArgumentError(f"batch is {self.batch!r}; give a whole number of at least 1")
        if self.quality is not None and not _is_whole(self.quality):
            raise ArgumentError(f"quality is {self.quality!r}; give a whole number on the encoder's own scale")
        if self.codec is not None and not isinstance(self.codec, str):
            raise ArgumentError(f"codec is {self.codec!r}; give the name of an encoder of FFmpeg")
        if self.keep is not None and not hasattr(self.keep, "convert"):
            raise ArgumentError(f"keep is {self.keep!r}; give a picture of Pillow's of the frames' size")
        if not isinstance(self.smoothing, Smoothing):
            raise ArgumentError(f"smoothing is {self.smoothing!r}; give a Smoothing")


@dataclass(frozen=True)
class Report:
    """What was done. `edited`: frames with an edit; `resumed`: frames that an earlier run had written; `flicker`: of the source and of the
    result, see `flicker.Flicker`, and `ratio`: the second over the first, None where the source does not change."""

    frames: int
    edited: int
    faces: int
    shots: int
    resumed: int
    flicker: tuple[float, float]
    ratio: float | None
    seconds: float


def edit_video(
    pipeline: Pipeline,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    edit: EditLike,
    strength: float = 1.0,
    settings: Settings | None = None,
    *,
    move: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Edit the faces of a video and write it, with its sound, to `out`, whose ending says the kind of file (.mp4, .mov, .mkv, .webm).

    `edit`, `strength` and `move` are those of `Pipeline.edit`. The video is read as a stream: memory does not grow with its length but for
    some hundred bytes per face and frame. A run that was killed is continued by the same call; its parts lie in a hidden folder beside
    `out` until then, and the result is the same. `say` is told what is worth a word. Raises SdicError.
    """
    run = _Run(pipeline, Path(source), Path(out), edit, strength, settings or Settings(), move, say)
    return run.run()


class _Run:
    """One call of `edit_video`."""

    def __init__(self, pipeline: Pipeline, source: Path, out: Path, edit: EditLike, strength: float, settings: Settings,
                 move: str | None, say: Callable[[str], None]) -> None:  # fmt: skip
        library()
        self.pipeline, self.out, self.settings, self.move, self.say = pipeline, out, settings, move, say
        self.edit: Edit = as_edit(edit, pipeline.directions)
        self.edit.check(pipeline.sizes)
        self.strength = check_number(strength, "the strength")
        if move is not None and move not in pipeline.moves:
            raise ArgumentError(f'move is "{move}"; the bundle has: {", ".join(pipeline.moves) or "none"}')
        if out.is_dir():
            raise FileError(f"cannot write {out}: it is a folder; name a file")
        if not out.parent.is_dir():
            raise FileError(f"cannot write {out}: there is no folder {out.parent}; make it first")
        self.clip = Clip(source, say)
        if out.exists() and out.samefile(source):
            raise ArgumentError(f"the result {out} is the video itself, which would be replaced; choose another name")
        sounds = [codec for _, codec in self.clip.sounds]
        self.output: Output = output_of(out, settings.codec, settings.quality, self.clip.wanted, self.clip.size, sounds)
        if any(length % 2 for length in self.clip.size) and self.output.pixel_format == "yuv444p" != self.clip.wanted:
            size = "{} x {}".format(*self.clip.size)
            say(
                f"{source} has an odd size, {size}, for which {self.output.codec} needs every pixel's own colour (4:4:4), and most "
                "telephones do not play that; crop the video to even sizes before, or write a .webm"
            )
        if settings.keep is not None and settings.keep.size != self.clip.size:
            found, needed = ("{} x {}".format(*size) for size in (settings.keep.size, self.clip.size))
            raise PictureError(f"what is kept has {found} pixels and the video's frames {needed}; give it the same size")
        check_encoder(self.output, self.clip.rate, self.clip.size, self.clip.colours)
        self.whole = settings.aligned or pipeline.bundle.manifest.faces != FFHQ
        if self.whole and settings.mask != SQUARE:
            raise ArgumentError(
                f'the mask is "{settings.mask}", which needs a face to be found, and the frames are taken whole; use {SQUARE}'
            )
        if self.whole and settings.face not in (LARGEST, ALL, 1):
            raise ArgumentError(
                f'the face is "{settings.face}", which needs faces to be found, and the frames are taken whole; use {LARGEST}'
            )
        self.batch = settings.batch or min(pipeline.default_batch, LARGEST_BATCH)
        self.timeline = Timeline(self.clip.time_base)
        self.source = self._source()
        self.journal = Journal(out.absolute(), self._work())

    def _source(self) -> list[str | int]:
        """Which video it is, as far as its file's place and time say."""
        try:
            status = self.clip.path.stat()
        except OSError as error:
            raise FileError(f"cannot read the video {self.clip.path}: {reason(error)}; start again") from error
        return [str(self.clip.path.absolute()), status.st_size, status.st_mtime_ns]

    def _work(self) -> str:
        """All that the result depends on."""
        manifest = self.pipeline.bundle.manifest
        keep = self.settings.keep and _hash(self.settings.keep)
        options = asdict(replace(self.settings, keep=None, batch=self.batch))
        codes = fingerprint(self.edit, self.pipeline.sizes)
        versions = [FORM, library().__version__, np.__version__, self.pipeline.backend.description]
        return work_of(
            [self.source, manifest.identity, self.whole, codes, self.strength, self.move, options, keep, asdict(self.output), versions]
        )

    def run(self) -> Report:
        start = monotonic()
        with self.journal.opened() as other:
            if other:
                self.say(f"parts of {self.out} from a run with other options or another video were there; they are begun anew")
            resumed = self.journal.done[-1].end if self.journal.done else 0
            seen = sum(len(block.frames) for block in self.journal.seen)
            if seen:
                self.say(f"continuing: {seen} frames were looked at before, and {resumed} edited")
            self._look(seen)
            try:
                places, faces = self._places()
            except SdicError:
                self.journal.drop()  # the same call would end the same way
                raise
            self._render(places, resumed)
            done = self.journal.done
            self._put_together()
            flicker = Flicker(*(sum(getattr(part, name) for part in done) for name in ("source", "edited", "count")))
            edited = sum(part.faces for part in done)
        shots = self.timeline.shots[-1] + 1
        return Report(len(self.timeline), edited, faces, shots, resumed, flicker.means, flicker.ratio, monotonic() - start)

    def _look(self, seen: int) -> None:
        """The first pass: shots, and faces."""
        frames = marked(self.clip.frames(self.output.planes))
        counted = progress(frames, "looking", total=self.clip.expected or None, unit="frame")
        last = self.journal.seen[-1].frames[-1] if self.journal.seen else None
        tracks = [track for block in self.journal.seen for *_, faces in block.frames for track, *_ in faces]
        follower = Follower([Sighting.read(*face) for face in last[-1]] if last else (), max(tracks, default=-1) + 1)
        for block, new_shot in blocks(counted):
            if block[-1].index < seen:
                continue
            found = [[] for _ in block] if self.whole else follower.block(block, new_shot)
            self.journal.add(
                Seen(block[0].index, [
                    (frame.ticks, frame.duration, new_shot and number == 0, [(face.track, face.score, face.data) for face in faces])
                    for number, (frame, faces) in enumerate(zip(block, found, strict=True))
                ])
            )  # fmt: skip
        for noted in self.journal.seen:
            for ticks, duration, begins, _ in noted.frames:
                self.timeline.add(ticks, duration, begins)

    def _places(self) -> tuple[Callable[[int], list[Place]], int]:
        """Where edits go, and in how many tracks."""
        if self.whole:
            first, end = (row / self.pipeline.sizes["R"] for row in self.pipeline.model.visible_rows)
            return WholeFrames(self.clip.size, (first, end), self.timeline.shots), self.timeline.shots[-1] + 1
        frames = (faces for block in self.journal.seen for *_, faces in block.frames)
        sightings = ((index, Sighting.read(*face)) for index, faces in enumerate(frames) for face in faces)
        tracks = tracks_of(sightings, self.timeline, self.settings.smoothing.landmarks)
        self.journal.seen.clear()  # what is large in memory
        if not tracks:
            raise PictureError(f"no face was found in {self.clip.path}; if its frames are aligned faces already, say so with --aligned")
        numbers = chosen(tracks, self.settings.face)
        return Places(tracks, numbers), len(numbers)

    def _render(self, places: Callable[[int], list[Place]], done: int) -> None:
        """The second pass: the parts that are not there yet."""
        settings = self.settings
        work = Work(
            self.pipeline, self.edit, self.strength, self.move, settings.paste, settings.mask,
            None if settings.keep is None else settings.keep.convert("L"), settings.smoothing, self.batch, places, self.timeline.seconds,
        )  # fmt: skip
        total = len(self.timeline)
        if done == total:
            return
        # Begin at a whole group that has all neighbours of the first frame that is missing.
        begin = max(done - settings.smoothing.code_reach, 0) // self.batch * self.batch
        frames = islice(self.clip.frames(self.output.planes), begin, total)
        edited = islice(rendered(frames, work), done - begin, None)
        counted = progress(edited, "editing", total=total - done, unit="frame")
        for first in range(done, total, PART_FRAMES):
            self._write(first, min(first + PART_FRAMES, total), counted)

    def _write(self, first: int, end: int, edited: Iterator[tuple[Frame, Image, list[Place]]]) -> None:
        """One part."""
        name, meter, faces, end_seen = f"{first:08d}.mkv", Meter(), 0, first
        path = self.journal.folder / name
        clip = self.clip
        with PartWriter(path, self.output, clip.rate, clip.size, clip.colours) as writer:
            for frame, image, places in islice(edited, end - first):
                writer.write(clip.colours.changed(frame.picture, frame.image, image))
                faces += bool(places)
                for place in places:
                    meter.add(frame.index, place, frame.image, image)
                end_seen = frame.index + 1
        if end_seen != end:
            if self._source() != self.source:
                self.journal.drop()
            raise FileError(f"{clip.path} changed while it was read; start again")
        sums = meter.sums
        self.journal.add(Done(name, first, end, writer.depth, path.stat().st_size, sums.source, sums.edited, sums.count, faces))

    def _put_together(self) -> None:
        parts = [Part(self.journal.folder / part.file, part.first, part.end, part.depth) for part in self.journal.done]
        whole = self.journal.folder / "whole"
        try:
            join(parts, self.timeline, self.clip, self.output, whole)
        except BaseException:
            whole.unlink(missing_ok=True)  # it is made anew, and may be what fills the disk
            raise
        try:
            os.replace(whole, self.out)
        except OSError as error:
            raise FileError(f"cannot write {self.out}: {reason(error)}; {remedy(error)}") from error


def _hash(image: Image) -> str:
    """A hash over a picture's pixels."""
    from hashlib import sha256

    return sha256(image.mode.encode() + bytes(str(image.size), "ascii") + image.tobytes()).hexdigest()
