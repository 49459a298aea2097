from __future__ import annotations

import io
import struct
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from sdic_runtime.errors import ArgumentError, OutOfMemoryError, PictureError
from sdic_runtime.pictures import load_picture, picture_size, prepare, to_bytes, to_images, to_rgb

SIZES = {"R": 128, "S": 64}
ALL = (0, 128)


@pytest.fixture
def colours() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:80]
    return np.stack([x * 3, y * 5, (x + y) * 2], -1).clip(0, 255).astype(np.uint8)


def loaded(path: Path) -> np.ndarray:
    image = load_picture(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_decode_exactly(tmp_path: Path, colours: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(loaded(path), colours)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, colours: np.ndarray, orientation: int) -> None:
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(colours).save(path, exif=exif, quality=100, subsampling=0)
    assert np.abs(loaded(path) - upright(colours).astype(int)).max() <= 4


def test_transparency_is_composited_on_white(tmp_path: Path, colours: np.ndarray) -> None:
    alpha = np.full((*colours.shape[:2], 1), 64, np.uint8)
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "a.png")
    want = colours * (64 / 255) + 255 * (1 - 64 / 255)
    assert np.abs(loaded(tmp_path / "a.png") - want).max() <= 1
    gray = Image.fromarray(colours[..., 0]).convert("LA")
    gray.putalpha(0)
    gray.save(tmp_path / "clear.png")
    assert (loaded(tmp_path / "clear.png") == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (loaded(tmp_path / "palette.png") == 255).all()
    palette.save(tmp_path / "opaque.png")
    assert (loaded(tmp_path / "opaque.png") == [10, 20, 30]).all()


def test_gray_bilevel_and_cmyk_become_rgb(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(loaded(tmp_path / "gray.png"), colours[..., :1].repeat(3, 2))
    Image.fromarray(colours[..., 0] > 100).save(tmp_path / "one.png")
    np.testing.assert_array_equal(loaded(tmp_path / "one.png"), (colours[..., :1] > 100).repeat(3, 2) * 255)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert np.abs(loaded(tmp_path / "cmyk.jpg") - colours).mean() < 3


def test_sixteen_bit_gray_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 127, 128, 129, 257, 32768, 65535]], np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(loaded(tmp_path / f"a.{suffix}")[0, :, 0], np.rint(values[0] / 257))
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "wide.tiff")
    with pytest.raises(PictureError, match="gray values from 0 to 70000; save it with 8 or 16 bits"):
        load_picture(tmp_path / "wide.tiff")
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match="holds floating-point gray values"):
        load_picture(tmp_path / "float.tiff")


def test_sixteen_bit_colour_is_read(tmp_path: Path) -> None:
    pixels = np.array([[[0x1234, 0x80FF, 0xFFFF]]], ">u2")
    rows = b"\0" + pixels.tobytes()
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, rows))
    assert np.abs(loaded(tmp_path / "a.png")[0, 0] - np.array([0x1234, 0x80FF, 0xFFFF]) / 257).max() <= 1


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG made by hand, so that its header may claim anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height", "megapixels"), [(30000, 30000, 900), (12000, 10000, 120)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, width: int, height: int, megapixels: int
) -> None:
    (tmp_path / "bomb.png").write_bytes(png(width, height, 8, 2, b""))
    with pytest.raises(PictureError) as caught:
        load_picture(tmp_path / "bomb.png")
    assert str(caught.value) == f"{tmp_path}/bomb.png has {megapixels} megapixels, and the limit is 100; make the picture smaller"
    assert not recwarn.list


