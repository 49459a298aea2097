"""Sheets of a bundle's edits: of every direction, eight pictures at both ends of its range; and one of all, for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENDS, SHOWN = 8, 6  # pictures of a sheet
SHOWN_EDITS = ("smile", "age", "glasses", "hair_length")  # of the sheet of all
HEIGHT = 160  # pixels of a picture


def photos(data: Path, size: int, count: int) -> list[Any]:
    """Held-out photos, uint8 [size, size, 3]."""
    from sdic_train.data.datasets import HELD_OUT_SEED, open_portraits

    return list(open_portraits(data, size, True, HELD_OUT_SEED, count).pictures)


def draw(bundle: Path, pictures: Sequence[Any], out: Path) -> list[Path]:
    """Write the sheets into `out`: `sheet.png`, and `ends_NAME.png` for every direction."""
    from PIL import Image

    from sdic_runtime.edits import Direction
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.sheets import save_picture, sheet

    out.mkdir(parents=True, exist_ok=True)
    written = []
    with Pipeline.load(bundle) as pipeline:
        inversions = [pipeline.invert(picture) for picture in pictures[:ENDS]]
        given = [[Image.fromarray(picture), inversion.images[0]] for picture, inversion in zip(pictures, inversions, strict=False)]
        ranges = {name: each.strength_range or (-3.0, 3.0) for name, each in pipeline.directions.items() if isinstance(each, Direction)}
        for name, ends in ranges.items():
            rows = [[*row, *pipeline.edit(it, name, list(ends)).images] for row, it in zip(given, inversions, strict=True)]
            captions = ["input", "inversion", *(f"{name} {end:+.2f}" for end in ends)]
            written.append(save_picture(sheet(rows, captions, HEIGHT), out / f"ends_{name}.png"))
        edits = [(name, ranges[name][1]) for name in SHOWN_EDITS if name in ranges]
        rows = []
        for (picture, inverted), it in list(zip(given, inversions, strict=True))[:SHOWN]:
            edited = [pipeline.edit(it, name, strength).images[0] for name, strength in edits]
            rows.append([picture, pipeline.baseline(it).images[0], inverted, *edited])
        captions = ["input", "e4e", "SDIC", *(f"{name} {strength:+.1f}" for name, strength in edits)]
        written.append(save_picture(sheet(rows, captions, HEIGHT), out / "sheet.png"))
    return written
