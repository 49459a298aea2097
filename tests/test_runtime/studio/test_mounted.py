"""The studio's application inside another one, which does not tell it that the server starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)

from fastapi import FastAPI  # noqa: E402 - it needs them
from fastapi.testclient import TestClient  # noqa: E402

from sdic_runtime.studio.guard import Guard  # noqa: E402
from sdic_runtime.studio.service import create_app  # noqa: E402

PICTURE = Path(__file__).parents[3] / "examples/portrait_1.png"


@pytest.mark.parametrize("token", [None, "a-token-of-the-test"])
def test_it_becomes_ready_and_answers(tiny_bundle: Path, token: str | None) -> None:
    app: Any = create_app([tiny_bundle], threads=1)
    outer = FastAPI()
    outer.mount("/studio", Guard(app, token=token) if token else app)
    with TestClient(outer, base_url="http://localhost") as client:
        end = time.monotonic() + 30
        while (answer := client.get("/studio/ready")).status_code != 200:
            assert time.monotonic() < end, answer.text
            time.sleep(0.01)
        page = client.get(f"/studio/?token={token}" if token else "/studio/")
        assert page.status_code == 200 and page.url.path == "/studio/"
        assert client.post("/studio/edit?direction=smile", content=PICTURE.read_bytes()).headers["content-type"] == "image/png"
