"""Any decoded picture as upright 8-bit RGB, in strips: a picture within the limits never needs more than 1 GB."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from sdic_runtime.decoding.colours import PROFILE, in_srgb, profile_of, without_profile
from sdic_runtime.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_LIMIT = 100_000_000  # width * height; above it a file is refused before it is decoded
SIDE_LIMIT = 65_535  # of the longer side: between the two resizings a picture is S x its height
BYTE_LIMIT = 1 << 29  # of a file
# What decoders hold more than once, or are slow on -> pixels.
FORMAT_LIMITS = {"WEBP": 50_000_000, "AVIF": 40_000_000, "HEIF": 40_000_000, "GIF": 50_000_000}
PROGRESSIVE_LIMIT = 75_000_000  # of a JPEG file, whose coefficients are in memory beside its pixels
DEEP_LIMIT = 50_000_000  # of 16-bit colours
STRIP = 1 << 21  # pixels that are converted at a time
ORIENTATION = 0x0112
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")  # of orientation 2 to 8
XMP_KEYS, XMP_ORIENTATION = ("xmp", "XML:com.adobe.xmp"), r'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>'
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what decides the pixels


def pixel_limit(image: Image) -> int:
    """How many pixels a file may have whose header was read."""
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""  # what the decoder is told of the pixels
    deep = ";16" in raw and not image.mode.startswith("I")
    limits = (FORMAT_LIMITS.get(image.format or ""), image.info.get("progressive") and PROGRESSIVE_LIMIT, deep and DEEP_LIMIT)
    return min(limit for limit in (PIXEL_LIMIT, *limits) if limit)


def orientation_of(image: Image) -> int:
    """The EXIF orientation, 1 where there is none or it cannot be read: what is wrong with metadata never costs the picture."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # metadata is damaged in as many ways as there are readers
        return 1


def turned(image: Image, orientation: int) -> Image:
    """The image upright, and its metadata without the orientation; itself where nothing is to do."""
    from PIL.Image import Transpose

    if orientation == 1:
        return image
    upright = image.transpose(Transpose[TURNS[orientation - 2]])
    try:
        exif = upright.getexif()
        exif.pop(ORIENTATION, None)
        upright.info["exif"] = exif.tobytes()
    except Exception:  # see `orientation_of`
        upright.info.pop("exif", None)
    for key in XMP_KEYS:
        if isinstance(text := upright.info.get(key), str | bytes):
            upright.info[key] = re.sub(XMP_ORIENTATION, "", text) if isinstance(text, str) else re.sub(XMP_ORIENTATION.encode(), b"", text)
    return upright


def as_rgb(image: Image, name: str, profiles: bool = True) -> Image:
    """A copy in 8-bit RGB: colours of a profile in sRGB, transparency composited on white, 16-bit gray scaled. Raises PictureError."""
    image.load()
    if image.mode == "F":
        raise PictureError(f"{name} holds floating-point gray values; save it with 8 or 16 bits")
    profile = profile_of(image) if profiles else None

    def plain(strip: Image) -> Image:
        return strip.convert("RGB") if profile is None else in_srgb(strip, profile)

    if image.mode.startswith("I"):
        return _in_strips(image, lambda strip: plain(_scaled(strip, name)))
    try:
        if image.has_transparency_data:
            return _in_strips(image, lambda strip: _on_white(strip, plain))
        return without_profile(image.convert("RGB")) if profile is None else _in_strips(image, plain)
    except ValueError as error:
        raise PictureError(f"{name} has the colour mode {image.mode}, which cannot be turned into RGB; save it as RGB") from error


def _in_strips(image: Image, convert: Callable[[Image], Image]) -> Image:
    """What `convert` makes of every strip, as one RGB image."""
    from PIL import Image

    result = Image.new("RGB", image.size)
    result.info = {key: value for key, value in image.info.items() if key not in ("transparency", PROFILE)}
    rows = max(1, STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(convert(image.crop(box)), box)
    return result


def _on_white(strip: Image, plain: Callable[[Image], Image]) -> Image:
    from PIL import Image

    colours = strip.convert("RGBA")
    seen = plain(strip.convert("L") if strip.mode == "LA" else colours.convert("RGB"))
    seen.putalpha(colours.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _scaled(strip: Image, name: str) -> Image:
    from PIL import Image

    values = np.asarray(strip, np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError(f"{name} has gray values from {values.min()} to {values.max()}; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def without_metadata(stream: BinaryIO) -> io.BytesIO | None:
    """A PNG file with the chunks that decide its pixels alone: texts and profiles that a decoder finds too large or damaged are omitted.
    None where it is no PNG file, or holds nothing else."""
    stream.seek(0)
    if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        return None
    kept, omitted = io.BytesIO(PNG_SIGNATURE), False
    kept.seek(0, io.SEEK_END)
    for kind, data in _png_chunks(stream):
        if kind in PNG_NEEDED:
            kept.write(data)
        else:
            omitted = True
    kept.seek(0)
    return kept if omitted else None


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The type and the bytes of every chunk, up to a damaged one of those that matter."""
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = stream.read(min(length + 4, BYTE_LIMIT))
        sound = len(body) == length + 4 and zlib.crc32(kind + body[:-4]) == int.from_bytes(body[-4:], "big")
        if kind in PNG_NEEDED or sound or len(body) == length + 4:
            yield kind, head + body
        if kind == b"IEND":
            return
