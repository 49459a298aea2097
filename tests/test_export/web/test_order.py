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


def test_an_edit_waits_for_the_inversion_before_it(page: Any, tmp_path: Path) -> None:
    choose(page, picture(tmp_path, 50))
    wait_for_picture(page, 0)
    choose(page, picture(tmp_path, 150, 400))
    page.evaluate(MOVED, [2])
    page.wait_for_timeout(200)
    assert shade(page, "inversion") == 50 and shade(page) == 50, "the worker is at the inversion"
    expect(page.locator("#status")).to_contain_text("inverted in")
    assert shade(page, "inversion") == 150 and shade(page) == 152


def test_of_two_pictures_the_last_one_wins(page: Any, tmp_path: Path) -> None:
    choose(page, picture(tmp_path, 50, 600))
    choose(page, picture(tmp_path, 150))
    expect(page.locator("#status")).to_contain_text("inverted in")
    page.wait_for_timeout(700)
    assert [shade(page, canvas) for canvas in ("input", "inversion", "before", "edited")] == [150] * 4


def test_one_that_is_no_picture_leaves_the_one_before(page: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    choose(page, picture(tmp_path, 50, 300))
    choose(page, tmp_path / "text.png")
    expect(page.locator("#error")).to_contain_text("text.png is no picture")
    before = pictures_shown(page)
    page.evaluate(MOVED, [2])
    wait_for_picture(page, before)
    assert [shade(page, canvas) for canvas in ("input", "inversion", "edited")] == [50, 50, 52]


def test_a_picture_that_is_dropped_while_the_model_loads_is_inverted(visit: Visits, tmp_path: Path) -> None:
    page = visit(write(tmp_path / "site", {}), path="?backend=800", ready=False, service_workers="block")
    page.wait_for_selector("#file", state="attached")
    for one in (picture(tmp_path, 50), picture(tmp_path, 150)):
        choose(page, one)
    assert page.locator("#views").is_hidden()
    expect(page.locator("#status")).to_contain_text("inverted in")
    assert shade(page) == 150 and page.faults == []


def test_of_two_examples_the_last_one_wins(visit: Visits, tmp_path: Path) -> None:
    page = visit(write(tmp_path / "site", {"examples/1_a.png": "50 0", "examples/2_a.png": "150 0"}), service_workers="block")
    page.evaluate(
        """() => {
            const real = window.fetch;
            window.fetch = async (path) => {
                if (String(path).includes("1_a")) await new Promise((done) => setTimeout(done, 500));
                return real(path);
            };
        }"""
    )
    for button in page.locator("#examples button").all():
        button.click()
    expect(page.locator("#status")).to_contain_text("inverted in")
    page.wait_for_timeout(700)
    assert shade(page) == 150 and page.locator("#examples [aria-pressed=true] img").get_attribute("src") == "examples/2_a.png"
