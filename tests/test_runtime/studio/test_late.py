"""Models that are loaded later than a page is opened and a picture is sent."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from tiny_bundle import change_manifest

from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME
from sdic_runtime.bundle.manifest import FFHQ

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client", "skimage"):
    pytest.importorskip(package)

from face_pictures import astronaut  # noqa: E402 - it needs them
from fastapi.testclient import TestClient  # noqa: E402

from sdic_runtime.studio.rooms import Room  # noqa: E402
from sdic_runtime.studio.service import create_app  # noqa: E402

LAUNCHER = """
import sys, time
from pathlib import Path
from sdic_runtime.cli.app import main
from sdic_runtime.studio.rooms import Room
first, late, sign = sys.argv[1:]
load = Room.load
def slow(room):
    while str(room.path) == late and not Path(sign).exists():
        time.sleep(0.05)
    load(room)
Room.load = slow
main(["studio", "--port", "0", "--bundle", first, "--bundle", late])
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    astronaut().save(path := tmp_path_factory.mktemp("photo") / "photo.png")
    return path


def of_faces(source: Path, folder: Path) -> Path:
    """A bundle called "late", said to be of aligned faces."""
    bundle = Path(shutil.copytree(source, folder))
    change_manifest(bundle, faces=FFHQ, name="late")
    return bundle


def test_faces_are_looked_for_at_first_need(tiny_bundle: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, goes_on, load = of_faces(tiny_bundle, tmp_path / "late"), threading.Event(), Room.load

    def slow(room: Room) -> None:
        if room.path == late:
            goes_on.wait(30)
        load(room)

    monkeypatch.setattr(Room, "load", slow)
    with TestClient(create_app([tiny_bundle, tmp_path / "nowhere", late], threads=1)) as client:
        while client.get("/api/bundles").status_code != 200:
            time.sleep(0.01)
        sent = client.post("/api/pictures", content=photo.read_bytes()).json()
        other = client.post("/api/pictures", content=photo.read_bytes()).json()
        assert sent["faces"] == [] and client.get("/ready").json()["status"] == "loading"
        early = client.post(f"/api/pictures/{sent['picture']}/invert", json={"bundle": "late"})
        assert early.status_code == 503 and early.headers["retry-after"] == "1"
        assert early.json()["error"] == 'there is no bundle "late" here yet, and more are loading; try again in a moment'
        goes_on.set()
        while (state := client.get("/ready").json()["status"]) == "loading":
            time.sleep(0.01)
        assert state == "failed" and [bundle["name"] for bundle in client.get("/api/bundles").json()] == ["tiny", "late"]
        assert len(client.get(f"/api/pictures/{sent['picture']}").json()["faces"]) == 1
        for one in (sent, other):
            made = client.post(f"/api/pictures/{one['picture']}/invert", json={"bundle": "late"})
            assert made.status_code == 200 and made.json()["pastes"], made.text
        never = client.post(f"/api/pictures/{sent['picture']}/invert", json={"bundle": "other"})
        assert (never.status_code, never.json()["error"]) == (400, 'there is no bundle "other" here; there are: tiny, late')


@pytest.fixture
def late_service(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address, and the file that lets the second model be loaded."""
    if not (DEMO_FOLDER / MANIFEST_NAME).exists():
        pytest.skip("the embedded demo bundle is not in this checkout")
    sign, late = tmp_path / "sign", of_faces(DEMO_FOLDER, tmp_path / "late")
    command = [sys.executable, "-c", LAUNCHER, str(DEMO_FOLDER), str(late), str(sign)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip(), sign
        process.kill()


def test_a_page_shows_models_that_load_later(late_service: tuple[str, Path], photo: Path) -> None:
    address, sign = late_service
    with chromium() as browser:
        page, linked = browser.new_page(), browser.new_page()
        page.goto(address)
        page.wait_for_selector("#model:not(:empty)", timeout=60_000)
        linked.goto(f"{address}#bundle=late&edit.smile=1")
        linked.wait_for_function("() => document.getElementById('status').textContent.includes('late')")
        page.set_input_files("#file", photo)
        page.wait_for_selector("#edited[data-full=true]", timeout=60_000)
        assert page.locator("#bundle").is_hidden()
        sign.touch()
        page.wait_for_selector("#bundle-choice:not([hidden])", timeout=60_000)
        assert page.locator("#bundle").input_value() == "portraits"
        page.select_option("#bundle", "late")
        page.wait_for_selector("#paste-choice:not([hidden])")
        assert page.locator("#faces button").count() == 1
        linked.wait_for_selector("#model:not(:empty)")
        assert linked.locator("#bundle").input_value() == "late" and float(linked.locator("#slider-smile").input_value()) == 1
