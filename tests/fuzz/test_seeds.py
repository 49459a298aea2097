"""The smallest input of every fault that mutated files found, and of what a stranger may try: each is answered by its sentence, at once.
Pictures; bundles and files of tensors are beside this.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from fuzz.seeds import refused
from fuzz.targets import make_bundle, read_bundle, read_picture, verdict
from sdic_runtime.decoding.pixels import as_rgb, turned
from sdic_runtime.errors import FileError, PictureError, printable
from sdic_runtime.pictures import prepare

pytestmark = pytest.mark.usefixtures("at_once")


# What a sentence quotes.


def test_a_sentence_is_short_and_printable_whatever_it_quotes() -> None:
    said = str(FileError("cannot read " + "\x1b]0;x\x07\n" * 100_000 + "; choose another name"))
    assert (
        len(said) == 400 and said.isprintable() and said.startswith(r"cannot read \x1b]0;x\x07 ") and said.endswith("; choose another name")
    )
    assert str(FileError(os.fsdecode(b"a\xff\xe2\x80\xae"))) == r"a\udcff\u202e"
    assert printable("ä" * 400) == "ä" * 400 and len(printable("\x00" * 400)) == 400
    assert str(FileError("a sound sentence")) == "a sound sentence"


# Pictures.


def png(width: int, height: int, kind: int, depth: int = 8, further: bytes = b"") -> bytes:
    """A PNG file of zeros: `kind` 0 gray, 2 RGB, 6 RGBA."""
    rows = zlib.compress((b"\0" * (1 + width * {0: 1, 2: 3, 6: 4}[kind] * depth // 8)) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + further + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1), (65_536, 1)])
def test_a_picture_with_a_side_that_no_picture_has(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png(*size, 0))
    refused(PictureError, f"is {size[0]} x {size[1]}, and the longest side is 65535", read_picture, path)


def test_a_picture_of_one_column_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "tall.png"
    path.write_bytes(png(1, 60_000, 0))
    assert read_picture(path) == (1, 3, 64, 64)


PROGRAM = """
import sys
from sdic_runtime.pictures import prepare
print(prepare(sys.argv[1], {"R": 1024, "S": 256}, (0, 1024)).shape)
with open("/proc/self/status") as stream:
    print(next(int(line.split()[1]) >> 10 for line in stream if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which tells the most memory of a process")
@pytest.mark.parametrize(("kind", "depth"), [(0, 16), (6, 8)])
def test_the_memory_of_a_large_picture_is_bounded(kind: int, depth: int, tmp_path: Path) -> None:
    """A quarter of the limit in pixels: it needs a quarter of the memory beside what the program itself has."""
    path = tmp_path / "large.png"
    path.write_bytes(png(5000, 5000, kind, depth))
    shape, peak = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shape == "(1, 3, 256, 256)" and int(peak) < 330


@pytest.mark.parametrize(
    "further",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_500_000)),
        chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 2_000_000)),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
    ],
    ids=["large text", "large profile", "damaged exif", "wrong checksum"],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_never_costs_the_picture(further: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(20, 20, 2, further=further))
    assert (prepare(path, {"R": 64, "S": 64}, (0, 64)) == -1).all()
    path.write_bytes(png(20, 20, 2, further=further)[:-30])
    refused(PictureError, "is damaged", read_picture, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_and_turns_are_what_pillow_makes(orientation: int) -> None:
    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (1031, 1200, 4), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", exif=exif, compress_level=0)
    image = Image.open(stream)
    upright = ImageOps.exif_transpose(image)
    white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    found = turned(as_rgb(image, "it"), orientation)
    assert np.array_equal(np.asarray(found), np.asarray(white)) and found.getexif().get(0x0112, 1) == 1


def test_the_same_number_makes_the_same_file(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        make_bundle(np.random.default_rng([7, 3]), folder)
    files = [sorted((path.relative_to(folder), path.read_bytes()) for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert files[0] == files[1] and verdict(read_bundle, folders[0] / "bundle")[0] != "fault"
