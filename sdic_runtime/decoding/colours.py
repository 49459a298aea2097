"""Colour profiles: what the numbers in a picture's file mean, and the same colours in sRGB, which the models were trained on."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

PROFILE = "icc_profile"  # of Pillow's `info`
# The colour space that a profile is for -> the mode of the pictures that it describes.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def profile_of(image: Image) -> Any:
    """The colour profile in an image's file where it says something else than sRGB; None where there is none, or a damaged one."""
    from PIL import ImageCms

    content = image.info.get(PROFILE)
    with suppress(Exception):  # whatever is in the file: the picture is shown without it
        profile = ImageCms.getOpenProfile(BytesIO(content)) if content else None
        if profile and space_of(profile) in MODES and not ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return profile
    return None


def space_of(profile: Any) -> str:
    """RGB, GRAY, CMYK, or another."""
    return str(profile.profile.xcolor_space).strip()


def in_srgb(image: Image, profile: Any) -> Image:
    """`image`, whose numbers `profile` describes, as RGB in sRGB. Where its mode is not the profile's, or the profile cannot be used, its
    numbers are taken for sRGB."""
    from PIL import ImageCms

    mode = MODES[space_of(profile)]
    wide = {"P": "RGB", "1": "L"}.get(image.mode, image.mode)
    if wide == mode:
        source = image if image.mode == mode else image.convert(mode)
        with suppress(ImageCms.PyCMSError):  # a profile that knows one direction alone
            converted = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return without_profile(converted)
    return without_profile(image.convert("RGB"))


def out_of_srgb(image: Image, profile: Any) -> Image:
    """The way back from `in_srgb` for a profile of RGB."""
    from PIL import ImageCms

    with suppress(ImageCms.PyCMSError):
        converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), profile, outputMode="RGB")
        return image if converted is None else converted
    return image


def without_profile(image: Image) -> Image:
    """The image itself, which no longer says that its numbers mean anything but sRGB."""
    image.info.pop(PROFILE, None)
    return image
