from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from sdic_runtime.errors import FileError, PictureError
from sdic_runtime.faces import find, open_photo, read_photo

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
