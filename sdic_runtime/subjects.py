"""What of a picture is inverted, all of it or the faces in it, and how results get back into it: for every command that takes pictures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from sdic_runtime.bundle.manifest import FFHQ, Manifest
from sdic_runtime.decoding.shapes import SQUASH, fits, middle, squashed, wanted_shape
from sdic_runtime.errors import ArgumentError, OutOfMemoryError, PictureError, SdicError
from sdic_runtime.faces import Face, Photo, find, open_photo
from sdic_runtime.faces.face import MaskLike
from sdic_runtime.folders import BACKGROUND
from sdic_runtime.inversion import Inversion
from sdic_runtime.pictures import load_picture, picture_size
from sdic_runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from PIL.Image import Image

ALL, LARGEST = "all", "largest"
DIFFERENCE, REPLACE = "difference", "replace"
SAME = 0.05  # of the side: how far the corners of a crop's face may lie from the crop's own, on average
COMPARED = 64  # pixels of the pictures by which a face of a photograph and an inversion are compared
ALIKE = 0.5  # the correlation from which they may be of one face

Item = TypeVar("Item")


@dataclass(frozen=True)
class Wishes:
    """What the user wants of a photograph; None: did not say.

    `face`: "largest", "all", or which one, from 1, by size. `crop_only`: the results are crops. `aligned`: the picture is a crop already.
    `paste`: "difference" adds what the edit changed, "replace" puts the picture of the model in the place of the photograph. `keep`: what
    stays as it is, "background" or the file of a mask of the photograph's size, white where nothing changes. `crop`: a picture that is no
    photograph of a face is cropped instead of squashed.
    """

    face: str | None = None
    crop_only: bool = False
    aligned: bool = False
    paste: str | None = None
    keep: tuple[str, ...] = ()
    crop: bool = False

    def __post_init__(self) -> None:
        if self.face not in (None, ALL, LARGEST) and not (str(self.face).isdecimal() and int(str(self.face)) > 0):
            raise ArgumentError(f'--face is "{self.face}"; give a number from 1, all, or largest')
        if self.paste not in (None, DIFFERENCE, REPLACE):
            raise ArgumentError(f'--paste is "{self.paste}"; use {DIFFERENCE} or {REPLACE}')
        if self.crop_only and (self.paste or self.keep):
            raise ArgumentError(f"--crop-only writes no photograph, which --{'paste' if self.paste else 'keep'} is about; omit one of them")
        if self.aligned and self.said:
            raise ArgumentError(f"--{self.said} is for photographs, and --aligned says that the picture is a crop already; omit one")

    @property
    def said(self) -> str:
        """The first option that is for photographs alone; "" where there is none."""
        options = {"face": self.face, "crop-only": self.crop_only, "paste": self.paste}
        return next((name for name, value in options.items() if value), "")

    def photographs(self, manifest: Manifest) -> bool:
        """Whether faces are looked for in pictures. Raises ArgumentError for options that this bundle cannot take."""
        if manifest.faces == FFHQ:
            if self.crop and not self.aligned:
                raise ArgumentError("--crop is for pictures that are taken whole, and here a face is looked for; omit it or add --aligned")
            return not self.aligned
        if self.said:
            raise ArgumentError(f'--{self.said} is for models of aligned faces, and "{manifest.name}" is none; omit it')
        return False


@dataclass(frozen=True)
class Words:
    """What the user calls the wishes that sentences advise: a command's options, or the fields of a service. `others`: what a face's number
    may be beside a number."""

    face: str = "--face"
    aligned: str = "--aligned"
    crop: str = "--crop"
    others: str = f", {ALL}, or {LARGEST}"


@dataclass(frozen=True, eq=False)
class Subject:
    """`pictures`: what the pipeline inverts, one for each of `faces`, or one that is the whole picture. `notices`: what the user should
    know. `mask`: 8 bits, the photograph's size, 255 where nothing may change."""

    name: str
    pictures: Sequence[str | os.PathLike[str] | Image]
    wishes: Wishes = Wishes()
    photo: Photo | None = None
    faces: Sequence[Face] = ()
    notices: Sequence[str] = ()
    mask: Image | None = None

    @property
    def whole(self) -> bool:
        """Whether a result is the whole photograph with all faces pasted into it, and not one picture for each."""
        return bool(self.faces) and not self.wishes.crop_only

    def pasted(self, images: Sequence[Image], bases: Sequence[Image] | None = None) -> Image:
        """The photograph with a picture in the place of each face; with `bases`, what the model made of the unedited crops, and unless the
        user wants them replaced, with the differences added."""
        result: Image | None = None
        mask: MaskLike = "person" if BACKGROUND in self.wishes.keep else "square"
        for index, (face, image) in enumerate(zip(self.faces, images, strict=True)):
            base = None if bases is None or self.wishes.paste == REPLACE else bases[index]
            result = face.paste(image, base=base, mask=mask, keep=self.mask, onto=result)
        assert result is not None
        return result

    def save(self, image: Image, path: Path) -> Path:
        """Write a photograph with what belongs to it."""
        assert self.photo is not None
        self.photo.save(image, path)
        return path


