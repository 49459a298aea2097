"""Strips, sheets and animations: sizes, places and contents that a person would notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import sheets
from sdic_runtime.errors import ArgumentError, FileError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def cell_centre(canvas: Image.Image, row: int, column: int, cell: int = 40) -> tuple[int, int, int]:
    step = cell + sheets.GAP
    return canvas.getpixel((sheets.GAP + column * step + cell // 2, sheets.GAP + row * step + cell // 2))


def test_each_picture_stands_in_its_own_cell() -> None:
    canvas = sheets.sheet([[plain(RED), plain(GREEN)], [plain(BLUE), plain(RED)]], ["a", "b"])
    assert [[cell_centre(canvas, row, column) for column in range(2)] for row in range(2)] == [[RED, GREEN], [BLUE, RED]]


def test_captions_are_drawn_below_their_own_columns() -> None:
    canvas = np.asarray(sheets.sheet([[plain(RED), plain(RED)]], ["wide caption", ""], height=100))
    below = canvas[100 + sheets.GAP + 1 :].min(axis=(0, 2))
    first, second = below[sheets.GAP : sheets.GAP + 100], below[sheets.GAP * 2 + 100 :]
    assert first.min() < 120
    assert second.min() == 255


def test_a_smaller_picture_is_scaled_to_the_height_of_the_others() -> None:
    canvas = sheets.sheet([[plain(RED, (10, 10)), plain(GREEN, (40, 40))]], ["small", "large"])
    assert cell_centre(canvas, 0, 0) == RED
    assert canvas.getpixel((sheets.GAP, sheets.GAP)) == RED


def test_a_picture_of_another_aspect_ratio_keeps_it_and_is_centred() -> None:
    canvas = sheets.sheet([[plain(RED, (20, 40)), plain(GREEN)]], ["narrow", "square"])
    top = sheets.GAP + 20
    assert [canvas.getpixel((sheets.GAP + x, top)) for x in (2, 12, 27, 37)] == [sheets.BACKGROUND, RED, RED, sheets.BACKGROUND]


def test_other_modes_are_drawn_in_colour() -> None:
    assert cell_centre(sheets.sheet([[Image.new("L", (40, 40), 7)]], [""]), 0, 0) == (7, 7, 7)


def test_a_long_caption_is_shortened_to_its_column() -> None:
    canvas = np.asarray(sheets.sheet([[plain(RED), plain(RED)]], ["an endless caption that nobody can read", ""]))
    assert canvas[40 + sheets.GAP :, 2 * sheets.GAP + 40 :].min() == 255


def test_wrong_number_of_captions_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a sheet has 1 captions and a row of 2 pictures; give one caption per column"):
        sheets.sheet([[plain(RED), plain(RED)]], ["a"])
    with pytest.raises(ArgumentError, match="a sheet needs at least one picture"):
        sheets.sheet([], [])


def test_labels_stand_to_the_left_of_their_rows() -> None:
    pictures = [[plain(RED)], [plain(BLUE)]]
    without, labelled = sheets.sheet(pictures, [""]), sheets.sheet(pictures, [""], labels=["", "second row"])
    margin = labelled.width - without.width
    assert margin > 20 and labelled.crop((margin, 0, labelled.width, labelled.height)).tobytes() == without.tobytes()
    left = np.asarray(labelled)[:, :margin]
    assert left[: 40 + sheets.GAP].min() == 255 and left[40 + 2 * sheets.GAP :].min() < 120
    with pytest.raises(ArgumentError, match="a sheet has 1 labels and 2 rows; give one label per row"):
        sheets.sheet(pictures, [""], labels=["a"])


def test_notes_stand_below_their_pictures() -> None:
    pictures = [[plain(RED), plain(BLUE)], [plain(BLUE), plain(RED)]]
    noted = np.asarray(sheets.sheet(pictures, ["", ""], notes=[["", ""], ["", "smile"]]))
    note = noted.shape[0] - np.asarray(sheets.sheet(pictures, ["", ""])).shape[0]
    assert note > 0 and note % 2 == 0
    step = 40 + sheets.GAP + note // 2
    assert cell_centre(Image.fromarray(noted[step:]), 0, 0) == BLUE and cell_centre(Image.fromarray(noted[step:]), 0, 1) == RED
    below = noted[step + sheets.GAP + 40 : 2 * step + sheets.GAP // 2]
    assert below[:, : 40 + sheets.GAP].min() == 255 and below[:, 40 + 2 * sheets.GAP :].min() < 120
    assert noted[sheets.GAP + 40 : step + sheets.GAP].min() == 255
    with pytest.raises(ArgumentError, match="a sheet of 2 x 2 pictures has other notes; give one note per picture"):
        sheets.sheet(pictures, ["", ""], notes=[["", ""]])


def test_back_and_forth_repeats_neither_end() -> None:
    frames = [plain((value, 0, 0)) for value in range(4)]
    assert [frame.getpixel((0, 0))[0] for frame in sheets.back_and_forth(frames)] == [0, 1, 2, 3, 2, 1]
    assert len(sheets.back_and_forth(frames[:2])) == 2
    assert len(sheets.back_and_forth(frames[:1])) == 1


def test_an_animation_reads_back_with_every_frame(tmp_path: Path) -> None:
    path = sheets.save_animation([plain(RED), plain(GREEN), plain(BLUE)], tmp_path / "a.gif", milliseconds=80)
    with Image.open(path) as animation:
        colours = []
        for index in range(animation.n_frames):
            animation.seek(index)
            colours.append(animation.convert("RGB").getpixel((5, 5)))
        assert colours == [RED, GREEN, BLUE]
        assert (animation.info["duration"], animation.info["loop"]) == (80, 0)


def test_an_animation_under_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r'an animation is written as \.gif, not as "a\.png"'):
        sheets.save_animation([plain(RED)], tmp_path / "a.png")
    with pytest.raises(ArgumentError, match="an animation needs at least one picture"):
        sheets.save_animation([], tmp_path / "a.gif")


@pytest.mark.parametrize("ending", [".png", ".webp", ".bmp", ".tif"])
def test_a_lossless_picture_reads_back_equal(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = sheets.save_picture(Image.fromarray(noise), tmp_path / f"noise{ending}")
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), noise)


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r'"picture\.txt" names no picture format; end the name with one of \.png'):
        sheets.save_picture(plain(RED), tmp_path / "picture.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sheets.save_picture(plain(RED), tmp_path / "picture.png")
    before = path.read_bytes()

    def fail(self: Image.Image, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(FileError, match="no space left on device"):
        sheets.save_picture(plain(GREEN), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
