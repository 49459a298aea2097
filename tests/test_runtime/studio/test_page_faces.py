"""The studio's page with models of aligned faces, in headless Chromium: the demo bundle, said to be one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_bundle import change_manifest

from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME
from sdic_runtime.bundle.manifest import FFHQ

pytestmark = pytest.mark.skipif(not (DEMO_FOLDER / MANIFEST_NAME).exists(), reason="the embedded demo bundle is not in this checkout")
SHOWN = "before => Number(document.getElementById('edited').dataset.shown) > before && !document.querySelector('.busy')"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage")
    from face_pictures import astronaut

    wide = Image.new("RGB", (700, 512), "gray")
    wide.paste(astronaut(), (100, 0))
    wide.save(path := tmp_path_factory.mktemp("photo") / "photo.png")
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("fastapi")
    pytest.importorskip("playwright")
    bundle = Path(shutil.copytree(DEMO_FOLDER, tmp_path_factory.mktemp("bundle") / "faces"))
    change_manifest(bundle, faces=FFHQ)
    command = [sys.executable, "-m", "sdic_runtime.cli.app", "studio", "--port", "0", "--bundle", str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#model:not(:empty)", timeout=60_000)
    yield page
    assert page.faults == []
    page.close()


def upload(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.wait_for_selector("#edited[data-full=true]", timeout=60_000)


def changed(page: Any, action: Any) -> None:
    """Wait for the picture that an action leads to."""
    before = int(page.locator("#edited").get_attribute("data-shown"))
    action()
    page.wait_for_function(SHOWN, arg=before)


def shape(page: Any) -> float:
    return float(page.locator("#edited").evaluate("one => one.naturalWidth / one.naturalHeight"))


def test_beside_the_whole_photograph_there_is_neither_brush_nor_wipe(page: Any, photo: Path) -> None:
    upload(page, photo)
    page.locator("#brush").click()
    assert shape(page) == 1 and page.locator("#mask").is_visible() and page.locator("#wipe").is_enabled()
    for way in ("difference", "replace"):
        changed(page, lambda way=way: page.select_option("#paste", way))
        assert shape(page) == pytest.approx(700 / 512, abs=0.01)
        assert not any(page.locator(f"#{name}").is_enabled() for name in ("brush", "clear", "keep-left", "keep-right", "wipe"))
        assert page.locator("#mask").is_hidden() and page.locator("#before").is_hidden()
        assert 'set "Photograph" to "the face alone" to brush' in page.locator("#keep-help").text_content()
    changed(page, lambda: page.select_option("#paste", ""))
    assert shape(page) == 1 and page.locator("#mask").is_visible()
    assert all(page.locator(f"#{name}").is_enabled() for name in ("brush", "keep-left", "wipe"))
    assert page.locator("#keep-help").text_content() == "Nothing changes where you brush."


def test_a_link_to_a_whole_photograph_opens_without_them(page: Any, photo: Path) -> None:
    upload(page, photo)
    changed(page, lambda: page.select_option("#paste", "difference"))
    page.wait_for_function("() => location.hash.includes('paste=difference')")
    page.reload()
    page.wait_for_selector("#edited[data-full=true]", timeout=60_000)
    assert shape(page) > 1.3 and page.locator("#brush").is_disabled() and page.locator("#wipe").is_disabled()


def test_a_picture_may_be_aligned_already(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "gray.png")
    page.set_input_files("#file", tmp_path / "gray.png")
    page.wait_for_function("""() => document.getElementById('error').textContent.includes('add "aligned"')""")
    page.locator("#aligned").check()
    page.wait_for_selector("#edited[data-full=true]", timeout=60_000)
    assert page.locator("#error").text_content() == "" and page.locator("#paste-choice").is_hidden()
    page.wait_for_function("() => location.hash.includes('aligned')")
    page.reload()
    page.wait_for_selector("#edited[data-full=true]", timeout=60_000)
    assert page.locator("#aligned").is_checked()