def jpeg(colours: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(colours).resize((400, 300)).save(stream, "JPEG")
    return stream.getvalue()


def test_bad_files_are_one_sentence(tmp_path: Path, colours: np.ndarray) -> None:
    good = jpeg(colours)
    (tmp_path / "text.png").write_text("this is not a picture")
    (tmp_path / "cut.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "header.png").write_bytes(png(64, 64, 8, 2, b"")[:40])
    (tmp_path / "short.png").write_bytes(png(64, 64, 8, 2, b"\0" * 50))
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    for name, message in {
        "text.png": "text.png is not a picture this program can read; use JPEG, PNG",
        "cut.jpg": "cut.jpg is damaged: ",
        "empty.png": r"empty.png is empty \(0 bytes\); get the picture again",
        "folder.png": "folder.png is a folder; name a picture file",
        "header.png": "header.png is ",
        "short.png": "short.png is damaged: ",
        "drawing.eps": "drawing.eps is not a picture",
        "none.png": "there is no picture at .*none.png",
    }.items():
        with pytest.raises(PictureError, match=message) as caught:
            load_picture(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_every_cut_and_many_flips_of_a_file_give_a_picture_or_a_sentence(tmp_path: Path, colours: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(colours[:12, :12]).save(stream, "PNG")
    random = np.random.default_rng(0)
    for content in (stream.getvalue(), jpeg(colours[:12, :12])):
        for _ in range(60):
            damaged = bytearray(content[: random.integers(1, len(content) + 1)])
            damaged[random.integers(len(damaged))] ^= int(random.integers(1, 256))
            (tmp_path / "a").write_bytes(damaged)
            try:
                assert load_picture(tmp_path / "a").mode == "RGB"
            except PictureError as error:
                assert "\n" not in str(error)


def test_prepare_is_pillows_bilinear_resize_scaled(colours: np.ndarray) -> None:
    want = np.asarray(Image.fromarray(colours).resize((64, 64), Image.Resampling.BILINEAR)).astype(np.float64) / 255
    got = prepare(colours, SIZES, ALL)
    assert got.dtype == np.float32 and got.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(got[0].transpose(1, 2, 0), (want - 0.5) / 0.5, rtol=0, atol=1e-6)


def test_byte_arrays_of_every_form(colours: np.ndarray) -> None:
    gray = colours[..., 0]
    np.testing.assert_array_equal(prepare(gray, SIZES, ALL), prepare(gray[..., None].repeat(3, 2), SIZES, ALL))
    np.testing.assert_array_equal(prepare(gray[..., None], SIZES, ALL), prepare(gray, SIZES, ALL))
    opaque = np.concatenate([colours, np.full((*colours.shape[:2], 1), 255, np.uint8)], 2)
    np.testing.assert_array_equal(prepare(opaque, SIZES, ALL), prepare(colours, SIZES, ALL))
    np.testing.assert_array_equal(prepare(colours[::-1, ::2], SIZES, ALL), prepare(colours[::-1, ::2].copy(), SIZES, ALL))


def test_a_float_array_is_taken_as_it_is() -> None:
    array = np.linspace(-1, 1, 2 * 3 * 64 * 64, dtype=np.float32).reshape(2, 3, 64, 64)
    np.testing.assert_array_equal(prepare(array, SIZES, ALL), array)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((2, 3, 64, 64)), r"the picture array has type float64; use uint8 \[H, W, 3\] or float32 \[N, 3, 64, 64\] in \[-1, 1\]"),
        (np.zeros((3, 64, 64), np.float32), r"the float32 picture has shape \[3, 64, 64\]; expected \[N, 3, 64, 64\]"),
        (np.zeros((0, 3, 64, 64), np.float32), r"has shape \[0, 3, 64, 64\]"),
        (np.zeros((1, 3, 32, 64), np.float32), r"has shape \[1, 3, 32, 64\]"),
        (np.full((1, 3, 64, 64), 255, np.float32), r"has values from 255 to 255; expected \[-1, 1\] without NaN"),
        (np.full((1, 3, 64, 64), np.nan, np.float32), "has values from nan to nan"),
        (np.zeros((4, 4, 5), np.uint8), r"the uint8 picture has shape \[4, 4, 5\]; expected \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"the uint8 picture has shape \[0, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"the uint8 picture has shape \[1, 4, 4, 3\]"),
        (Image.new("RGB", (0, 4)), "the picture is 0 x 4; give one of at least one pixel"),
        (17, "a picture cannot be made from int"),
        (None, "a picture cannot be made from NoneType"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(picture: Any, message: str) -> None:
    kind = PictureError if isinstance(picture, np.ndarray | Image.Image) else ArgumentError
    with pytest.raises(kind, match=message):
        prepare(picture, SIZES, ALL)


def test_tensors_of_pytorch_count_as_arrays(colours: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    floats = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    for tensor in (torch.tensor(floats), torch.tensor(floats, requires_grad=True), torch.tensor(floats).double()):
        np.testing.assert_array_equal(prepare(tensor, SIZES, ALL), floats)
    for kind in (torch.bfloat16, torch.float16):
        tensor = torch.tensor(floats, requires_grad=True).to(kind)
        np.testing.assert_array_equal(prepare(tensor, SIZES, ALL), tensor.detach().float().numpy())
    np.testing.assert_array_equal(prepare(torch.tensor(colours), SIZES, ALL), prepare(colours, SIZES, ALL))
    with pytest.raises(PictureError, match="^the picture array has type int64; use uint8"):
        prepare(torch.zeros(1, 3, 64, 64, dtype=torch.int64), SIZES, ALL)
    for unreadable in (torch.zeros(1, 3, 64, 64, device="meta"), torch.zeros(64, 64).to_sparse()):
        with pytest.raises(PictureError, match="^the Tensor cannot be read as an array: ") as caught:
            prepare(unreadable, SIZES, ALL)
        assert "\n" not in str(caught.value)


def test_a_picture_that_is_read_only_now_may_fail_in_one_sentence(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    truncated = Image.open(io.BytesIO(content[: len(content) // 2]))
    closed, loaded_and_closed = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "a.png")
    loaded_and_closed.load()
    for picture in (closed, loaded_and_closed):
        picture.close()
    for picture, why in (
        (truncated, "image file is truncated"),
        (closed, "Operation on closed image"),
        (loaded_and_closed, "Operation on closed image"),
        (Unreadable(SyntaxError("broken PNG file")), "broken PNG file"),
        (Unreadable(IndexError()), "IndexError"),
    ):
        with pytest.raises(PictureError, match=f"^the picture cannot be read: {why}.*; open it again$"):
            prepare(picture, SIZES, ALL)
    with pytest.raises(OutOfMemoryError, match="^not enough memory to decode the picture; make it smaller$"):
        prepare(Unreadable(MemoryError()), SIZES, ALL)


class Unreadable(Image.Image):
    """A picture whose decoder fails as decoders do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def load(self) -> Any:
        raise self.error


@pytest.mark.parametrize("path", ["a\0b.png", "\0", Path("a\0b.png")])
def test_a_path_with_a_zero_byte_is_one_sentence(path: str | Path) -> None:
    with pytest.raises(PictureError) as caught:
        prepare(path, SIZES, ALL)
    assert str(caught.value) == f"cannot read {str(path)!r}: embedded null byte"


def test_a_single_nan_is_found() -> None:
    array = np.zeros((2, 3, 64, 64), np.float32)
    array[1, 2, 3, 4] = np.nan
    with pytest.raises(PictureError, match="without NaN"):
        prepare(array, SIZES, ALL)


def test_bytes_are_clamped_rounded_and_cut() -> None:
    levels = np.arange(256)
    pixels = np.tile((levels / 127.5 - 1).astype(np.float32), (1, 3, 4, 1))
    np.testing.assert_array_equal(to_bytes(pixels)[0, 0, :, 0], levels)
    np.testing.assert_array_equal(to_bytes(pixels + np.float32(0.45 / 127.5))[0, 0, :, 1], levels)
    extremes = np.array([-7, -1, 1, 7], np.float32).reshape(1, 1, 1, 4).repeat(3, 1)
    assert to_bytes(extremes)[0, 0, :, 2].tolist() == [0, 0, 255, 255]
    rows = np.linspace(-1, 1, 8, dtype=np.float32)[None, None, :, None].repeat(3, 1).repeat(5, 3)
    assert [image.size for image in to_images(rows, (2, 5))] == [(5, 3)]
    np.testing.assert_array_equal(to_bytes(rows, (2, 5)), to_bytes(rows)[:, 2:5])


def test_a_generated_nan_is_an_error_not_a_picture() -> None:
    pixels = np.zeros((1, 3, 4, 4), np.float32)
    pixels[0, 0, 0, 0] = np.inf
    with pytest.raises(PictureError, match="holds NaN or infinite values; run with precision fp32"):
        to_images(pixels)


def linear_profile(space: bytes = b"RGB ") -> bytes:
    """A colour profile whose numbers are linear light."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name.endswith(b"TRC"):
            profile[at : at + size] = b"curv" + bytes(8) + bytes(size - 12)  # no points: the identity
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be")).replace(b"sRGB", b"line")


def test_colour_profiles_become_srgb_unless_they_are_ignored(tmp_path: Path, colours: np.ndarray) -> None:
    profile = linear_profile()
    light = colours / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    alpha = np.full((*colours.shape[:2], 1), 255, np.uint8)
    for name, pixels in (("plain", colours), ("clear", np.concatenate([colours, alpha], 2))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", icc_profile=profile)
        found = load_picture(tmp_path / f"{name}.png")
        assert np.abs(np.asarray(found, int) - expected).max() <= 2
        assert np.array_equal(np.asarray(to_rgb(found)), np.asarray(found))  # once is enough
        assert np.array_equal(np.asarray(load_picture(tmp_path / f"{name}.png", profiles=False)), colours)
    sizes, rows = {"R": 64, "S": 64}, (0, 64)
    converted, ignored = (prepare(tmp_path / "plain.png", sizes, rows, profiles=profiles) for profiles in (True, False))
    assert converted.mean() > ignored.mean() + 0.1
    with Image.open(tmp_path / "plain.png") as opened:
        assert np.array_equal(prepare(opened, sizes, rows), converted)


@pytest.mark.parametrize("profile", [b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"space"])
def test_profiles_that_say_nothing_else_change_nothing(tmp_path: Path, colours: np.ndarray, profile: bytes) -> None:
    """A damaged one, sRGB itself, and one of another colour space than the picture's."""
    if profile == b"space":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(colours).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(loaded(tmp_path / "a.png"), colours)


def test_the_size_of_a_turned_picture(tmp_path: Path, colours: np.ndarray) -> None:
    exif, image = Image.Exif(), Image.fromarray(colours)
    for orientation in (1, 3, 6, 8):
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif)
        assert picture_size(tmp_path / "a.jpg") == load_picture(tmp_path / "a.jpg").size
    with pytest.raises(PictureError, match="there is no picture at"):
        picture_size(tmp_path / "absent.jpg")


def test_heic_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(PictureError, match=r'is a HEIC picture, as phones make them; .* pip install "sdic-toolkit\[heic\]"'):
        load_picture(tmp_path / "a.HEIC")


def test_a_decoder_for_heic_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stands in for pillow-heif: it is asked to register itself, and what it registered decodes."""

    class Decoder(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (3, 2)

        def load(self) -> Any:
            self.im = Image.new("RGB", (3, 2), (10, 20, 30)).im
            return None

    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: Image.register_open("HEIF", Decoder)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(100))
    try:
        assert (loaded(tmp_path / "a.heic") == (10, 20, 30)).all()
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
