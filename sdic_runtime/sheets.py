"""Pictures for people to look at: strips and sheets with captions, and animations over a range of strengths."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_runtime.decoding.pixels import as_rgb
from sdic_runtime.errors import ArgumentError
from sdic_runtime.files import replacing

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
GAP = 8  # pixels between the cells of a sheet
SMALLEST_FONT = 9  # points; below this the default font is unreadable
PHOTO_SIDE = 1024  # pixels of a photograph's longer side in a strip or an animation, at most
CAPTION_SHARE = 18  # a caption's font height is the cell height divided by this
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
SAVE_OPTIONS: dict[str, dict[str, object]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[str],
    height: int | None = None,
    labels: Sequence[str] | None = None,
    notes: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """A grid of pictures on white, one caption below each column.

    rows      rows of equally many pictures, any size and mode; every one is drawn `height` pixels high and the widest
              aspect ratio gives the width of all cells
    captions  one text per column, shortened when it is wider than its column
    height    of a cell in pixels; the tallest picture's when None
    labels    one text to the left of each row; none when None
    notes     one text below each picture, shortened like a caption; none when None
    """
    _check_shape(rows, captions, labels, notes)
    from PIL import Image, ImageDraw, ImageFont

    cell_height = height or max(picture.height for row in rows for picture in row)
    cell_width = max(round(cell_height * picture.width / picture.height) for row in rows for picture in row)
    font = ImageFont.load_default(size=max(SMALLEST_FONT, cell_height // CAPTION_SHARE))  # Pillow's own: no file has to be found
    assert isinstance(font, ImageFont.FreeTypeFont)  # as always when a size is given
    text_height = round(font.size * 1.6)
    step = cell_height + GAP + (text_height if notes else 0)
    margin = max((int(font.getlength(label)) + 2 * GAP for label in labels), default=0) if labels else 0
    width, below = margin + len(captions) * (cell_width + GAP) + GAP, GAP + len(rows) * step
    canvas = Image.new("RGB", (width, below + text_height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)

    def write(text: str, column: int, top: int) -> None:
        short = shortened(draw, text, font, cell_width)
        left = margin + GAP + column * (cell_width + GAP) + (cell_width - int(draw.textlength(short, font=font))) // 2
        draw.text((left, top), short, fill=INK, font=font)

    for index, row in enumerate(rows):
        top = GAP + index * step
        for column, picture in enumerate(row):
            drawn = fitted(picture, cell_width, cell_height)
            left = margin + GAP + column * (cell_width + GAP) + (cell_width - drawn.width) // 2
            canvas.paste(drawn, (left, top))
            if notes:
                write(notes[index][column], column, top + cell_height + GAP // 2)
        if labels:
            draw.text((GAP, top + (cell_height - int(font.size)) // 2), labels[index], fill=INK, font=font)
    for column, caption in enumerate(captions):
        write(caption, column, below - GAP // 2)
    return canvas


def _check_shape(
    rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], labels: Sequence[str] | None, notes: Sequence[Sequence[str]] | None
) -> None:
    if not rows or not rows[0]:
        raise ArgumentError("a sheet needs at least one picture")
    wrong = next((row for row in rows if len(row) != len(captions)), None)
    if wrong is not None:
        raise ArgumentError(f"a sheet has {len(captions)} captions and a row of {len(wrong)} pictures; give one caption per column")
    if labels is not None and len(labels) != len(rows):
        raise ArgumentError(f"a sheet has {len(labels)} labels and {len(rows)} rows; give one label per row")
    if notes is not None and [len(row) for row in notes] != [len(row) for row in rows]:
        raise ArgumentError(f"a sheet of {len(rows)} x {len(captions)} pictures has other notes; give one note per picture")


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as RGB, as large as fits into `width` x `height` at its own aspect ratio."""
    from PIL import Image

    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    rgb = picture if picture.mode == "RGB" else seen(picture)
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)


def seen(picture: Image.Image) -> Image.Image:
    """The picture as RGB, its transparent parts on white."""
    return as_rgb(picture, "the picture", profiles=False) if picture.has_transparency_data else picture.convert("RGB")


def reduced(photo: Image.Image) -> Image.Image:
    """A photograph for a strip or an animation: as RGB, of a size to look at."""
    small = seen(photo)
    small.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return small


def shortened(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits into `width` pixels with three dots after it."""
    beginnings = (f"{text[:count]}..." for count in range(len(text), 0, -1))
    return next((cut for cut in (text, *beginnings) if draw.textlength(cut, font=font) <= width), "...")


def back_and_forth(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames forwards and then backwards without repeating either end, so that a loop has no jump."""
    return [*frames, *frames[-2:0:-1]]


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 120) -> Path:
    """Write the frames as an endless animated GIF, each shown for `milliseconds`."""
    if not frames:
        raise ArgumentError("an animation needs at least one picture")
    if path.suffix.lower() != ".gif":
        raise ArgumentError(f'an animation is written as .gif, not as "{path.name}"')
    content = gif(frames, milliseconds)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def gif(frames: Sequence[Image.Image], milliseconds: int = 120) -> bytes:
    """The frames as an endless animated GIF."""
    # One palette per frame: skin tones band visibly under the common palette that Pillow would choose.
    coloured = [seen(frame).quantize(256) for frame in frames]
    stream = BytesIO()
    coloured[0].save(stream, format="GIF", save_all=True, append_images=coloured[1:], duration=milliseconds, loop=0, disposal=1)
    return stream.getvalue()


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write the picture in the format of the path's ending, whole or not at all."""
    kind = PICTURE_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ArgumentError(f'"{path.name}" names no picture format; end the name with one of {", ".join(PICTURE_FORMATS)}')
    with replacing(path) as temporary:
        picture.save(temporary, format=kind, **SAVE_OPTIONS.get(kind, {}))
    return path
