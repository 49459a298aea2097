"""Sites of `sdic-export web` in a browser: a server of this machine, their pages, what the canvases show."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

PLAIN: Mapping[str, str] = MappingProxyType({})
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
DATA_URL = "id => document.getElementById(id).toDataURL('image/png').split(',')[1]"


@contextmanager
def served(folder: Path, headers: Mapping[str, str] = PLAIN) -> Iterator[str]:
    """The address of a server of the files in `folder`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Visits:
    """Pages of sites, each in a context of its own. `page.asked`: the addresses that it asked for; `page.faults`: errors that it did not
    catch."""

    def __init__(self, browser: Any, stack: ExitStack) -> None:
        self.browser, self.stack = browser, stack

    def __call__(self, folder: Path, headers: Mapping[str, str] = PLAIN, path: str = "", ready: bool = True, **options: Any) -> Any:
        base = self.stack.enter_context(served(folder, headers))
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.stack.callback(context.close)
        page = context.new_page()
        page.base, page.asked, page.faults = base, [], []
        context.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(base + path)
        if ready:
            from playwright.sync_api import expect

            expect(page.locator("#status")).to_have_text("ready", timeout=60_000)
        return page


def shown(page: Any, canvas: str) -> np.ndarray:
    """The picture of a canvas, [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(page.evaluate(DATA_URL, canvas)))).convert("RGB"), int)


def pictures_shown(page: Any, canvas: str = "edited") -> int:
    """How many pictures the canvas has shown."""
    return int(page.locator(f"#{canvas}").get_attribute("data-shown") or 0)


def wait_for_picture(page: Any, before: int, canvas: str = "edited") -> None:
    """Wait until the canvas has shown more than `before` pictures, and the page is at rest."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{canvas}")).not_to_have_attribute("data-shown", str(before), timeout=60_000)
    expect(page.locator("#status")).not_to_have_text("inverting", timeout=60_000)
    expect(page.locator("#stage")).not_to_have_class("busy", timeout=60_000)


def send(page: Any, picture: Path) -> None:
    before = pictures_shown(page, "inversion")
    page.set_input_files("#file", picture)
    wait_for_picture(page, before, "inversion")


def drag(page: Any, name: str, part: float) -> float:
    """Drag a slider to that part of its length, over three places on the way; the strength that it has then."""
    before, slider = pictures_shown(page), page.locator(f"#slider-{name}")
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for step in (0.3, 0.6, 1):
        page.mouse.move(box["x"] + box["width"] * (0.5 + (part - 0.5) * step), y)
    page.mouse.up()
    wait_for_picture(page, before)
    return float(slider.input_value())
