"""`sdic-run demo`: one sheet of the pictures that come with the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import sheets
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.cli.demo import CAPTIONS, EDITS
from sdic_runtime.edits import UNKNOWN_RANGE, Direction
from sdic_runtime.pipeline import Pipeline

BACKEND = ("--backend", "onnxruntime:threads=1")


def test_the_demo_draws_one_sheet(run: Any, demo_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdic_runtime.cli.demo.EDITS", dict.fromkeys("abc", (("smile", 0), ("smile", 1), ("smile", 0))))
    sheet, notes = sheets.sheet, []

    def watched(*given: Any, **options: Any) -> Any:
        notes.extend(options["notes"])
        return sheet(*given, **options)

    monkeypatch.setattr(sheets, "sheet", watched)
    photos.rename(demo_bundle / "pictures")
    code, lines, errors = run("demo", *BACKEND, "--out", "shown")
    assert (code, lines) == (0, ["shown/sheet.png", "shown/a.smile.gif"])
    assert "using the embedded demo bundle" in errors and "open shown/sheet.png" in errors
    drawn = np.asarray(Image.open(tmp_path / "shown/sheet.png"))
    assert drawn.shape[1] == 6 * (256 + 8) + 8
    shown = [drawn[8:264, left : left + 256] for left in range(8 + 3 * 264, 6 * 264, 264)]
    with Pipeline.load(demo_bundle, backend="onnxruntime", threads=1) as pipeline:
        ends = pipeline.directions["smile"].strength_range or UNKNOWN_RANGE  # type: ignore[union-attr]
        inversion = pipeline.invert(demo_bundle / "pictures/a.png")
        for picture, strength in zip(shown, (ends[0], ends[1], ends[0]), strict=True):
            (edited,) = pipeline.edit(inversion, "smile", strength).images
            assert np.array_equal(picture, np.asarray(sheets.fitted(edited, 256, 256)))
    assert notes == [["", "", "", *(f"smile {end:+g}" for end in (*ends, ends[0]))]] * 3


def test_every_picture_of_the_demo_has_edits_that_its_bundle_knows() -> None:
    pictures = {path.stem for path in (DEMO_FOLDER / "pictures").iterdir()}
    assert pictures == EDITS.keys() and {len(edits) + 3 for edits in EDITS.values()} == {len(CAPTIONS)}
    with Pipeline.load(DEMO_FOLDER, backend="onnxruntime") as pipeline:
        for name, end in (edit for edits in EDITS.values() for edit in edits):
            direction = pipeline.directions[name]
            assert isinstance(direction, Direction) and direction.strength_range and end in (0, 1)


def test_a_demo_without_pictures_says_so(run: Any, demo_bundle: Path) -> None:
    assert run("demo")[2] == f"error: the demo pictures are missing at {demo_bundle}/pictures; install sdic-toolkit again\n"