class Reader:
    """Makes subjects of pictures for one bundle."""

    def __init__(self, manifest: Manifest, wishes: Wishes, profiles: bool = True, words: Words = Words()) -> None:
        self.manifest, self.wishes, self.profiles, self.words = manifest, wishes, profiles, words
        self.photographs = wishes.photographs(manifest)

    @cached_property
    def _mask(self) -> Image | None:
        return mask_of(self.wishes)

    def read(self, picture: str | os.PathLike[str] | Photo | Image, name: str | None = None) -> Subject:
        """The subject of a picture; `name` is what notices and errors call it. Raises SdicError, PictureError where no face is found."""
        name = name or (os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the picture")
        if not self.photographs:
            return self._taken_whole(picture, name)
        photo = self._opened(picture)
        return self.of(photo, find(photo), name)

    def of(self, photo: Photo, faces: Sequence[Face], name: str) -> Subject:
        """The same for a photograph whose faces were found before."""
        if not self.photographs:
            return self._taken_whole(photo, name)
        if not faces:
            raise PictureError(f"no face was found in {name}; if it is an aligned crop of a face already, add {self.words.aligned}")
        if not self.wishes.said and not self.wishes.keep and is_crop(faces[0]):
            notice = f"{name} is an aligned crop of a face already, and is taken whole; say so with {self.words.aligned}"
            return Subject(name, [photo.to_srgb(photo.image)], self.wishes, photo, notices=[notice])
        return self._of(photo, self._chosen(faces, name), name)

    def _opened(self, picture: str | os.PathLike[str] | Photo | Image) -> Photo:
        photo = open_photo(picture)
        return photo if self.profiles else replace(photo, converts=False)

    def matching(self, photo: str | os.PathLike[str] | Photo, images: Sequence[Image], name: str) -> Subject:
        """The subject of a photograph whose faces are those of `images`, pictures of its crops. Raises PictureError where none is alike."""
        photo = self._opened(photo)
        faces, chosen = find(photo), []
        for image in images:
            likeness = [correlation(face.aligned(COMPARED), image) for face in faces]
            if not likeness or max(likeness) < ALIKE:
                raise PictureError(f"no face in {name} looks like the inversion; give the photograph that was inverted")
            chosen.append(faces[int(np.argmax(likeness))])
        return self._of(photo, chosen, name)

    def _of(self, photo: Photo, faces: Sequence[Face], name: str) -> Subject:
        if self._mask is not None and self._mask.size != photo.size:
            sizes = "{} x {} pixels and {} {} x {}".format(*self._mask.size, name, *photo.size)
            raise PictureError(f"the mask of --keep has {sizes}; give it the photograph's size")
        notices = [f"{name}: {face.warning}" for face in faces if face.warning]
        return Subject(name, [face.crop for face in faces], self.wishes, photo, faces, notices, self._mask)

    def _chosen(self, faces: Sequence[Face], name: str) -> Sequence[Face]:
        if self.wishes.face == ALL:
            return faces
        number = 1 if self.wishes.face in (None, LARGEST) else int(str(self.wishes.face))
        if number > len(faces):
            there = "one face" if len(faces) == 1 else f"{len(faces)} faces"
            advice = f"give a number up to {len(faces)}{self.words.others}"
            raise PictureError(f"{name} has {there}, and {self.words.face} is {number}; {advice}")
        return faces[number - 1 : number]

    def _taken_whole(self, picture: str | os.PathLike[str] | Photo | Image, name: str) -> Subject:
        image = picture.to_srgb(picture.image) if isinstance(picture, Photo) else picture
        sizes, rows = self.manifest.sizes, self.manifest.visible_rows
        wanted = wanted_shape(sizes, rows)
        size = picture_size(image) if isinstance(image, str | os.PathLike) else image.size
        if fits(size, wanted):
            return Subject(name, [image], self.wishes)
        if self.wishes.crop:
            decoded = load_picture(image, self.profiles) if isinstance(image, str | os.PathLike) else image
            return Subject(name, [middle(decoded, wanted)], self.wishes)
        aligned = f"; without {self.words.aligned} the face is looked for and aligned" if self.manifest.faces == FFHQ else ""
        notice = f"{squashed(name, size, sizes, rows)}; crop it, or add {self.words.crop} to take its middle{aligned}"
        return Subject(name, [image], self.wishes, notices=[notice])


def mask_of(wishes: Wishes) -> Image | None:
    """What the user's masks keep, together. Raises PictureError."""
    from PIL import ImageChops

    kept: Image | None = None
    for path in (path for path in wishes.keep if path != BACKGROUND):
        mask = load_picture(path).convert("L")
        if kept is not None and mask.size != kept.size:
            raise PictureError(f"{path} has {mask.width} x {mask.height} pixels, another mask {kept.width} x {kept.height}; use one size")
        kept = mask if kept is None else ImageChops.lighter(kept, mask)
    return kept


def is_crop(face: Face) -> bool:
    """Whether the photograph is a square that FFHQ's rule would cut just so."""
    width, height = face.photo.size
    own = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    return width == height and float(np.linalg.norm(face.square.corners - own, axis=1).mean()) <= SAME * width


def correlation(one: Image, other: Image) -> float:
    """How much two square pictures are alike, -1 to 1."""
    pixels = [np.asarray(image.convert("RGB").resize((COMPARED, COMPARED)), np.float64).ravel() for image in (one, other)]
    first, second = (values - values.mean() for values in pixels)
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-9))


