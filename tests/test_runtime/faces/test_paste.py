from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from sdic_runtime.errors import ArgumentError, PictureError
from sdic_runtime.faces import Face, find
from sdic_runtime.faces.align import Square
from sdic_runtime.faces.paste import added, replaced


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one, int) - np.asarray(other, int))


def test_an_untouched_crop_comes_back(astronaut: Image.Image, face: Face) -> None:
    left, top, right, bottom = face.square.bounds(astronaut)
    for mask in ("person", "face", "square"):
        changed = difference(face.paste(face.crop, mask=mask), astronaut)
        assert changed[top:bottom, left:right].mean() < 1
        changed[top:bottom, left:right] = 0
        assert changed.max() == 0
        assert difference(face.paste(face.crop, base=face.crop, mask=mask), astronaut).max() == 0


def test_a_square_on_the_grid_comes_back_exactly(astronaut: Image.Image) -> None:
    square = Square((200, 120), (64, 0))
    mask = Image.new("L", (32, 32), 255)
    assert difference(replaced(astronaut, square, square.cut(astronaut, 128), mask), astronaut).max() == 0


@pytest.mark.parametrize("size", [64, 180, 512])
def test_a_constant_change_arrives_as_it_is(astronaut: Image.Image, face: Face, size: int) -> None:
    """Everything of the mask is moved by 20 gray levels, what is outside by none, what is between by less."""
    crop = face.aligned(size)
    brighter = Image.fromarray(np.minimum(np.asarray(crop, int), 200).astype(np.uint8))
    darker = Image.fromarray((np.asarray(brighter, int) - 20).clip(0).astype(np.uint8))
    base = Image.fromarray((np.asarray(darker, int) + 20).astype(np.uint8))
    changed = np.asarray(astronaut, int) - np.asarray(face.paste(darker, base=base), int)
    x, y = (round(value) for value in face.landmarks.mouth)
    assert set(np.unique(changed[y - 5 : y + 5, x - 5 : x + 5])) == {20}
    assert changed.max() == 20
    assert changed.min() == 0
    weights = np.asarray(face.mask())
    assert set(np.unique(weights)) > {0, 255}
    assert max(weights[0].max(), weights[-1].max(), weights[:, 0].max(), weights[:, -1].max()) < 5


def test_the_fade_is_smooth(astronaut: Image.Image, face: Face) -> None:
    """No seam: a white picture pasted onto a black photograph never jumps."""
    black = Image.new("RGB", astronaut.size)
    for mask in ("person", "face", "square"):
        pasted = np.asarray(face.paste(Image.new("RGB", (256, 256), "white"), mask=mask, onto=black), int)[..., 0]
        assert pasted.max() == 255
        assert max(np.abs(np.diff(pasted, axis=axis)).max() for axis in (0, 1)) < 75


def test_masks_tell_the_person_from_the_background(face: Face) -> None:
    person, only_face = np.asarray(face.mask("person"), float), np.asarray(face.mask("face"), float)
    assert person[128, 128] == only_face[128, 128] == 255
    assert person[40, 128] > 200 > 50 > only_face[40, 128]  # hair
    assert person[:120, :12].max() < 60  # the background beside it
    assert only_face.sum() < person.sum()


def test_the_other_faces_stay(astronaut: Image.Image) -> None:
    """Two heads side by side: each person's mask spares the other's face."""
    head = astronaut.crop((160, 20, 290, 200))
    photo = Image.new("RGB", (260, 180))
    photo.paste(head, (0, 0))
    photo.paste(head, (110, 0))
    one, other = find(photo)
    x, y = other.landmarks.mouth
    pasted = one.paste(Image.new("RGB", (256, 256), "red"))
    assert pasted.getpixel((round(x), round(y))) == photo.getpixel((round(x), round(y)))
    both = other.paste(Image.new("RGB", (256, 256), "blue"), onto=pasted)
    assert both.getpixel((round(x), round(y))) == (0, 0, 255)
    x, y = one.landmarks.mouth
    assert both.getpixel((round(x), round(y))) == (255, 0, 0)


