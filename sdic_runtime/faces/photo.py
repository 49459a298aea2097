"""A photograph with what belongs to it: colour profile, transparency, metadata. It is pasted into, and written again, as it came."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_runtime.errors import ArgumentError, FileError, PictureError
from sdic_runtime.files import replacing
from sdic_runtime.pictures import FORMATS, PictureLike, load_picture, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = ("exif", "icc_profile", "xmp", "dpi")  # of Pillow's `info`
BEST = 95  # the quality of a JPEG or WebP file whose source was none


@dataclass(frozen=True, eq=False)
class Photo:
    """`image`: upright, 8-bit RGB in the photograph's own colours, transparent parts on white. `colours`, `alpha`: the same with
    transparency apart, where the photograph has it. `info`: what is written with it."""

    image: Image
    colours: Image
    alpha: Image | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    @cached_property
    def _profile(self) -> Any:
        """The colour profile, where it is one of RGB and not sRGB itself; a damaged one counts as none."""
        from PIL import ImageCms

        with suppress(Exception):  # whatever is in the file: the picture is shown without it
            profile = ImageCms.getOpenProfile(BytesIO(self.info["icc_profile"]))
            if profile.profile.xcolor_space == "RGB " and not ImageCms.getProfileDescription(profile).startswith("sRGB"):
                return profile
        return None

    def to_srgb(self, image: Image) -> Image:
        """Pixels of this photograph (or of a part) as sRGB, which the models were trained on."""
        return self._converted(image, True)

    def from_srgb(self, image: Image) -> Image:
        """The way back from `to_srgb`."""
        return self._converted(image, False)

    def _converted(self, image: Image, to_srgb: bool) -> Image:
        from PIL import ImageCms

        if self._profile is None:
            return image
        pair = (self._profile, ImageCms.createProfile("sRGB"))
        with suppress(ImageCms.PyCMSError):  # a profile that knows one direction alone
            converted = ImageCms.profileToProfile(image, *(pair if to_srgb else pair[::-1]))
            return image if converted is None else converted
        return image

    def save(self, image: Image, path: str | os.PathLike[str]) -> None:
        """Write `image`, this photograph after pastes, with the photograph's colour profile and metadata; a JPEG that was one is
        compressed as it was. Raises FileError."""
        from PIL import Image

        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in FORMATS:
            raise FileError(f'cannot write {path}: "{path.suffix}" is no kind of picture; use .jpg, .png or .webp')
        options = {key: value for key, value in self.info.items() if key in KEPT}
        if kind == "JPEG":
            image = image.convert("RGB")
            options |= self.info.get("jpeg", {"quality": BEST, "subsampling": 0})
        elif kind in ("WEBP", "AVIF"):
            options["quality"] = BEST
        try:
            with replacing(path) as temporary:
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
        image = load_picture(picture)
        with suppress(Exception), Image.open(picture, formats=FORMATS) as source:  # what the decoder above says no word about is no error
            return _photo(image, source)
        return Photo(image, image, None, {str(key): value for key, value in image.info.items()})
    if isinstance(picture, Image.Image):
        return _photo(to_rgb(picture), picture)
    if hasattr(picture, "__array__"):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise PictureError(f"the photograph is an array {list(array.shape)} of {array.dtype}; use uint8 [H, W, 3]")
        return open_photo(Image.fromarray(array))
    raise ArgumentError(f"a photograph cannot be made from {type(picture).__name__}; give a path, a PIL image or a uint8 array [H, W, 3]")


def _photo(image: Image, source: Image) -> Photo:
    """`image` is `source` upright and in RGB."""
    from PIL import ImageOps, JpegImagePlugin

    info: dict[str, Any] = {key: image.info[key] for key in KEPT if key in image.info}
    if isinstance(source, JpegImagePlugin.JpegImageFile) and source.mode == "RGB":
        sampling = JpegImagePlugin.get_sampling(source)
        info["jpeg"] = {"qtables": source.quantization, "subsampling": max(sampling, 0)}
    if not source.has_transparency_data:
        return Photo(image, image, None, info)
    colours = ImageOps.exif_transpose(source).convert("RGBA")
    return Photo(image, colours.convert("RGB"), colours.getchannel("A"), info)
