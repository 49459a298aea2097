from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageDraw, PngImagePlugin

from sdic_runtime.errors import FileError, PictureError
from sdic_runtime.faces import find, open_photo, read_photo
from sdic_runtime.pictures import decode_picture, load_picture
from sdic_runtime.studio.rooms import encoded

ORIENTATION, MAKE = 0x0112, 0x010F


def wide_profile() -> bytes:
    """A profile of RGB whose curves are not those of sRGB: linear light."""
    import struct

    base = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", base, 128)[0]
    for index in range(count):
        name, at, size = struct.unpack_from(">4sII", base, 132 + 12 * index)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            base[at : at + size] = b"curv" + bytes(8) + bytes(size - 12)  # no points: the identity
        elif name == b"desc":
            text = base[at : at + size].replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be")).replace(b"sRGB", b"line")
            base[at : at + size] = text
    return bytes(base)


def test_orientation_and_metadata_of_a_jpeg(astronaut: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Camera"
    astronaut.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=90, dpi=(300, 300))
    (face,) = find(tmp_path / "a.jpg")
    assert abs(face.square.angle) < 10  # it is upright
    face.photo.save(face.paste(Image.new("RGB", (64, 64), "red")), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as written, Image.open(tmp_path / "a.jpg") as source:
        assert written.size == (512, 512)
        assert written.getexif()[MAKE] == "Camera"
        assert written.getexif().get(ORIENTATION, 1) == 1
        assert written.info["dpi"] == (300, 300)
        assert written.quantization == source.quantization
        away = np.abs(np.asarray(written, int) - np.asarray(face.photo.image, int))[300:]
    assert away.mean() < 1  # what was not changed is compressed as it was


def test_colours_of_another_profile(astronaut: Image.Image, tmp_path: Path) -> None:
    profile = wide_profile()
    linear = ImageCms.profileToProfile(
        astronaut, ImageCms.createProfile("sRGB"), ImageCms.getOpenProfile(__import__("io").BytesIO(profile))
    )
    assert linear is not None
    linear.save(tmp_path / "a.png", icc_profile=profile)
    (face,) = find(tmp_path / "a.png")
    (plain,) = find(astronaut)
    crop = plain.photo.image  # the same pixels in sRGB
    seen = np.asarray(face.crop.resize((64, 64)), float)
    assert np.abs(seen - np.asarray(face.square.cut(crop, 1024).resize((64, 64)), float)).mean() < 3
    assert np.abs(seen - np.asarray(face.square.cut(face.photo.image, 1024).resize((64, 64)), float)).mean() > 20
    pasted = face.paste(face.crop)
    assert np.abs(np.asarray(pasted, int) - np.asarray(face.photo.image, int)).mean() < 1
    face.photo.save(pasted, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == profile
    for kind in ("jpeg", "png", "webp"):  # what the studio sends
        with Image.open(BytesIO(encoded(pasted, kind))) as sent:
            assert sent.info["icc_profile"] == profile


def test_a_damaged_profile_costs_nothing(astronaut: Image.Image, tmp_path: Path) -> None:
    astronaut.save(tmp_path / "a.png", icc_profile=b"no profile at all")
    (face,) = find(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(face.crop), np.asarray(face.square.cut(astronaut, 1024)))


def test_transparent_parts_are_seen_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (20, 10), (10, 20, 30, 0))
    ImageDraw.Draw(picture).rectangle((0, 0, 9, 9), fill=(50, 60, 70, 255))
    picture.save(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png")
    assert photo.image.getpixel((15, 5)) == (255, 255, 255)
    assert photo.colours.getpixel((15, 5)) == (10, 20, 30)
    assert photo.alpha is not None
    assert photo.alpha.getpixel((15, 5)) == 0
    assert open_photo(photo) is photo


def test_what_cannot_be_written(astronaut: Image.Image, tmp_path: Path) -> None:
    photo = open_photo(astronaut)
    with pytest.raises(FileError, match=r'cannot write .*a.xyz: ".xyz" is no kind of picture'):
        photo.save(astronaut, tmp_path / "a.xyz")
    with pytest.raises(FileError, match="cannot write"):
        photo.save(astronaut, tmp_path / "absent" / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp"])
def test_every_kind_is_written(astronaut: Image.Image, tmp_path: Path, suffix: str) -> None:
    clear = astronaut.copy()
    clear.putalpha(255)
    for index, image in enumerate((astronaut, clear)):
        open_photo(image).save(image, tmp_path / f"{index}.{suffix}")
        with Image.open(tmp_path / f"{index}.{suffix}") as written:
            assert written.size == (512, 512)


def test_text_of_a_png_costs_nothing(astronaut: Image.Image, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 1000)
    astronaut.save(tmp_path / "a.png", pnginfo=text)
    assert open_photo(tmp_path / "a.png").size == (512, 512)


def test_a_profile_that_is_not_of_rgb_is_not_written(astronaut: Image.Image, tmp_path: Path) -> None:
    """A file of RGB with a profile of another colour space is damaged."""
    astronaut.convert("CMYK").save(tmp_path / "a.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    photo = open_photo(tmp_path / "a.jpg")
    photo.save(photo.image, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as written:
        assert (written.mode, written.info.get("icc_profile")) == ("RGB", None)


def test_a_photograph_from_an_open_file_keeps_what_belongs_to_it(astronaut: Image.Image) -> None:
    stream = BytesIO()
    astronaut.save(stream, "JPEG", dpi=(300, 300))
    stream.seek(0)
    photo = read_photo(stream, "the upload")
    assert photo.info["dpi"] == (300, 300)
    with pytest.raises(PictureError, match="the upload is empty"):
        read_photo(BytesIO(), "the upload")


def exif_with_previews(order: str, orientation: int = 6) -> bytes:
    """EXIF data as cameras write it: name, orientation, GPS, a maker's note with a preview, a second directory with a thumbnail."""
    import struct

    def entry(tag: int, kind: int, count: int, value: bytes | int) -> bytes:
        shape = "H2x" if kind == 3 else "I"
        return struct.pack(f"{order}HHI", tag, kind, count) + (
            value.ljust(4, b"\0") if isinstance(value, bytes) else struct.pack(order + shape, value)
        )

    preview, small = BytesIO(), BytesIO()
    Image.new("RGB", (64, 48), "red").save(preview, "JPEG")
    Image.new("RGB", (32, 24), "blue").save(small, "JPEG")
    note, thumbnail = b"MAKER\0" + preview.getvalue(), small.getvalue()
    main, detail, gps = 8, 8 + 2 + 4 * 12 + 4, 8 + 54 + 2 + 3 * 12 + 4
    second, make = gps + 18, gps + 18 + 30
    at_note, at_thumbnail = make + 8, make + 8 + len(note)
    parts = [
        struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, main),
        struct.pack(f"{order}H", 4),
        entry(MAKE, 2, 7, make),
        entry(ORIENTATION, 3, 1, orientation),
        entry(0x8769, 4, 1, detail),
        entry(0x8825, 4, 1, gps),
        struct.pack(f"{order}I", second),
        struct.pack(f"{order}H", 3),
        entry(0x927C, 7, len(note), at_note),
        entry(0xA002, 4, 1, 512),
        entry(0xA003, 4, 1, 300),
        bytes(4),
        struct.pack(f"{order}H", 1),
        entry(1, 2, 2, b"N\0"),
        bytes(4),
        struct.pack(f"{order}H", 2),
        entry(0x0201, 4, 1, at_thumbnail),
        entry(0x0202, 4, 1, len(thumbnail)),
        bytes(4),
        b"Camera\0\0",
        note,
        thumbnail,
    ]
    return b"Exif\0\0" + b"".join(parts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_small_pictures_of_metadata_are_not_written(astronaut: Image.Image, tmp_path: Path, order: str, suffix: str) -> None:
    """They show the photograph before the edit."""
    exif = exif_with_previews(order)
    pictures = b'<xmp:Thumbnails><rdf:Alt>/9j/AAAA</rdf:Alt></xmp:Thumbnails><c GImage:Data="/9j/BB"/>'
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="1"/>' + pictures + b"</x:xmpmeta>"
    wide = astronaut.crop((0, 0, 512, 300))
    source = tmp_path / f"a.{suffix}"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "In space")
    texts.add_text("Raw profile type exif", "ffd8ff")
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    wide.save(source, exif=exif, **({"pnginfo": texts} if suffix == "png" else {"xmp": xmp}))
    assert Image.open(source).getexif().get_ifd(ExifTags.IFD.IFD1)
    photo = open_photo(source)
    photo.save(photo.image.copy(), tmp_path / f"out.{suffix}")
    content = (tmp_path / f"out.{suffix}").read_bytes()
    assert content.count(b"\xff\xd8\xff") == (suffix == "jpg")
    assert b"/9j/" not in content
    with Image.open(tmp_path / f"out.{suffix}") as written:
        kept = written.getexif()
        assert (written.size, kept[MAKE], kept[ORIENTATION]) == ((300, 512), "Camera", 1)
        assert (kept.get_ifd(0x8825)[1], kept.get_ifd(ExifTags.IFD.IFD1)) == ("N", {})
        detail = kept.get_ifd(0x8769)
        assert (detail[0xA002], detail[0xA003], detail[0x927C][:6]) == (300, 512, b"MAKER\0")
        assert b'<a b="1"/>' in written.info["xmp"]
        assert b"Thumbnails" not in written.info["xmp"]
        if suffix == "png":
            assert written.info["Title"] == "In space"
            assert "Raw profile type exif" not in written.info


def test_captions_and_comments_of_a_jpeg_are_kept_without_their_previews(astronaut: Image.Image, tmp_path: Path) -> None:
    import struct

    def block(code: int, data: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + bytes(len(data) % 2)

    def record(number: int, data: bytes) -> bytes:
        return bytes((0x1C, 2, number)) + struct.pack(">H", len(data)) + data

    thumbnail = b"\xff\xd8\xff\xe0thumbnail\xff\xd9"
    segment = (
        b"Photoshop 3.0\0"
        + block(0x0404, record(120, b"A caption") + record(202, thumbnail) + record(80, b"NASA"))
        + block(0x040C, thumbnail)
    )
    astronaut.save(tmp_path / "a.jpg", extra=b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment, comment=b"said")
    photo = open_photo(tmp_path / "a.jpg")
    photo.save(photo.image.copy(), tmp_path / "out.jpg")
    content = (tmp_path / "out.jpg").read_bytes()
    assert content.count(b"\xff\xd8\xff") == 1
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.info["photoshop"] == {0x0404: record(120, b"A caption") + record(80, b"NASA")}
        assert written.info["comment"] == b"said"


def test_metadata_of_any_bytes_costs_nothing() -> None:
    from sdic_runtime.decoding.previews import exif_without, resources_without, xmp_without

    whole, rng = exif_with_previews("<"), np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        assert b"\xff\xd8\xff" not in (exif_without(whole[:length], (3, 4)) or b"")
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(6, 200, 8):
            damaged[place] = rng.integers(256)
        found = exif_without(bytes(damaged), (3, 4))
        assert found is None or b"\xff\xd8\xff" not in found
    loop = bytearray(whole)
    loop[6 + 8 + 2 + 48 : 6 + 8 + 2 + 52] = (8).to_bytes(4, "little")
    exif_without(bytes(loop), (3, 4))
    assert resources_without({0x0404: b"\x1c\x02\x78\xff\xff", 0x0409: b"x"}) == b""
    assert resources_without(None) == b""
    assert xmp_without(b"<a:Thumbnails>") == b"<a:Thumbnails>"


def damaged_exif() -> Iterator[bytes]:
    """EXIF data with another type or number of values in the main directory and in that about places, or with three bytes of others."""
    whole, rng = exif_with_previews(">"), np.random.default_rng(0)
    single = [{place: value} for place in (17, 19, 85, 97, 113, 115) for value in range(20)]
    for changes in single + [dict(zip(rng.integers(6, 128, 3), rng.integers(0, 256, 3), strict=True)) for _ in range(60)]:
        damaged = bytearray(whole)
        for place, value in changes.items():
            damaged[place] = value
        yield bytes(damaged)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_never_costs_a_photograph(kind: str) -> None:
    """Whatever `load_picture` reads is a photograph too."""
    wide = Image.effect_noise((24, 16), 90).convert("RGBA" if kind == "PNG" else "RGB")
    turned = 0
    for exif in damaged_exif():
        stream = BytesIO()
        wide.save(stream, kind, exif=exif)
        picture, photo = decode_picture(BytesIO(stream.getvalue())), read_photo(BytesIO(stream.getvalue()))
        np.testing.assert_array_equal(np.asarray(photo.image), np.asarray(picture))
        assert photo.colours.size == photo.size
        turned += photo.size == (16, 24)
    assert turned > 100


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_photograph_with_damaged_exif_is_written(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a hundred files are slow on a disk
    for exif in damaged_exif():
        stream = BytesIO()
        Image.new("RGB", (24, 16)).save(stream, "JPEG", exif=exif)
        photo = read_photo(BytesIO(stream.getvalue()))
        photo.save(photo.image, tmp_path / f"out.{suffix}")
        assert load_picture(tmp_path / f"out.{suffix}").size == photo.size


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="1"/></x:xmpmeta>'


def write_tiff(path: Path, image: Image.Image, directories: bool, compression: str) -> Path:
    exif = Image.Exif()
    exif[MAKE], exif[0x010E], exif[0x02BC] = "Camera", "In space", XMP
    if directories:
        exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 512, 0x927C: b"MAKER\0" + exif_with_previews("<")[-300:]}
        exif[0x8825] = {1: "N", 2: (47.0, 22.0, 7.5)}
    image.save(path, exif=exif.tobytes(), compression=compression, dpi=(300, 300))
    return path


@pytest.mark.parametrize("suffix", ["tiff", "jpg", "png", "webp"])
def test_what_describes_a_tiff_file_is_kept(astronaut: Image.Image, tmp_path: Path, suffix: str) -> None:
    photo = open_photo(write_tiff(tmp_path / "a.tif", astronaut, True, "raw"))
    photo.save(photo.image.copy(), tmp_path / f"out.{suffix}")
    assert (tmp_path / f"out.{suffix}").read_bytes().count(b"\xff\xd8\xff") == (suffix == "jpg")  # no preview of the maker's
    with Image.open(tmp_path / f"out.{suffix}") as written:
        tags = written.getexif()
        assert (tags[MAKE], tags[0x010E], tags.get(ORIENTATION, 1)) == ("Camera", "In space", 1)
        assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert tags.get_ifd(0x8825)[2] == (47.0, 22.0, 7.5)
        assert written.info["xmp"] == XMP
        if suffix == "tiff":
            assert written.info["dpi"] == (300, 300)
            np.testing.assert_array_equal(np.asarray(written), np.asarray(astronaut))


@pytest.mark.parametrize(("compression", "expected"), [("tiff_lzw", "tiff_lzw"), ("jpeg", "tiff_adobe_deflate"), ("raw", "raw")])
def test_a_tiff_file_is_compressed_as_it_was(astronaut: Image.Image, tmp_path: Path, compression: str, expected: str) -> None:
    photo = open_photo(write_tiff(tmp_path / "a.tif", astronaut, False, compression))
    photo.save(photo.image, tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as written:
        assert written.info["compression"] == expected
        assert (written.getexif()[MAKE], written.info["xmp"]) == ("Camera", XMP)
        np.testing.assert_array_equal(np.asarray(written), np.asarray(photo.image))


def test_tags_about_pixels_are_not_those_of_another_file(astronaut: Image.Image, tmp_path: Path) -> None:
    """Cameras write a picture's size into EXIF too, and TIFF files are read by it."""
    exif = Image.Exif()
    exif[0x0100], exif[0x0101], exif[0x0106], exif[ORIENTATION], exif[MAKE] = 512, 300, 6, 6, "Camera"
    astronaut.crop((0, 0, 512, 300)).save(tmp_path / "a.jpg", exif=exif)
    photo = open_photo(tmp_path / "a.jpg")
    photo.save(photo.image, tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as written:
        assert (written.size, written.getexif()[MAKE]) == ((300, 512), "Camera")
        np.testing.assert_array_equal(np.asarray(written), np.asarray(photo.image))


def test_a_jpeg_shows_transparent_parts_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 32), "red")
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    image.save(tmp_path / "photo.png")
    photo = open_photo(tmp_path / "photo.png")
    photo.save(image, tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as written:
        assert min(written.getpixel((56, 16))) > 250 and written.getpixel((8, 16))[1] < 5
