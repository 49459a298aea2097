"""The site's page and its worker around a pipeline that is slow where a test wants it, in headless Chromium."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from site_pages import Visits, pictures_shown, shown, wait_for_picture

from sdic_export.web import site

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

# A "picture" is a text: its shade of gray, and how many milliseconds its inversion takes.
PIPELINE = """
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const gray = (shade) => ({ pixels: new Uint8ClampedArray(64).map((_, i) => (i % 4 === 3 ? 255 : shade)), width: 4, height: 4 });
export class Pipeline {
  static async load(wanted) {
    if (wanted) await wait(Number(wanted));
    return new Pipeline();
  }
  get described() {
    const edits = [{ name: "smile", kind: "direction", range: [-3, 3] }], examples = SITE.examples;
    const known = { name: "gray", method: "none", licence: "", backend: "none", faces: null };
    return { ...known, width: 4, height: 4, moves: ["one"], edits, examples };
  }
  async invert(file) {
    const [shade, milliseconds] = (await file.text()).split(" ").map(Number);
    if (Number.isNaN(shade)) throw new Error(`${file.name} is no picture`);
    await wait(milliseconds);
    this.shade = shade;
    return { input: gray(shade), inversion: gray(shade), squashed: 1 };
  }
  async edit(edits) {
    await wait(30);
    return gray(this.shade + Math.round(edits.reduce((sum, [, strength]) => sum + strength, 0)));
  }
}
"""


def write(folder: Path, examples: dict[str, str]) -> Path:
    """A site with that pipeline, and examples by their paths."""
    shutil.copytree(site.PAGE, folder)
    for name in site.FROM_STUDIO:
        shutil.copyfile(site.STUDIO / name, folder / name)
    for path, text in examples.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    (folder / "pipeline.js").write_text(f"const SITE = {json.dumps({'examples': list(examples)})};{PIPELINE}")
    return folder


@pytest.fixture
def page(visit: Visits, tmp_path: Path) -> Any:
    return visit(write(tmp_path / "site", {}), service_workers="block")


def picture(folder: Path, shade: int, milliseconds: int = 0) -> Path:
    path = folder / f"{shade}.png"
    path.write_text(f"{shade} {milliseconds}")
    return path


def shade(page: Any, canvas: str = "edited") -> int:
    return int(shown(page, canvas)[0, 0, 0])


def choose(page: Any, path: Path) -> None:
    page.set_input_files("#file", path)


REFUSING = """() => {
    window.changes = 0;
    history.replaceState = () => { window.changes += 1; throw new DOMException("too many", "SecurityError"); };
}"""
MOVED = "([value]) => { const one = document.getElementById('slider-smile'); one.value = value; one.dispatchEvent(new Event('input')); }"


def test_an_address_that_cannot_change_costs_no_picture(page: Any, tmp_path: Path) -> None:
    page.evaluate(REFUSING)
    choose(page, picture(tmp_path, 100))
    wait_for_picture(page, 0)
    for value in (1, 2, 3):
        before = pictures_shown(page)
        page.evaluate(MOVED, [value])
        wait_for_picture(page, before)
        assert shade(page) == 100 + value
    page.evaluate("() => { window.changes = 0; }")
    for index in range(20):
        before = pictures_shown(page)
        page.evaluate(MOVED, [index % 3])
        wait_for_picture(page, before)
    assert page.evaluate("changes") <= 15, "the address does not follow every value"
    assert page.faults == []
