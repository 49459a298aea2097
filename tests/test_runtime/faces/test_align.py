from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdic_runtime.errors import ArgumentError
from sdic_runtime.faces import Face, Square
from sdic_runtime.faces.align import ffhq_square


def test_the_square_of_ffhq() -> None:
    """The public rule, written down as FFHQ's script has it."""
    left, right, mouth = np.array([100.0, 110.0]), np.array([160.0, 95.0]), np.array([140.0, 170.0])
    eye_to_eye, eye_to_mouth = right - left, mouth - (left + right) / 2
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / np.hypot(*x)
    y = np.flipud(x) * [-1, 1]
    centre = (left + right) / 2 + eye_to_mouth * 0.1
    expected = np.stack([centre - x - y, centre + x - y, centre + x + y, centre - x + y])
    np.testing.assert_allclose(ffhq_square(left, right, mouth).corners, expected)


def test_the_crop_lies_where_dlib_puts_it(face: Face, dlib_points: np.ndarray) -> None:
    expected = ffhq_square(*dlib_points)
    off = np.linalg.norm(face.square.corners - expected.corners, axis=1) / expected.side
    assert off.mean() < 0.015 and off.max() < 0.02
    found = np.array([face.landmarks.left_eye, face.landmarks.right_eye, face.landmarks.mouth])
    off = np.linalg.norm(found - dlib_points, axis=1) / face.landmarks.eye_distance
    assert off.mean() < 0.03 and off.max() < 0.035


def test_inward_and_outward_are_inverse() -> None:
    square = Square((30, 40), (6, 8))
    points = np.random.default_rng(0).normal(size=(5, 7, 2)) * 50
    np.testing.assert_allclose(square.outward(square.inward(points, 64), 64), points)
    np.testing.assert_allclose(square.inward(square.corners, 64), [[0, 0], [64, 0], [64, 64], [0, 64]], atol=1e-9)
    assert square.side == 20
    assert square.angle == pytest.approx(np.degrees(np.arctan2(8, 6)))


def test_a_square_on_the_grid_is_cut_exactly(astronaut: Image.Image) -> None:
    cut = Square((100, 120), (40, 0)).cut(astronaut, 80)
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(astronaut)[80:160, 60:140])


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_turned_square_is_cut_turned(astronaut: Image.Image, angle: int) -> None:
    right = {90: (0, 40), 180: (-40, 0), 270: (0, -40)}[angle]
    cut = Square((100, 120), right).cut(astronaut, 80)
    expected = astronaut.crop((60, 80, 140, 160)).rotate(angle)
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(expected))


@pytest.mark.parametrize("size", [32, 100, 250, 400, 900])
def test_any_scale_keeps_positions_and_means(size: int) -> None:
    """A ramp stays the same ramp, half a pixel here or there would show."""
    y, x = np.mgrid[0:400, 0:400]
    ramp = Image.fromarray(np.stack([x * 255 / 400, y * 255 / 400, x * 0], -1).round().astype(np.uint8))
    square = Square((200, 190), (110, 20))
    cut = np.asarray(square.cut(ramp, size), float)
    places = square.outward(np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), -1), size)
    edge = max(3, size // 50)
    error = (cut[..., :2] - (places - 0.5) * 255 / 400)[edge:-edge, edge:-edge]
    assert np.abs(error).max() < 2  # each of three steps rounds
    assert np.abs(error.mean((0, 1))).max() < 0.15


def test_beyond_the_photograph_lies_its_blurred_reflection(astronaut: Image.Image) -> None:
    square = Square((40, 256), (100, 0))  # 60 pixels of 200 lie beyond the left edge
    cut = np.asarray(square.cut(astronaut, 200), float)
    np.testing.assert_array_equal(cut[:, 60:], np.asarray(astronaut)[156:356, :140])
    inside, outside = np.asarray(astronaut, float)[156:356, :20], cut[:, 40:60][:, ::-1]
    assert np.corrcoef(inside.ravel(), outside.ravel())[0, 1] > 0.8  # the reflection
    assert cut[:, 0].std() < cut[:, 59].std() / 1.5  # fading into one colour
    assert np.abs(np.diff(cut[:, :20], axis=0)).mean() < np.abs(np.diff(cut[:, 60:80], axis=0)).mean() / 2  # blurred
    black = np.asarray(square.cut(astronaut, 200, pad=False))
    assert (black[:, :58] == 0).all()


def test_a_square_far_outside_is_black(astronaut: Image.Image) -> None:
    assert Square((-500, 50), (30, 0)).cut(astronaut, 16).getbbox() is None


def test_the_crop_is_upright_at_any_size(face: Face) -> None:
    assert face.crop.size == (1024, 1024)
    assert face.aligned(64).size == (64, 64)
    left, right, mouth = face.square.inward(np.array([face.landmarks.left_eye, face.landmarks.right_eye, face.landmarks.mouth]), 1024)
    assert left == pytest.approx((384, 480), abs=16)
    assert right == pytest.approx((640, 480), abs=16)
    assert mouth == pytest.approx((512, 700), abs=30)
    for size in (0, 9000, 1.5):
        with pytest.raises(ArgumentError, match="the crop's size is"):
            face.aligned(size)  # type: ignore[arg-type]
