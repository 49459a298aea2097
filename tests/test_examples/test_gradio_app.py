from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "examples/gradio_app.py"), run_name="gradio_app"))


def test_its_functions_edit_a_picture_that_is_inverted_once(program: SimpleNamespace, tiny_bundle: Path, tmp_path: Path) -> None:
    app = program.App(str(tiny_bundle))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(photo)
    kept = app.invert(str(photo))
    assert [item.name for item in app.edits] == ["age", "smile"]
    with Pipeline.load(tiny_bundle) as pipeline:
        inversion = pipeline.invert(photo)
        expected = {
            (0, 0): inversion,
            (0, 2): pipeline.edit(inversion, "smile", 2.0),
            (1, -1): pipeline.edit(inversion, [("age", 1), ("smile", -1)]),
        }
        for strengths, pictures in expected.items():
            np.testing.assert_array_equal(app.edit(kept, *strengths), pictures.images[0], str(strengths))


def test_the_page_has_a_slider_for_every_edit(program: SimpleNamespace, tiny_bundle: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    blocks = program.page(program.App(str(tiny_bundle)))
    sliders = [block for block in blocks.blocks.values() if type(block).__name__ == "Slider"]
    assert [(slider.label, slider.minimum, slider.maximum) for slider in sliders] == [("age", -3, 3), ("smile", -3, 3)]
