"""The demo's site in headless Chromium, as a person uses it: its pictures beside those of the command."""

from __future__ import annotations

import os
import re
import shutil
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import ARGUMENTS
from PIL import Image
from site_pages import ISOLATED, Visits, drag, pictures_shown, send, shown, wait_for_picture

from sdic_runtime import Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.cpus import available_cpus
from sdic_runtime.pictures import fit

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
PORTRAITS = Path(__file__).parents[3] / "examples"
CLOSE = 2  # levels of 255
MOVES = 5
CPUS = available_cpus()

# In the page: a picture of sines, resized by the page's own code.
RESIZE = """async ([width, height, side, resampling, pixels]) => {
    const { resized } = await import(new URL("pictures.js", location.href));
    const value = (y, x, channel) => (7 * x + 13 * y * y + 31 * channel + (x * y) % 11) % 256;
    const strip = (first, end) => {
        const rows = new Uint8ClampedArray(4 * width * (end - first));
        for (let y = first; y < end; y += 1) for (let x = 0; x < width; x += 1) for (let channel = 0; channel < 3; channel += 1) {
            rows[4 * ((y - first) * width + x) + channel] = value(y, x, channel);
        }
        return rows;
    };
    return [...resized(strip, { width, height }, side, side, resampling, pixels)];
}"""


@pytest.fixture(scope="module")
def pipeline() -> Any:
    with Pipeline.load(DEMO_FOLDER, "onnxruntime", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def opened(demo_site: Path, visit: Visits) -> Any:
    """The page on a plain server."""
    return visit(demo_site)


@pytest.fixture
def page(opened: Any) -> Any:
    if opened.locator("#reset").is_visible():
        opened.select_option("#move", "")
        opened.click("#reset")
    return opened


def difference(page: Any, canvas: str, picture: Image.Image | np.ndarray) -> int:
    return int(np.abs(shown(page, canvas) - np.asarray(picture, int)).max())


def prepared(pipeline: Pipeline, picture: Path) -> np.ndarray:
    """What the model is given, 8 bits."""
    return np.rint((pipeline.prepare(picture)[0].transpose(1, 2, 0) + 1) * 127.5).astype(int)


def test_a_portrait_is_inverted_and_edited_as_by_the_command(page: Any, pipeline: Pipeline, tmp_path: Path) -> None:
    portrait = PORTRAITS / "portrait_1.png"
    send(page, portrait)
    inversion, known = pipeline.invert(portrait), pipeline.directions
    assert difference(page, "input", prepared(pipeline, portrait)) == 0
    assert difference(page, "inversion", inversion.images[0]) <= CLOSE
    smile = drag(page, "smile", 0.9)
    assert smile > 0.7 * known["smile"].strength_range[1]
    assert difference(page, "edited", pipeline.edit(inversion, "smile", smile).images[0]) <= CLOSE
    assert difference(page, "edited", inversion.images[0]) > 20
    age, before = drag(page, "age", 0.2), pictures_shown(page)
    page.select_option("#move", "released")
    wait_for_picture(page, before)
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "edited.png")
    expected = pipeline.edit(inversion, [("smile", smile), ("age", age)], move="released").images[0]
    assert np.abs(np.asarray(Image.open(tmp_path / "edited.png").convert("RGB"), int) - np.asarray(expected, int)).max() <= CLOSE
    assert re.fullmatch(r"portrait_1\.smile\+[\d.]+_age-[\d.]+\.png", download.value.suggested_filename)


def test_a_slider_answers(page: Any) -> None:
    """In how much time is printed; the machine of a test may be busy."""
    send(page, PORTRAITS / "portrait_2.png")
    seconds = []
    for part in np.linspace(0.3, 0.7, MOVES):
        drag(page, "yaw", float(part))
        seconds.append(float(page.locator("#edited").get_attribute("data-milliseconds")) / 1000)
    inverted = float(page.locator("#inversion").get_attribute("data-milliseconds")) / 1000
    model = page.locator("#model").text_content()
    print(f"\n{model}: inversion {inverted:.2f} s, slider {statistics.median(seconds):.3f} s (median of {MOVES})")
    assert statistics.median(seconds) < inverted


def test_the_site_isolates_itself_and_asks_for_nothing_from_elsewhere(page: Any) -> None:
    assert page.evaluate("crossOriginIsolated") and any("isolation.js" in url for url in page.asked)
    assert (f"{min(CPUS, 8)} threads" if CPUS > 1 else "one thread") in page.locator("#model").text_content()
    assert [url for url in page.asked if not url.removeprefix("blob:").startswith(page.base)] == []
    assert page.faults == []


@pytest.mark.full
def test_without_isolation_there_is_one_thread(demo_site: Path, visit: Visits) -> None:
    alone = visit(demo_site, service_workers="block")
    assert "one thread" in alone.locator("#model").text_content() and not alone.evaluate("crossOriginIsolated")
    send(alone, PORTRAITS / "portrait_2.png")


