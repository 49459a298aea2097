"""A photograph with what belongs to it: colour profile, transparency, metadata. It is pasted into, and written again, as it came."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sdic_runtime.decoding import tiff
from sdic_runtime.decoding.colours import PROFILE, in_srgb, out_of_srgb, profile_of, space_of, without_profile
from sdic_runtime.decoding.pixels import as_rgb, orientation_of, turned
from sdic_runtime.decoding.previews import BYTE_LIMIT, exif_without, resources_without, xmp_without
from sdic_runtime.errors import ArgumentError, FileError, PictureError
from sdic_runtime.faces.levels import Levels
from sdic_runtime.files import replacing
from sdic_runtime.pictures import FORMATS, PictureLike, opened, opened_file, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

PLAIN = (PROFILE, "dpi")  # of Pillow's `info`, kept as they are
LONGEST_TEXT = 1 << 20  # characters of a PNG file's texts
BEST = 95  # the quality of a JPEG or WebP file whose source was none
BEST_JPEG = {"quality": BEST, "subsampling": 0}
XMP_TEXT = "XML:com.adobe.xmp"  # a PNG file's key
HIDDEN = ("Raw profile type", XMP_TEXT)  # keys of a PNG file's texts that are not texts
LONG_TEXT = 1024  # characters; longer texts are compressed


@dataclass(frozen=True, eq=False)
class Photo:
    """`image`: upright, 8-bit RGB in the photograph's own colours, transparent parts on white. `colours`, `alpha`: the same with
    transparency apart, where the photograph has it. `info`: what is written with it, without thumbnails and previews, which would show what
    was there before. `converts`: whether models see its colours as its colour profile says."""

    image: Image
    colours: Image
    alpha: Image | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    converts: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    @cached_property
    def levels(self) -> Levels:
        """`image`, and smaller ones made from it."""
        return Levels(self.image)

    @cached_property
    def _profile(self) -> Any:
        return profile_of(self.image) if self.converts and PROFILE in self.info else None

    def to_srgb(self, image: Image) -> Image:
        """Pixels of this photograph (or of a part) as sRGB, which the models were trained on."""
        return image if self._profile is None else in_srgb(image, self._profile)

    def from_srgb(self, image: Image) -> Image:
        """The way back from `to_srgb`."""
        return image if self._profile is None else out_of_srgb(image, self._profile)

    def save(self, image: Image, path: str | os.PathLike[str]) -> None:
        """Write `image`, this photograph after pastes, with the photograph's colour profile and metadata; a JPEG that was one is
        compressed as it was. Raises FileError."""
        from PIL import Image

        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in FORMATS:
            raise FileError(f'cannot write {path}: "{path.suffix}" is no kind of picture; use .jpg, .png or .webp')
        options = {key: value for key, value in self.info.items() if key in (*PLAIN, "exif", "xmp")}
        if kind == "JPEG":
            image = as_rgb(image, str(path), profiles=False)
            options = {key: value for key, value in options.items() if key == PROFILE or len(value) <= BYTE_LIMIT}
            options |= self.info.get("jpeg", BEST_JPEG)
        elif kind == "PNG":
            options["pnginfo"] = self.info["png"] if "png" in self.info else _texts({}, self.info.get("xmp"))
        elif kind == "TIFF":
            options = {key: value for key, value in options.items() if key in PLAIN}
            options |= tiff.writing(self.info.get("exif"), self.info.get("xmp"), self.info.get("tiff"))
        elif kind in ("WEBP", "AVIF"):
            options["quality"] = BEST
        try:
            with replacing(path) as temporary:
                try:
                    image.save(temporary, kind, **options)
                except OSError:
                    raise
                except Exception:  # some kinds of file have EXIF data read again, which may be damaged in any way
                    if options.pop("exif", None) is None:
                        raise
                    image.save(temporary, kind, **options)
        except (OSError, ValueError, KeyError) as error:
            raise FileError(f"cannot write {path}: {error}") from error


def open_photo(picture: PictureLike | Photo) -> Photo:
    """A photograph from a path, a PIL image, or a uint8 array [H, W, 3] (also [H, W] and [H, W, 4]). Raises PictureError, or ArgumentError
    for what is no picture."""
    from PIL import Image

    if isinstance(picture, Photo):
        return picture
    if isinstance(picture, str | os.PathLike):
        with opened_file(picture) as image:
            return _photo(image, str(picture))
    if isinstance(picture, Image.Image):
        return _photo(picture)
    if hasattr(picture, "__array__"):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise PictureError(f"the photograph is an array {list(array.shape)} of {array.dtype}; use uint8 [H, W, 3]")
        return open_photo(Image.fromarray(array))
    raise ArgumentError(f"a photograph cannot be made from {type(picture).__name__}; give a path, a PIL image or a uint8 array [H, W, 3]")


def read_photo(stream: BinaryIO, name: str = "the photograph") -> Photo:
    """A photograph from an open file, or from bytes in an io.BytesIO; `name` is what errors call it. Raises PictureError."""
    with opened(stream, name) as image:
        return _photo(image, name)


def _photo(source: Image, name: str = "the photograph") -> Photo:
    """A decoded image as a photograph. Colours of a profile that is not one of RGB become sRGB: a picture in RGB cannot have it."""
    foreign = (profile := profile_of(source)) is not None and space_of(profile) != "RGB"
    image = to_rgb(source, name, profiles=foreign)
    info = _kept(source, image)
    image.info = {}
    if foreign or source.mode not in ("RGB", "RGBA", "P"):
        info.pop(PROFILE, None)
    if PROFILE in info:
        image.info[PROFILE] = info[PROFILE]
    if not source.has_transparency_data:
        return Photo(image, image, None, info)
    colours = turned(source.convert("RGBA"), orientation_of(source))
    return Photo(image, without_profile(colours.convert("RGB")), colours.getchannel("A"), info)


def _kept(source: Image, upright: Image) -> dict[str, Any]:
    """What belongs to a photograph beside its pixels, without the other pictures in it; `upright`: what `to_rgb` made of it."""
    from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    info: dict[str, Any] = {key: source.info[key] for key in PLAIN if key in source.info}
    exif, xmp = source.info.get("exif"), upright.info.get("xmp")
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        exif, info["tiff"] = tiff.description_of(source), tiff.compression_of(source)
    if isinstance(exif, bytes) and (kept := exif_without(exif, upright.size)):
        info["exif"] = kept
    if isinstance(xmp, bytes):
        info["xmp"] = xmp_without(xmp)
    if isinstance(source, JpegImagePlugin.JpegImageFile):
        info["jpeg"] = {"extra": resources_without(source.info.get("photoshop")), "comment": source.info.get("comment")}
        if source.mode == "RGB":
            sampling = JpegImagePlugin.get_sampling(source)
            info["jpeg"] |= {"qtables": source.quantization, "subsampling": max(sampling, 0)}
        else:
            info["jpeg"] |= BEST_JPEG
    if isinstance(source, PngImagePlugin.PngImageFile):
        info["png"] = _texts(source.text, info.get("xmp"))
    return info


def _texts(found: Mapping[str, str], xmp: bytes | None) -> PngInfo:
    """The texts of a PNG file for another, and XMP data; those that programs hide whole files in are omitted."""
    from PIL.PngImagePlugin import PngInfo

    texts, length = PngInfo(), 0
    for key, value in found.items():
        length += len(value)
        if not key.startswith(HIDDEN) and length <= LONGEST_TEXT:
            texts.add_itxt(key, str(value), zip=len(value) > LONG_TEXT)
    if xmp:
        texts.add_itxt(XMP_TEXT, xmp.decode("utf-8", "replace"))
    return texts
