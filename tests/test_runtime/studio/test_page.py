"""The studio as a person uses it, in headless Chromium on the demo bundle."""

from __future__ import annotations

import base64
import io
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME
from sdic_runtime.studio.addresses import outward

ROOT = Path(__file__).parents[3]
PHOTO = ROOT / "examples/portrait_1.png"
pytestmark = pytest.mark.skipif(not (DEMO_FOLDER / MANIFEST_NAME).exists(), reason="the embedded demo bundle is not in this checkout")
SHOWN = """before => {
    const { shown, full } = document.getElementById("edited").dataset;
    return Number(shown || 0) > before && full === "true" && !document.querySelector(".busy");
}"""

REFUSING = """() => {
    window.changes = 0;
    history.replaceState = () => { window.changes += 1; throw new DOMException("too many", "SecurityError"); };
}"""


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[subprocess.Popen[str], str]]:
    pytest.importorskip("fastapi")
    pytest.importorskip("playwright")
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "studio", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def page(browser: Any, service: tuple[Any, str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(service[1])
    page.wait_for_selector("#model:not(:empty)", timeout=60_000)
    yield page
    assert page.faults == []
    context.close()


def upload(page: Any) -> None:
    page.set_input_files("#file", PHOTO)
    page.wait_for_selector("#edited[data-full=true]", timeout=60_000)


def drag(page: Any, name: str, value: float) -> None:
    """Drag a slider there over some values, let it go, and wait for the full picture."""
    slider, before = page.locator(f"#slider-{name}"), int(page.locator("#edited").get_attribute("data-shown") or 0)
    for part in (0.3, 0.6, 1):
        slider.evaluate("(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", value * part)
    slider.evaluate("one => one.dispatchEvent(new Event('change'))")
    page.wait_for_function(SHOWN, arg=before)


def pixels(page: Any, selector: str) -> np.ndarray:
    """What an image of the page shows, in its own size."""
    data = page.locator(selector).evaluate(
        """async one => {
            await one.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [one.naturalWidth, one.naturalHeight];
            canvas.getContext("2d").drawImage(one, 0, 0);
            return canvas.toDataURL("image/png");
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"), int)


def shown_anew(page: Any, act: Callable[[], None]) -> None:
    """Wait for the picture that follows what is done."""
    shown = int(page.locator("#edited").get_attribute("data-shown"))
    act()
    page.wait_for_function("shown => Number(document.getElementById('edited').dataset.shown) > shown", arg=shown)


def test_a_picture_is_sent_dragged_masked_and_downloaded(page: Any, tmp_path: Path) -> None:
    upload(page)
    drag(page, "smile", -1.5)
    pipeline = Pipeline.load(None, "onnxruntime")
    inversion = pipeline.invert(PHOTO)
    expected = np.asarray(pipeline.edit(inversion, "smile", -1.5).images[0], int)
    assert np.abs(pixels(page, "#edited") - expected).max() <= 1
    assert "smile -1.50" in page.locator("#edited-caption").text_content()
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "edited.png")
    assert np.abs(np.asarray(Image.open(tmp_path / "edited.png").convert("RGB"), int) - expected).max() <= 1
    shown_anew(page, lambda: page.locator("#keep-left").click())
    half, base = expected.shape[1] // 2, np.asarray(inversion.images[0], int)
    kept = pixels(page, "#edited")
    assert np.abs(kept[:, :half] - base[:, :half]).max() <= 1 and np.abs(kept[:, half:] - expected[:, half:]).max() <= 1
    shown_anew(page, lambda: page.locator("#clear").click())
    assert np.abs(pixels(page, "#edited") - expected).max() <= 1
    page.locator("#brush").click()
    shown_anew(page, lambda: page.locator("#mask").click())  # a dab in the middle
    near = (slice(half - 1, half + 2),) * 2
    assert np.abs(pixels(page, "#edited")[near] - base[near]).max() <= 1 < np.abs(expected[near] - base[near]).max()
    with page.expect_request("**/strip") as asked:
        page.locator("#strip").click()
    strengths = asked.value.post_data_json["strengths"]
    assert strengths[0] == -strengths[-1] < 0 and strengths[len(strengths) // 2] == 0
    page.wait_for_selector("#sweep-link:not([hidden])")
    page.locator("#wipe").fill("50")
    assert "50%" in page.locator("#before").evaluate("one => one.style.clipPath")
    page.locator("#reset").click()
    page.wait_for_function("() => document.getElementById('edited-caption').textContent === 'edit: none yet'")


def test_a_link_restores_the_state_and_two_tabs_do_not_disturb_each_other(page: Any) -> None:
    upload(page)
    drag(page, "age", 3.0)
    page.wait_for_function("() => location.hash.includes('edit.age=3')")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#edited[data-full=true]", timeout=60_000)
    assert float(other.locator("#slider-age").input_value()) == pytest.approx(3.0)
    assert np.array_equal(pixels(other, "#edited"), pixels(page, "#edited"))
    drag(other, "age", -3.0)
    drag(page, "age", 3.0)
    assert "age -3.00" in other.locator("#edited-caption").text_content() and "age 3.00" in page.locator("#edited-caption").text_content()
    page.goto(page.url.replace("picture=", "picture=x"))
    page.reload()
    page.wait_for_function("() => document.getElementById('status').textContent.includes('not in memory any more')")
    upload(page)
    assert "age 3.00" in page.locator("#edited-caption").text_content()  # the edits of the link are applied to it


def test_an_address_that_cannot_change_costs_no_picture(page: Any) -> None:
    upload(page)
    page.evaluate(REFUSING)
    slider = page.locator("#slider-smile")
    slider.evaluate("one => { for (let i = 0; i < 300; i += 1) { one.value = i / 300; one.dispatchEvent(new Event('input')); } }")
    drag(page, "smile", 1.0)
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("changes") <= 20, "the address does not follow every value"
    drag(page, "smile", -1.0)
    assert "smile -1.00" in page.locator("#edited-caption").text_content()


def test_keys_move_a_slider_and_every_control_has_a_name(page: Any) -> None:
    upload(page)
    page.locator("#slider-smile").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('edited-caption').textContent.includes('smile')")
    assert float(page.locator("#slider-smile").input_value()) > 0
    assert "smile" in page.locator("#slider-smile").get_attribute("aria-valuetext")
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, select, button, a[href]')].filter(one => one.offsetParent && !one.labels?.length"
        " && !one.textContent.trim() && !one.getAttribute('aria-label') && !one.querySelector('img[alt]')).map(one => one.outerHTML)"
    )
    assert nameless == []


def test_a_file_that_is_no_picture_is_told_and_the_page_goes_on(page: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PHOTO.read_bytes()[:2000])
    page.set_input_files("#file", tmp_path / "a.png")
    page.wait_for_function("() => document.getElementById('error').textContent.includes('damaged')")
    upload(page)
    assert page.locator("#error").text_content() == ""


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_from_letting_go_to_the_full_picture(page: Any) -> None:
    upload(page)
    times = []
    for index in range(20):
        drag(page, "smile", -1.8 + index / 10)
        times.append(float(page.locator("#edited").get_attribute("data-milliseconds")))
    print(f"slider release to full picture: median {statistics.median(times):.0f} ms, 95th percentile {np.percentile(times, 95):.0f} ms")
    assert statistics.median(times) < 2000


def test_another_machine_can_use_the_page(browser: Any) -> None:
    """By an IP address, and so without what browsers keep for secure pages."""
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "studio", "--port", "0", "--host", "0.0.0.0"]
    if not outward(socket.AF_INET):
        pytest.skip("this machine has no address for others")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout
        try:
            addresses = [process.stdout.readline().strip() for _ in range(2)]
            page = browser.new_page()
            page.goto(addresses[1])
            assert addresses[0].startswith("http://127.0.0.1:") and not page.evaluate("isSecureContext")
            page.wait_for_selector("#model:not(:empty)", timeout=60_000)
            upload(page)
            drag(page, "smile", 1.0)
            page.locator("#link").click()
            page.wait_for_function("() => document.getElementById('status').textContent.includes('edit.smile=1.000')")
            page.close()
        finally:
            process.kill()


def test_a_service_that_was_stopped_is_told(browser: Any) -> None:
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "studio", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout
        page = browser.new_page()
        page.goto(process.stdout.readline().strip())
        upload(page)
        start = time.monotonic()
        process.terminate()
        assert process.wait(20) in (0, 143) and time.monotonic() - start < 8
        page.locator("#slider-age").evaluate("one => { one.value = 2; one.dispatchEvent(new Event('change')); }")
        page.wait_for_function("() => document.getElementById('error').textContent.includes('the service does not answer')")
        page.close()