def test_resizing_is_pillows(demo_site: Path, visit: Visits) -> None:
    page = visit(demo_site, path="site.json", ready=False)
    for width, height, side, resampling, pixels in (
        (300, 177, 128, "bilinear", 1 << 22),
        (300, 177, 128, "bilinear", 6100),  # in strips of 20 rows
        (40, 90, 128, "bicubic", 1),  # row by row
        (91, 64, 64, "lanczos", 1 << 22),
        (1, 1, 16, "bilinear", 1 << 22),
    ):
        y, x, channel = np.mgrid[0:height, 0:width, 0:3]
        picture = ((7 * x + 13 * y * y + 31 * channel + (x * y) % 11) % 256).astype(np.uint8)
        expected = fit(Image.fromarray(picture), {"S": side, "R": side}, (0, side), resampling)[0].transpose(1, 2, 0)
        got = np.array(page.evaluate(RESIZE, [width, height, side, resampling, pixels])).reshape(side, side, 3)
        np.testing.assert_array_equal(got, np.rint((expected + 1) * 127.5), str((width, height, resampling)))


def test_pictures_lie_upright_on_white_and_in_the_middle(page: Any, pipeline: Pipeline, tmp_path: Path) -> None:
    portrait = Image.open(PORTRAITS / "portrait_3.png").convert("RGB")
    turned, exif = portrait.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    clear = portrait.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(portrait.size))
    clear.save(tmp_path / "clear.png")
    for name in ("turned.jpg", "clear.png"):
        send(page, tmp_path / name)
        assert difference(page, "input", prepared(pipeline, tmp_path / name)) <= CLOSE, name
        assert page.locator("#middle-choice").is_hidden()
    wide = Image.new("RGB", (300, 128), "red")
    wide.paste(portrait.resize((128, 128)), (86, 0))
    wide.save(tmp_path / "wide.png")
    send(page, tmp_path / "wide.png")
    assert difference(page, "input", portrait.resize((128, 128))) == 0
    before = pictures_shown(page, "inversion")
    page.uncheck("#middle")
    wait_for_picture(page, before, "inversion")
    assert difference(page, "input", prepared(pipeline, tmp_path / "wide.png")) == 0


def test_a_link_brings_sliders_back_and_what_is_wrong_is_said(demo_site: Path, visit: Visits, tmp_path: Path) -> None:
    page = visit(demo_site, ISOLATED, "#smile=1.5&age=-99&nothing=1&form=released")
    assert float(page.locator("#slider-smile").input_value()) == 1.5 and page.locator("#move").input_value() == "released"
    assert float(page.locator("#slider-age").input_value()) == float(page.locator("#slider-age").get_attribute("min"))
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    expect(page.locator("#error")).to_contain_text("text.png is not a picture that this browser reads, or damaged; use a JPEG or PNG")
    send(page, PORTRAITS / "portrait_4.png")
    expect(page.locator("#error")).to_be_empty()
    assert "smile 1.50" in page.locator("#edited-caption").text_content()
    page.locator("#slider-smile").focus()
    before = pictures_shown(page)
    page.keyboard.press("ArrowRight")
    wait_for_picture(page, before)
    assert float(page.locator("#slider-smile").input_value()) > 1.5
    page.click("#reset")
    expect(page.locator("#edited-caption")).to_have_text("edit: none yet")
    expect(page).to_have_url(re.compile("#form=released$"))


def test_a_damaged_file_of_the_bundle_is_said(demo_site: Path, visit: Visits, tmp_path: Path) -> None:
    damaged, name = tmp_path / "damaged", "bundle/onnx/fp32/e4e.onnx"
    shutil.copytree(demo_site, damaged, copy_function=os.link)
    content = bytearray((damaged / name).read_bytes())
    content[-1] ^= 1
    (damaged / name).unlink()
    (damaged / name).write_bytes(content)
    page = visit(damaged, ISOLATED, ready=False)
    expect(page.locator("#error")).to_contain_text(f"{name} is damaged; load the page again, or write the site again", timeout=60_000)


@pytest.mark.full
def test_webgpu_makes_the_same_picture(browser: Any, demo_site: Path, pipeline: Pipeline) -> None:
    """In software: minutes, for the numbers alone."""
    arguments = [argument for argument in ARGUMENTS.split() if argument != "--disable-gpu"]
    arguments += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan,WebGPU"]
    running = browser.browser_type.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=arguments)
    with ExitStack() as stack:
        stack.callback(running.close)
        page = Visits(running, stack)(demo_site, ISOLATED, "?backend=webgpu", ready=False)
        expect(page.locator("#status")).to_have_text("ready", timeout=400_000)
        if "WebGPU" not in page.locator("#model").text_content():
            pytest.skip("this Chromium has no WebGPU in software")
        page.set_input_files("#file", PORTRAITS / "portrait_1.png")
        expect(page.locator("#inversion")).to_have_attribute("data-shown", "1", timeout=200_000)
        assert difference(page, "inversion", pipeline.invert(PORTRAITS / "portrait_1.png").images[0]) <= CLOSE
