"""Pictures of a room as files and in strips."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_bundle import change_manifest

from sdic_runtime.bundle.manifest import FFHQ
from sdic_runtime.errors import ArgumentError
from sdic_runtime.faces import open_photo
from sdic_runtime.sheets import PHOTO_SIDE, back_and_forth, gif, reduced, sheet
from sdic_runtime.studio.rooms import Asked, Kept, Room, Taken, encoded, opened


@pytest.fixture(scope="module")
def room(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Of the tiny bundle, said to be a model of aligned faces."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("rooms") / "faces"))
    change_manifest(folder, faces=FFHQ)
    made = Room(folder, {"threads": 1})
    made.load()
    return made


def inverted(room: Room, photo: Image.Image) -> Kept:
    (kept,) = room.invert([(opened(open_photo(photo), True), Taken())])
    assert isinstance(kept, Kept), kept
    return kept


@pytest.fixture(scope="module")
def astronaut() -> Any:
    pytest.importorskip("skimage")
    from face_pictures import astronaut

    return astronaut()


@pytest.mark.parametrize("paste", ["difference", "replace"])
def test_photographs_in_strips_and_animations_have_a_size_to_look_at(room: Room, astronaut: Image.Image, paste: str) -> None:
    photo = Image.new("RGB", (2400, 1200), "gray")
    photo.paste(astronaut.resize((1000, 1000)), (700, 100))
    kept = inverted(room, photo)
    asked = [Asked((("smile", strength),), paste=paste) for strength in (-1.0, 1.0)]
    assert [image.size for image in room.pictures(kept, asked)] == [(2400, 1200)] * 2
    strip = room.strip(kept, asked, ["-1", "1"])
    assert 2 * PHOTO_SIDE < strip.width < 2 * PHOTO_SIDE + 50 and strip.height < 1200
    frames = room.pictures(kept, asked, small=True)
    assert Image.open(io.BytesIO(gif(back_and_forth(frames)))).size == (PHOTO_SIDE, PHOTO_SIDE // 2)


def see_through() -> Image.Image:
    """Red, and to the right black that nobody is to see."""
    image = Image.new("RGBA", (64, 32), "red")
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    return image


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_transparency_is_kept_or_white(kind: str) -> None:
    made = Image.open(io.BytesIO(encoded(see_through(), kind)))
    assert made.mode == ("RGB" if kind == "jpeg" else "RGBA")
    shown = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made.convert("RGBA"))
    for x, expected in ((8, (255, 0, 0)), (56, (255, 255, 255))):
        assert all(abs(one - other) <= 4 for one, other in zip(shown.getpixel((x, 16)), expected, strict=False))


def test_transparent_parts_of_strips_and_animations_are_white() -> None:
    strip, animation = sheet([[see_through()]], [""]), Image.open(io.BytesIO(gif([see_through()]))).convert("RGB")
    assert strip.getpixel((8 + 56, 8 + 16)) == animation.getpixel((56, 16)) == reduced(see_through()).getpixel((56, 16)) == (255, 255, 255)


@pytest.mark.parametrize(("kind", "side"), [("webp", 16_383), ("jpeg", 65_500)])
def test_a_picture_that_a_format_cannot_hold_is_refused(kind: str, side: int) -> None:
    assert Image.open(io.BytesIO(encoded(Image.new("RGB", (side, 1)), kind))).size == (side, 1)
    for size in ((side + 1, 1), (1, side + 1)):
        expected = f'a picture of {size[0]} x {size[1]} pixels is too large for "{kind}", which has {side} a side at most; ask for "png"'
        with pytest.raises(ArgumentError, match=expected):
            encoded(Image.new("RGB", size), kind)
        assert Image.open(io.BytesIO(encoded(Image.new("RGB", size), "png"))).size == size
