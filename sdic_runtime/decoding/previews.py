"""Metadata without the small pictures in it, which would still show what the photograph was before an edit.

Cameras and programs put a thumbnail into EXIF (the second directory), previews into the maker's notes, and thumbnails into XMP and IPTC.
Everything else stays as it is, at its place: the notes of makers hold positions.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

HEADER = b"Exif\0\0"  # before the TIFF data in a JPEG file
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
SIZES = (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # bytes of a value of each TIFF type
SHORT, LONG, DIRECTORY = 3, 4, 13
ORIENTATION, WIDTH, HEIGHT = 0x0112, 0xA002, 0xA003
EXIF_DIRECTORY, SUB_DIRECTORIES, MAKER_NOTE = 0x8769, 0x014A, 0x927C
# Where a directory says that a picture lies, and how many bytes it has: JPEG, strips, tiles.
PLACES = {0x0201: 0x0202, 0x0111: 0x0117, 0x0144: 0x0145}
MOST_DIRECTORIES = 32
JPEG_START = b"\xff\xd8\xff"
JPEG = re.compile(rb"\xff\xd8\xff.*?(?:\xff\xd9|\Z)", re.DOTALL)
LISTS = "Thumbnails|PageInfo"  # of pictures, in XMP
PICTURES = r"\w*GImg:image|GImage:Data|GDepth:Data"  # in Base64
XMP = re.compile(
    "|".join(
        (
            rf"<(\w+):(?P<list>{LISTS})\b(?:[^>]*/>|.*?</\1:(?P=list)>)",
            rf"<(?P<one>{PICTURES})\b.*?</(?P=one)>",
            rf"\s(?:{PICTURES})=(?:\"[^\"]*\"|'[^']*')",
        )
    ).encode(),
    re.DOTALL,
)
IPTC, KEPT_RESOURCES = 0x0404, (0x0404, 0x040A, 0x040B)  # captions and names; whether there is a copyright, and its address
IPTC_PREVIEW = (2, 202)
BYTE_LIMIT = 65_000  # of a JPEG file's segment


class Entry(NamedTuple):
    """`first`: where its values lie."""

    kind: int
    length: int  # how many values
    first: int


class _Tiff:
    """TIFF data that is changed at its place."""

    def __init__(self, data: bytes) -> None:
        self.data, self.order = bytearray(data), ORDERS[bytes(data[:4])]
        self.cleared = bytearray(len(data))  # 1 where a directory or its picture was

    def number(self, at: int, kind: int = LONG) -> int:
        return int(struct.unpack_from(f"{self.order}{'H' if kind == SHORT else 'I'}", self.data, at)[0])

    def write(self, entry: Entry, value: int) -> None:
        struct.pack_into(f"{self.order}{'H' if entry.kind == SHORT else 'I'}", self.data, entry.first, value)

    def entries(self, at: int) -> dict[int, Entry]:
        """Those of the directory at `at` by their tags."""
        found = {}
        for place in range(at + 2, self.end(at), 12):
            tag, kind, count = struct.unpack_from(f"{self.order}HHI", self.data, place)
            size = count * SIZES[kind] if kind < len(SIZES) else 0
            if size <= len(self.data):
                found[tag] = Entry(kind, count, place + 8 if size <= 4 else self.number(place + 8))
        return found

    def values(self, entry: Entry) -> list[int]:
        """Whole numbers; none where they are something else."""
        kinds = (SHORT, LONG, DIRECTORY)
        return (
            [self.number(entry.first + SIZES[entry.kind] * step, entry.kind) for step in range(entry.length)] if entry.kind in kinds else []
        )

    def end(self, at: int) -> int:
        """Where the directory's pointer to the next one lies."""
        return at + 2 + 12 * self.number(at, SHORT)

    def clear(self, start: int, length: int) -> None:
        stop = min(start + length, len(self.data))
        if 8 <= start < stop:
            self.data[start:stop] = bytes(stop - start)
            self.cleared[start:stop] = b"\1" * (stop - start)

    def clear_pictures(self, at: int) -> None:
        """What the directory at `at` says where pictures lie."""
        known = self.entries(at)
        for place, length in PLACES.items():
            if place in known and length in known:
                for start, count in zip(self.values(known[place]), self.values(known[length]), strict=False):
                    self.clear(start, count)

    def clear_directories(self, at: int) -> None:
        """The directory at `at` and those after it, with their pictures."""
        for _ in range(MOST_DIRECTORIES):
            if not 8 <= at < len(self.data):
                return
            self.clear_pictures(at)
            following, end = self.number(self.end(at)), self.end(at) + 4
            self.clear(at, end - at)
            at = following

    def clear_streams(self, note: Entry | None) -> None:
        """JPEG files anywhere: in a maker's note to its end, as nobody else knows how it is made."""
        if note is not None and (start := self.data.find(JPEG_START, note.first, note.first + note.length)) >= 0:
            stop = min(note.first + note.length, len(self.data))
            self.data[start:stop] = bytes(stop - start)
        self.data = bytearray(JPEG.sub(lambda found: bytes(len(found.group())), self.data))

    def rest(self) -> bytes:
        """The data without what was cleared at its end."""
        return bytes(self.data[: len(self.cleared.rstrip(b"\1"))])


def exif_without(exif: bytes, size: tuple[int, int]) -> bytes | None:
    """EXIF data of an upright picture of `size`, width and height, without other pictures; None where it cannot be understood."""
    prefix = HEADER if exif.startswith(HEADER) else b""
    try:
        tiff = _Tiff(exif[len(prefix) :])
        first = tiff.number(4)
        main, pointer = tiff.entries(first), tiff.end(first)
        tiff.clear_directories(tiff.number(pointer))
        struct.pack_into("4x", tiff.data, pointer)
        tiff.clear_pictures(first)
        for at in tiff.values(main[SUB_DIRECTORIES]) if SUB_DIRECTORIES in main else ():
            tiff.clear_directories(at)
        if ORIENTATION in main:
            tiff.write(main[ORIENTATION], 1)
        detail = tiff.entries(tiff.values(main[EXIF_DIRECTORY])[0]) if EXIF_DIRECTORY in main else {}
        for tag, length in zip((WIDTH, HEIGHT), size, strict=True):
            if tag in detail:
                tiff.write(detail[tag], length)
        tiff.clear_streams(detail.get(MAKER_NOTE))
    except (KeyError, struct.error, IndexError):
        return None
    return prefix + tiff.rest()


def xmp_without(xmp: bytes) -> bytes:
    """XMP data without pictures; what describes a second picture behind the first, which is not written, stays."""
    return XMP.sub(b"", xmp)


def resources_without(resources: object) -> bytes:
    """The segment of a JPEG file with the captions and names (IPTC) of `resources`, Pillow's table of Photoshop's; empty for none."""
    blocks = b""
    for code in KEPT_RESOURCES:
        data = resources.get(code) if isinstance(resources, dict) else None
        if isinstance(data, bytes) and (data := _records(data) if code == IPTC else data):
            blocks += b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + bytes(len(data) % 2)
    segment = b"Photoshop 3.0\0" + blocks
    return b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment if blocks and len(segment) <= BYTE_LIMIT else b""


def _records(data: bytes) -> bytes:
    """IPTC's records without the preview; those before a damaged one."""
    kept, at = b"", 0
    while at + 5 <= len(data) and data[at] == 0x1C:
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        end = at + 5 + length
        if length >= 0x8000 or end > len(data):
            break
        if (data[at + 1], data[at + 2]) != IPTC_PREVIEW:
            kept += data[at:end]
        at = end
    return kept
