"""The bundles that a studio has open, and what they do with pictures; models run in one thread, pictures are read and written in others."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.bundle.manifest import FFHQ
from sdic_runtime.decoding.colours import PROFILE
from sdic_runtime.decoding.shapes import SQUASH
from sdic_runtime.edit_orders import EditOrder, presets
from sdic_runtime.edits import UNKNOWN_RANGE, Edit
from sdic_runtime.errors import ArgumentError, PictureError, SdicError
from sdic_runtime.faces import Face, Photo, find
from sdic_runtime.inversion import Inversion
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.sheets import reduced, seen, sheet
from sdic_runtime.subjects import Reader, Subject, Wishes, Words
from sdic_runtime.tools.list_directions import listed

if TYPE_CHECKING:
    from PIL.Image import Image

LOADING, READY, FAILED = "loading", "ready", "failed"
FIELDS = Words('"face"', '"aligned"', '"crop"', others="")  # of a request, in advice
SMALL = re.compile(r"\d+(/\d+){2}/-?[\d.]+|\d+/\d+")  # a GANSpace component, or a style channel
FORMATS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "png": ("image/png", {"compress_level": 1}),
    "jpeg": ("image/jpeg", {"quality": 92, "subsampling": 0}),
    "webp": ("image/webp", {"quality": 92, "method": 0}),
}
SIDES = {"jpeg": 65_500, "webp": 16_383}  # pixels of a side that the formats have, at most


@dataclass(eq=False)
class Picture:
    """What a client sent: the photograph, and its faces once a model of aligned faces has needed them."""

    photo: Photo
    faces: Sequence[Face] | None = None

    def look(self) -> None:
        """Find and judge the faces, where that has not been done."""
        if self.faces is None:
            faces = find(self.photo)
            for face in faces:
                _ = face.quality  # it cuts the face, and an answer in the event loop has no time for that
            self.faces = faces

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return 3 * self.photo.size[0] * self.photo.size[1] * (1 if self.photo.alpha is None else 3)


@dataclass(eq=False)
class Kept:
    """An inversion of a picture, or of a face in it. `keeps`: 8 bits, the model's size, 255 where nothing may change."""

    room: Room
    picture: Picture
    subject: Subject
    inversion: Inversion
    seconds: float
    keeps: Image | None = None

    @property
    def size(self) -> int:
        """Bytes in memory, the picture's among them: it stays as long as its inversion."""
        model = self.inversion.model
        return self.picture.size + sum(4 * int(np.prod(model.shape(name, 1))) for name in model.tensors)


@dataclass(frozen=True)
class Taken:
    """What of a picture is inverted: the face of a number from 1 (the largest when None), or all of it, where the model takes no faces or
    the picture is `aligned`, a crop of a face already. `crop`: where all of it does not fit, its middle."""

    face: int | None = None
    crop: bool = False
    aligned: bool = False


@dataclass(frozen=True)
class Asked:
    """One edited picture: edits by name with their strengths; `paste`: into the photograph, "difference" or "replace", "" for the model's
    own picture."""

    edits: tuple[tuple[str, float], ...]
    move: str | None = None
    paste: str = ""


