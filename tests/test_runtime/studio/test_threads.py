"""What is done in which thread: nothing that takes long in the event loop, nothing but models in theirs."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from PIL import Image

from sdic_runtime.faces.face import Face

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client", "skimage"):
    pytest.importorskip(package)

from face_pictures import astronaut  # noqa: E402 - it needs them

from sdic_runtime.studio.rooms import Room  # noqa: E402


def png(image: Image.Image) -> bytes:
    image.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def test_faces_are_not_cut_in_the_event_loop(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, seen, aligned = client.portal.call(threading.get_ident), list[int](), Face.aligned

    def noted(face: Face, size: int) -> Image.Image:
        seen.append(threading.get_ident())
        return aligned(face, size)

    monkeypatch.setattr(Face, "aligned", noted)
    sent = client.post("/api/pictures", content=png(astronaut())).json()
    assert client.get(f"/api/pictures/{sent['picture']}").json() == sent and sent["faces"][0]["quality"] > 0
    assert seen and loop not in seen


def test_masks_and_previews_do_not_wait_for_the_models(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = client.post("/api/pictures", content=png(astronaut())).json()["picture"]
    made = client.post(f"/api/pictures/{sent}/invert", json={}).json()
    path, begun, goes_on, pictures = f"/api/inversions/{made['inversion']}", threading.Event(), threading.Event(), Room.pictures

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        goes_on.wait(30)
        return pictures(*arguments, **options)

    monkeypatch.setattr(Room, "pictures", slow)
    edit = threading.Thread(target=client.post, args=(f"{path}/edit",), kwargs={"json": {"edits": [{"name": "smile"}]}})
    edit.start()
    try:
        assert begun.wait(30)
        mask = png(Image.new("L", (made["width"], made["height"]), 255))
        assert client.put(f"{path}/mask", content=mask).json()["masked"] and client.get(f"{path}/input").status_code == 200
        assert edit.is_alive() and not goes_on.is_set()
    finally:
        goes_on.set()
        edit.join()
