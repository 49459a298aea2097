"""A face in a photograph: cut out for a model, and pasted back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from sdic_runtime.errors import ArgumentError, PictureError
from sdic_runtime.faces import mask as masks
from sdic_runtime.faces import paste, quality
from sdic_runtime.faces.align import Square
from sdic_runtime.faces.detect import detect
from sdic_runtime.faces.landmarks import Landmarks, landmarks
from sdic_runtime.faces.photo import Photo, open_photo
from sdic_runtime.pictures import PictureLike

if TYPE_CHECKING:
    from PIL.Image import Image

CROP_SIDE = 1024  # pixels of `Face.crop`, as in FFHQ
SURE = 0.999  # the mesh's score that makes a face of any detection
LIKELY = 0.5  # the mesh's score that makes one of a detection of at least DETECTED
DETECTED = 0.85
APART = 1.2  # eye distances between the middles of two faces, at least

MaskLike: TypeAlias = "Literal['person', 'face', 'square'] | Image"


@dataclass(frozen=True, eq=False)
class Face:
    """`landmarks`: in pixels of the upright photograph. `score`: the detector's, 0 to 1. `others`: the outlines of the photograph's other
    faces."""

    photo: Photo
    landmarks: Landmarks
    score: float
    others: Sequence[np.ndarray] = ()

    def __repr__(self) -> str:
        x, y = self.square.centre
        return f"<Face at ({x:.0f}, {y:.0f}), {self.landmarks.eye_distance:.0f} pixels between the eyes, quality {self.quality:.2f}>"

    @cached_property
    def square(self) -> Square:
        """What FFHQ cuts for this face, in pixels of the photograph."""
        return self.landmarks.square

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the face without hair, in pixels of the photograph."""
        (left, top), (right, bottom) = self.landmarks.outline.min(0), self.landmarks.outline.max(0)
        return float(left), float(top), float(right), float(bottom)

    @cached_property
    def crop(self) -> Image:
        """The face upright in the middle of a square of CROP_SIDE pixels, RGB in sRGB: what a model of FFHQ takes."""
        return self.aligned(CROP_SIDE)

    def aligned(self, size: int) -> Image:
        """The crop in `size` x `size` pixels."""
        if not isinstance(size, int) or not 1 <= size <= 8192:
            raise ArgumentError(f"the crop's size is {size!r}; use a whole number from 1 to 8192")
        return self.photo.to_srgb(self.photo.levels.cut(self.square, size))

    @cached_property
    def _judged(self) -> quality.Quality:
        places = self.square.outward(np.stack(np.meshgrid(*[(np.arange(16) + 0.5) / 16] * 2), -1))
        inside = ((places >= 0) & (places <= self.photo.size)).all(-1).mean()
        return quality.measure(self.landmarks, self.aligned(quality.SIDE), float(inside))

    @property
    def quality(self) -> float:
        """How well a model can work with this face: 1 is good, below .5 something is wrong with it."""
        return self._judged.value

    @property
    def warning(self) -> str | None:
        """What is wrong with it, as a sentence; None where the quality is not low."""
        return self._judged.sentence

    def mask(self, kind: str = "person") -> Image:
        """Where a paste changes the photograph: an 8-bit picture of the crop, 255 for all, of 256 x 256 pixels. "person": face, hair and
        shoulders; "face": without them; "square": everything. All fade out before the square's edges."""
        if kind == "person":
            return masks.person_mask(self.aligned(masks.SIDE), self.square, self.landmarks.outline, self.others)
        if kind == "face":
            return masks.face_mask(self.square, self.landmarks.outline)
        if kind == "square":
            return masks.square_mask()
        raise ArgumentError(f'the mask is "{kind}"; use person, face, square, or a picture of the crop')

    def paste(
        self,
        picture: PictureLike,
        *,
        base: PictureLike | None = None,
        mask: MaskLike = "person",
        keep: Image | None = None,
        onto: Image | None = None,
    ) -> Image:
        """The whole photograph with `picture`, a square one of this face as `crop` shows it, in its place; in the photograph's own colours.

        With `base`, what the model made of the unedited crop, the difference of the two is added instead: what the edit did not touch
        stays as sharp as the photograph is. `mask`: where, see there; or an 8-bit picture of the crop. `keep`: an 8-bit picture of the
        photograph's size, 255 where nothing may change. `onto`: the photograph after other faces' pastes. Pixels outside the mask stay
        exactly as they are. RGB, or RGBA where the photograph has transparency. Raises PictureError or ArgumentError.
        """
        target = self._target(onto)
        picture = self._square_picture(picture)
        shape = self.mask(mask) if isinstance(mask, str) else _gray(mask, "the mask")
        if keep is not None and keep.size != self.photo.size:
            raise PictureError(
                f"what is kept has {_pixels(keep)} pixels and the photograph {_pixels(self.photo.image)}; give it the same size"
            )
        kept = None if keep is None else _gray(keep, "what is kept")
        if base is None:
            result = paste.replaced(target, self.square, picture, shape, kept)
        else:
            result = paste.added(target, self.square, picture, self._square_picture(base, picture.size), shape, kept)
        if self.photo.alpha is not None:
            result.putalpha(self.photo.alpha)
        return result

    def _target(self, onto: Image | None) -> Image:
        if onto is None:
            return self.photo.colours
        if onto.size != self.photo.size:
            raise PictureError(f"the picture to paste onto has {_pixels(onto)} pixels and the photograph {_pixels(self.photo.image)}")
        return onto.convert("RGB")

    def _square_picture(self, picture: PictureLike, size: tuple[int, int] | None = None) -> Image:
        """A picture of the crop in the photograph's colours; resized to `size` where it is given."""
        from PIL import Image

        image = open_photo(picture).image
        if image.width != image.height:
            raise PictureError(f"the picture to paste has {_pixels(image)} pixels; it must be a square, as the crop is")
        if size is not None and image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        return self.photo.from_srgb(image)


def find(picture: PictureLike | Photo) -> list[Face]:
    """The faces in a photograph, the largest first (of equals, the leftmost). Takes a path, a PIL image or a uint8 array [H, W, 3].

    Faces may be turned by any angle and have down to 20 pixels between the eyes in 1920 x 1080. Raises PictureError where the photograph
    cannot be read; no face is an empty list.
    """
    photo = open_photo(picture)
    found: list[tuple[float, Landmarks]] = []
    for detection in detect(photo.levels):
        face = landmarks(photo.levels, detection.points)
        least = LIKELY if detection.score >= DETECTED else SURE
        if face.score >= least and face.square.touches(photo.image) and all(_apart(face, other) for _, other in found):
            found.append((detection.score, face))
    found.sort(key=lambda one: (-round(one[1].eye_distance), one[1].square.centre[0]))
    outlines = [face.outline for _, face in found]
    return [Face(photo, face, score, (*outlines[:index], *outlines[index + 1 :])) for index, (score, face) in enumerate(found)]


def _apart(one: Landmarks, other: Landmarks) -> bool:
    """Whether two faces are two."""
    away = np.hypot(*np.subtract(one.square.centre, other.square.centre))
    return bool(away > APART * max(one.eye_distance, other.eye_distance))


def _gray(image: Image, name: str) -> Image:
    try:
        return image.convert("L")
    except (AttributeError, OSError, ValueError) as error:
        raise PictureError(f"{name} cannot be read as an 8-bit picture: {error}") from error


def _pixels(image: Image) -> str:
    return f"{image.width} x {image.height}"