@dataclass(eq=False)
class Room:
    """One bundle. `state`: loading, ready, or failed with a `reason`."""

    path: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)
    state: str = LOADING
    reason: str = "the bundle is still loading; try again in a moment"
    error: Exception | None = None  # that made it fail
    pipeline: Pipeline | None = None

    def load(self) -> None:
        """Make it ready, or failed; nothing is raised."""
        try:
            self.pipeline = Pipeline.load(self.path, **self.options)
            self.pipeline.invert(np.zeros((1, 3, *[self.pipeline.sizes["S"]] * 2), np.float32))  # so that the first picture is as fast
            self.state, self.reason = READY, ""
        except Exception as error:
            known = isinstance(error, SdicError)
            self.reason = str(error) if known else f"loading failed: {type(error).__name__}: {error}"
            self.state, self.error = FAILED, error

    @property
    def open(self) -> Pipeline:
        if self.pipeline is None:
            raise ArgumentError(self.reason)
        return self.pipeline

    @property
    def faces(self) -> bool:
        """Whether it takes the faces of photographs."""
        return self.open.bundle.manifest.faces == FFHQ

    def described(self) -> dict[str, Any]:
        """What a page needs to show its controls."""
        manifest = self.open.bundle.manifest
        first, end = manifest.visible_rows
        moves = [{"name": name, "kinds": list(move.kinds)} for name, move in manifest.moves.items()]
        extras = sorted({extra for move in manifest.moves.values() for extra in manifest.programs[move.program].zeros})
        return {
            "name": manifest.name,
            "method": manifest.method,
            "domain": manifest.domain,
            "licence": manifest.licence,
            "backend": self.open.backend.description,
            "faces": self.faces,
            "width": manifest.sizes["R"],
            "height": end - first,
            "moves": moves,
            "extras": extras,
            "edits": [
                {"name": item.name, "kind": item.kind, "range": item.strength_range or UNKNOWN_RANGE}
                for item in listed(self.open.bundle)
                if item.components is None
            ],
        }

    def edit(self, parts: Sequence[tuple[str, float]]) -> Edit:
        """The edit of some names with strengths. Only what the bundle holds: a client names no file. Raises ArgumentError."""
        known = self.open.directions
        own = {name for kind in presets(self.open.bundle).values() for name in kind}
        for name, _ in parts:
            if name not in own and not SMALL.fullmatch(name):
                known[name]  # raises for an unknown name, with the names there are
        return EditOrder(tuple(parts)).edit(self.open.bundle, known)

    def looks(self, taken: Taken) -> bool:
        """Whether it needs the faces of a picture for this."""
        return self.faces and not taken.aligned

    def subject(self, picture: Picture, taken: Taken) -> Subject:
        """What of a picture is inverted. Raises SdicError."""
        if self.looks(taken):
            picture.look()
            wishes = Wishes(face=None if taken.face is None else str(taken.face))
        elif self.faces and taken.face is not None:
            raise ArgumentError('"face" is for photographs, and "aligned" says that the picture is a crop already; omit one')
        else:
            wishes = Wishes(aligned=self.faces, crop=taken.crop)
        return Reader(self.open.bundle.manifest, wishes, words=FIELDS).of(picture.photo, picture.faces or (), "the picture")

    def invert(self, tasks: Sequence[tuple[Picture, Taken]]) -> list[Kept | Exception]:
        """The inversion, or the error, of each; all of them as one batch."""
        start = time.perf_counter()
        subjects: list[tuple[Subject | Exception, np.ndarray | None]] = []
        for picture, taken in tasks:
            try:
                subject = self.subject(picture, taken)
                subjects.append((subject, self.open.prepare(subject.pictures[0], SQUASH)))
            except (SdicError, MemoryError) as error:
                subjects.append((error, None))
        images = [image for _, image in subjects if image is not None]
        inversions = iter(self.open.invert(np.concatenate(images)) if images else ())
        return [
            subject if isinstance(subject, Exception) else Kept(self, task[0], subject, next(inversions), time.perf_counter() - start)
            for task, (subject, _) in zip(tasks, subjects, strict=True)
        ]

    def pictures(self, kept: Kept, asked: Sequence[Asked], small: bool = False) -> list[Image]:
        """The picture of each; those whose strengths are all 0 are the inversion. `small`: photographs in the size of a strip's."""
        return [self._pasted(kept, image, one.paste, small) for image, one in zip(self._edited(kept, asked), asked, strict=True)]

    def _edited(self, kept: Kept, asked: Sequence[Asked]) -> list[Image]:
        base, keeps, images = kept.inversion.images[0], kept.keeps, []  # a mask may come meanwhile
        for one in asked:
            parts = [(name, strength) for name, strength in one.edits if strength]
            edit = self.edit(one.edits) if one.edits else None  # also where all strengths are 0: an unknown name is an error
            if edit is None or not parts:
                images.append(base)
                continue
            image = self.open.edit(kept.inversion, self.edit(parts), move=one.move, extras=self._extras(keeps, one)).images[0]
            images.append(image if keeps is None else _blended(image, base, keeps))
        return images

    def _extras(self, keeps: Image | None, asked: Asked) -> dict[str, np.ndarray]:
        """The brushed mask for a method that takes one itself."""
        manifest = self.open.bundle.manifest
        move = manifest.moves.get(asked.move) if asked.move else next(iter(manifest.moves.values()), None)
        if keeps is None or move is None or "mask" not in manifest.programs[move.program].zeros:
            return {}
        _, _, height, width = manifest.shape("mask", 1)
        return {"mask": (np.asarray(keeps.resize((width, height)), np.float32) / 255)[None, None]}

    def _pasted(self, kept: Kept, image: Image, paste: str, small: bool) -> Image:
        if not paste or not kept.subject.whole:
            return image
        base = kept.inversion.images if paste == "difference" else None
        pasted = kept.subject.pasted([image], base)
        return reduced(pasted) if small else pasted

    def strip(self, kept: Kept, asked: Sequence[Asked], captions: Sequence[str]) -> Image:
        return sheet([self.pictures(kept, asked, small=True)], captions)

    def keep(self, kept: Kept, mask: Image | None) -> None:
        """From now on nothing changes where `mask`, a picture of the model's size, is white. Raises PictureError."""
        if mask is not None and mask.size != kept.inversion.images[0].size:
            width, height = kept.inversion.images[0].size
            raise PictureError(f"the mask has {mask.width} x {mask.height} pixels, and the model's pictures {width} x {height}")
        kept.keeps = None if mask is None or not mask.convert("L").getbbox() else mask.convert("L")


def _blended(image: Image, base: Image, keeps: Image) -> Image:
    from PIL import Image

    return Image.composite(base, image, keeps)


def opened(photo: Photo, faces: bool) -> Picture:
    """A picture, with its faces where they are needed."""
    picture = Picture(photo)
    if faces:
        picture.look()
    return picture


def encoded(image: Image, kind: str) -> bytes:
    """The bytes of a picture in one of FORMATS, with the colour profile and the transparency of the photograph that it is; JPEG has none,
    and shows transparent parts on white. Raises ArgumentError."""
    if max(image.size) > SIDES.get(kind, max(image.size)):
        size = f"{image.width} x {image.height}"
        raise ArgumentError(f'a picture of {size} pixels is too large for "{kind}", which has {SIDES[kind]} a side at most; ask for "png"')
    stream = io.BytesIO()
    profile = image.info.get(PROFILE)
    written = image if image.mode == "RGBA" and kind != "jpeg" else seen(image)
    written.save(stream, kind.upper(), icc_profile=profile, **FORMATS[kind][1])
    return stream.getvalue()