def test_what_is_kept_is_not_touched(astronaut: Image.Image, face: Face) -> None:
    keep = Image.new("L", astronaut.size)
    keep.paste(255, (0, 0, 225, 512))
    pasted = face.paste(Image.new("RGB", (64, 64), "red"), keep=keep)
    assert difference(pasted, astronaut)[:, :225].max() == 0
    assert pasted.getpixel((240, 120)) == (255, 0, 0)
    assert (
        difference(face.paste(ImageOps.invert(face.crop), base=face.crop, keep=Image.new("L", astronaut.size, 255)), astronaut).max() == 0
    )


def test_a_face_at_the_edge(astronaut: Image.Image) -> None:
    photo = astronaut.crop((190, 60, 512, 300))
    (face,) = find(photo)
    assert face.square.leaves(photo)
    assert difference(face.paste(face.crop, mask="square"), photo).mean() < 1
    red = face.paste(Image.new("RGB", (64, 64), "red"), mask="square")
    assert red.getpixel((0, 60)) == (255, 0, 0)  # up to the photograph's own edge
    assert difference(red, photo)[-40:, -40:].max() == 0


def test_a_picture_with_more_pixels_than_the_photograph_is_filtered() -> None:
    """A fine checkerboard becomes its mean, no other pattern."""
    photo = Image.new("RGB", (120, 120))
    square = Square((60, 60), (20, 3))
    board = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    pasted = np.asarray(replaced(photo, square, board, Image.new("L", (8, 8), 255)), int)
    assert np.abs(pasted[50:70, 50:70] - 127.5).max() < 6


def test_transparency_stays(astronaut: Image.Image) -> None:
    alpha = Image.linear_gradient("L").resize(astronaut.size)
    photo = astronaut.copy()
    photo.putalpha(alpha)
    photo.putpixel((5, 0), (1, 2, 3, 0))
    (face,) = find(photo)
    pasted = face.paste(face.crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    assert pasted.mode == "RGBA"
    assert difference(pasted.getchannel("A"), alpha).max() == 0
    assert pasted.getpixel((5, 0)) == (1, 2, 3, 0)


def test_what_cannot_be_pasted_is_refused(astronaut: Image.Image, face: Face) -> None:
    with pytest.raises(PictureError, match="the picture to paste has 20 x 10 pixels; it must be a square"):
        face.paste(Image.new("RGB", (20, 10)))
    with pytest.raises(ArgumentError, match='the mask is "hair"; use person, face, square'):
        face.paste(face.crop, mask="hair")  # type: ignore[arg-type]
    with pytest.raises(PictureError, match="what is kept has 3 x 3 pixels and the photograph 512 x 512"):
        face.paste(face.crop, keep=Image.new("L", (3, 3)))
    with pytest.raises(PictureError, match="the picture to paste onto has 3 x 3 pixels"):
        face.paste(face.crop, onto=Image.new("L", (3, 3)))


def test_a_base_of_another_size_is_resized(astronaut: Image.Image, face: Face) -> None:
    assert difference(face.paste(face.aligned(512), base=face.crop), astronaut).mean() < 0.1


def test_a_square_outside_changes_nothing(astronaut: Image.Image) -> None:
    square, picture, mask = Square((-100, -100), (20, 0)), Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), 255)
    assert difference(replaced(astronaut, square, picture, mask), astronaut).max() == 0
    assert difference(added(astronaut, square, picture, Image.new("RGB", (8, 8)), mask), astronaut).max() == 0


def test_a_photograph_of_12_megapixels_takes_no_second_of_cpu(face: Face) -> None:
    """Alignment and paste, without the models' time; the CPU's own clock, for machines that do other things too."""
    photo = Image.new("RGB", (4000, 3000), "gray")
    square = Square((2000, 1500), (740, 60))
    mask = face.mask("square")
    start = time.process_time()
    replaced(photo, square, square.cut(photo, 1024), mask)
    assert time.process_time() - start < 1
