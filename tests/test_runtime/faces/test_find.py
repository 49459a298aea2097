from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from skimage import data

from sdic_runtime.errors import ArgumentError, PictureError
from sdic_runtime.faces import Face, find
from sdic_runtime.faces.detect import looks

EYES = 44.4  # pixels between the eyes in `astronaut`


def corner_error(face: Face, other: np.ndarray) -> float:
    """The mean distance of the squares' corners, in sides."""
    return float(np.linalg.norm(face.square.corners - other, axis=1).mean() / face.square.side)


def test_the_face_of_a_photograph(face: Face) -> None:
    left, top, right, bottom = face.box
    assert (left, top, right, bottom) == pytest.approx((182, 71, 270, 177), abs=6)
    assert face.landmarks.eye_distance == pytest.approx(EYES, abs=1)
    assert face.score > 0.9
    assert face.quality > 0.6
    assert face.warning is None
    assert "44 pixels between the eyes" in repr(face) or "45 pixels between the eyes" in repr(face)


@pytest.mark.parametrize("angle", [20, 45, 90, 135, 180, 230, 270, 315])
def test_a_turned_face_has_the_turned_square(astronaut: Image.Image, face: Face, angle: int) -> None:
    middle = np.array([256.0, 256.0])
    radians = np.radians(-angle)  # Pillow turns anticlockwise
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    (found,) = find(astronaut.rotate(angle, Image.Resampling.BICUBIC))
    assert corner_error(found, (face.square.corners - middle) @ turn.T + middle) < 0.025


def test_the_mirrored_face_has_the_mirrored_square(astronaut: Image.Image, face: Face) -> None:
    (found,) = find(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert corner_error(found, (face.square.corners * (-1, 1) + (512, 0))[[1, 0, 3, 2]]) < 0.015


@pytest.mark.parametrize("place", [(0, 0), (800, 500), (1700, 870)])
def test_a_small_face_in_a_large_picture(astronaut: Image.Image, place: tuple[int, int]) -> None:
    side = round(512 * 20 / EYES)
    photo = Image.new("RGB", (1920, 1080), (90, 120, 100))
    photo.paste(astronaut.resize((side, side), Image.Resampling.LANCZOS), place)
    (found,) = find(photo)
    assert found.landmarks.eye_distance == pytest.approx(20, abs=1.5)
    assert found.square.centre == pytest.approx((place[0] + 225 * side / 512, place[1] + 106 * side / 512), abs=4)
    assert found.warning == f"the face is small, {found.landmarks.eye_distance:.0f} pixels between the eyes; its details will be invented"


def test_several_faces_come_by_size_then_from_the_left(astronaut: Image.Image) -> None:
    photo = Image.new("RGB", (1600, 800), (40, 40, 60))
    places = [(900, 0, 700), (0, 20, 400), (420, 20, 400), (100, 450, 250)]  # left, top, side
    for left, top, side in reversed(places):
        photo.paste(astronaut.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    found = find(photo)
    assert len(found) == 4
    for one, (left, top, side) in zip(found, places, strict=True):
        assert one.square.centre == pytest.approx((left + 225 * side / 512, top + 106 * side / 512), abs=8)
    assert [len(one.others) for one in found] == [3] * 4


@pytest.mark.parametrize("name", ["chelsea", "coffee", "brick", "gravel", "rocket", "moon"])
def test_no_face(name: str) -> None:
    assert find(getattr(data, name)()) == []


def test_drawn_shapes_and_tiny_pictures_have_no_face() -> None:
    photo = Image.new("RGB", (500, 500), "white")
    drawing = ImageDraw.Draw(photo)
    drawing.ellipse((100, 100, 400, 400), fill="yellow")
    drawing.ellipse((180, 190, 210, 230), fill="black")
    drawing.ellipse((290, 190, 320, 230), fill="black")
    drawing.arc((180, 220, 320, 340), 20, 160, fill="black", width=8)
    assert find(photo) == []
    for size in ((1, 1), (3, 2000), (2000, 1)):
        assert find(Image.new("RGB", size, "gray")) == []


def test_gray_transparent_dark_and_array_pictures(astronaut: Image.Image, face: Face, tmp_path: Path) -> None:
    clear = astronaut.convert("RGBA")
    clear.putalpha(200)
    path = tmp_path / "a.jpg"
    astronaut.save(path, quality=30)
    for photo in (astronaut.convert("L"), clear, np.asarray(astronaut), np.asarray(astronaut.convert("L")), path, str(path)):
        (found,) = find(photo)
        assert corner_error(found, face.square.corners) < 0.02
    (found,) = find(ImageEnhance.Brightness(astronaut).enhance(0.3))
    assert corner_error(found, face.square.corners) < 0.02


def test_what_is_no_photograph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="there is no picture at"):
        find(tmp_path / "absent.jpg")
    with pytest.raises(PictureError, match=r"the photograph is an array \[4, 4\] of float32; use uint8 \[H, W, 3\]"):
        find(np.zeros((4, 4), np.float32))
    with pytest.raises(ArgumentError, match="a photograph cannot be made from int"):
        find(5)  # type: ignore[arg-type]


def test_low_quality_says_why(astronaut: Image.Image, face: Face) -> None:
    (blurred,) = find(astronaut.resize((2048, 2048)).filter(ImageFilter.GaussianBlur(8)))
    assert blurred.quality < 0.5
    assert "blurred" in str(blurred.warning)
    (cut,) = find(astronaut.crop((205, 0, 512, 200)))
    assert "edge cuts the face" in str(cut.warning)
    (dark,) = find(Image.fromarray((np.asarray(astronaut) // 9).astype(np.uint8)))
    assert "too dark" in str(dark.warning)
    assert face.quality > max(one.quality for one in (blurred, cut, dark))


def test_a_drawn_face_is_found_and_told(face: Face) -> None:
    photo = Image.new("RGB", (500, 500), (120, 160, 200))
    drawing = ImageDraw.Draw(photo)
    drawing.ellipse((110, 80, 390, 420), fill=(240, 200, 170))
    for x in (190, 310):
        drawing.ellipse((x - 26, 206, x + 26, 238), fill="white", outline="black")
        drawing.ellipse((x - 12, 209, x + 12, 235), fill=(60, 90, 60))
        drawing.arc((x - 40, 170, x + 40, 230), 200, 340, fill=(60, 40, 30), width=7)
    drawing.line([(250, 230), (238, 290), (262, 294)], fill=(190, 150, 120), width=5)
    drawing.chord((190, 290, 310, 360), 10, 170, fill=(190, 70, 70))
    grainy = (np.asarray(photo, float) + np.random.default_rng(0).normal(0, 5, (500, 500, 1))).clip(0, 255).astype(np.uint8)
    for picture in (photo, Image.fromarray(grainy), photo.filter(ImageFilter.GaussianBlur(3))):
        (drawn,) = find(picture)
        assert drawn.warning == "it may be a drawing; the models know faces of photographs"
        assert drawn.quality < 0.5
    for radius in (0, 2, 4):
        (true,) = find(face.photo.image.filter(ImageFilter.GaussianBlur(radius)))
        assert "drawing" not in (true.warning or "")


def test_looks_get_finer_until_20_pixels_of_1920_are_6() -> None:
    assert looks(300, 200) == [192]
    assert looks(1920, 1080) == [192, 384, 576]
    assert looks(4000, 3000) == [192, 384, 768, 1200]
    assert looks(30000, 3000)[-1] == 2048
