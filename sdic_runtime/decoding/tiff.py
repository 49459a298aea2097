"""What describes a photograph in a TIFF file: EXIF's tags, which lie among those of its pixels there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sdic_runtime.decoding.previews import EXIF_DIRECTORY

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

GPS_DIRECTORY, INTEROPERABILITY, XMP = 0x8825, 0xA005, 0x02BC
# Title, maker, model, program, date, artist, rating, copyright, and those of Windows: title, comment, author, keywords, subject.
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x4746, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)
LOSSLESS = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma")
COMPRESSED = "tiff_adobe_deflate"  # in place of what would lose something, or is for two colours


def described(tags: Exif, xmp: bytes | None = None) -> bytes | None:
    """EXIF data with those of `tags` that describe the photograph, and `xmp`; None without any. What is damaged is omitted."""
    from PIL.Image import Exif

    kept, content = Exif(), None
    for tag in (*DESCRIPTIVE, XMP, EXIF_DIRECTORY, GPS_DIRECTORY):
        with suppress(Exception):  # metadata is damaged in as many ways as there are readers
            kept[tag] = xmp if tag == XMP else _directory(tags, tag) if tag in (EXIF_DIRECTORY, GPS_DIRECTORY) else tags[tag]
        if not kept.get(tag):
            kept.pop(tag, None)
            continue
        try:
            content = kept.tobytes()
        except Exception:  # see above
            kept.pop(tag)
    return content


def _directory(tags: Exif, tag: int) -> dict[int, Any]:
    """What a directory of its own holds, without the place of another one."""
    return {key: value for key, value in tags.get_ifd(tag).items() if key != INTEROPERABILITY}


def description_of(source: Image) -> bytes | None:
    """`described` of a TIFF file."""
    try:
        return described(source.getexif())
    except Exception:  # see above
        return None


def compression_of(source: Image) -> str | None:
    """How a result is compressed whose source is this TIFF file, without a loss; None for not at all."""
    found = source.info.get("compression")
    return None if found in (None, "raw") else found if found in LOSSLESS else COMPRESSED


def writing(exif: bytes | None, xmp: bytes | None, compression: str | None) -> dict[str, Any]:
    """Options for Pillow to write a TIFF file with metadata. Tags about pixels are those of another file and are omitted. Pillow writes no
    directories into a compressed file: where the photograph has one, it is not compressed."""
    from PIL.Image import Exif

    tags = Exif()
    if exif is not None:
        with suppress(Exception):
            tags.load(exif)
    content = described(tags, xmp)
    if content is None:
        return {"compression": compression} if compression else {}
    tags.load(content)
    whole = EXIF_DIRECTORY in tags or GPS_DIRECTORY in tags
    return {"exif": content} | ({"compression": compression} if compression and not whole else {})