@dataclass(frozen=True, eq=False)
class Inverted(Generic[Item]):
    """An item of `inverted`: its subject and the inversion of that, one picture for each of the subject's; or why there is none."""

    item: Item
    subject: Subject | None
    inversion: Inversion | None = None
    error: SdicError | None = None


def inverted(
    pipeline: Pipeline, items: Iterable[Item], read: Callable[[Item], Subject], batch: int | None = None
) -> Iterator[Inverted[Item]]:
    """Invert the subjects that `read` makes of any stream of items, `batch` pictures at a time; one result per item, in their order, with
    its error where it fails."""
    waiting: deque[Inverted[Item]] = deque()

    def pictures() -> Iterator[str | os.PathLike[str] | Image]:
        for item in items:
            try:
                subject = read(item)
            except SdicError as error:
                waiting.append(Inverted(item, None, error=error))
                continue
            except MemoryError:
                waiting.append(Inverted(item, None, error=OutOfMemoryError("not enough memory to decode a picture; make it smaller")))
                continue
            waiting.append(Inverted(item, subject))
            yield from subject.pictures

    results = pipeline.invert_many(pictures(), batch, keep_going=True, shape=SQUASH)
    for first in results:
        while waiting[0].error:
            yield waiting.popleft()
        subject = waiting[0].subject
        assert subject is not None
        found = [first, *(next(results) for _ in range(len(subject.pictures) - 1))]
        error = next((result.error for result in found if result.error), None)
        inversion = None if error else Inversion.join(result.inversion for result in found if result.inversion is not None)
        yield replace(waiting.popleft(), inversion=inversion and inversion.named([subject.name] * len(found)), error=error)
    yield from waiting
