"""What the service advises is what its clients can do: fields of a request, and no options of a command."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Pipeline
from sdic_runtime.errors import BundleError

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)

from fastapi.testclient import TestClient  # noqa: E402 - it needs them

from sdic_runtime.studio.answers import plain  # noqa: E402
from sdic_runtime.studio.guard import Guard  # noqa: E402
from sdic_runtime.studio.service import create_app  # noqa: E402


def png(image: Image.Image) -> bytes:
    image.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def noise(width: int = 90) -> bytes:
    return png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, width, 3), np.uint8)))


def inverted(client: Any, picture: bytes, **wanted: Any) -> tuple[int, str]:
    """The status, and the error or the notices."""
    sent = client.post("/api/pictures", content=picture).json()["picture"]
    answer = client.post(f"/api/pictures/{sent}/invert", json=wanted)
    said: str = answer.json()["error"] if answer.status_code != 200 else "; ".join(answer.json()["notices"])
    assert "--" not in said  # a handle may have it
    return answer.status_code, said


def test_a_picture_without_a_face_may_be_aligned_already(client: Any) -> None:
    expected = 'no face was found in the picture; if it is an aligned crop of a face already, add "aligned"'
    assert inverted(client, noise()) == (400, expected)
    assert inverted(client, noise(), aligned=True) == (200, "")
    status, notices = inverted(client, noise(200), aligned=True)
    assert status == 200 and notices.endswith(
        '; crop it, or add "crop" to take its middle; without "aligned" the face is looked for and aligned'
    )
    assert inverted(client, noise(200), aligned=True, crop=True) == (200, "")
    for path in ("/invert?aligned=true", "/edit?direction=smile&aligned=true"):
        assert client.post(path, content=noise()).headers["content-type"] == "image/png"
    assert client.post("/invert", content=noise()).json()["error"] == expected


def test_numbers_of_faces(client: Any) -> None:
    pytest.importorskip("skimage")
    from face_pictures import astronaut

    photo, both = png(astronaut()), '"face" is for photographs, and "aligned" says that the picture is a crop already; omit one'
    assert inverted(client, photo, face=3) == (400, 'the picture has one face, and "face" is 3; give a number up to 1')
    assert inverted(client, photo, face=1, aligned=True) == (400, both)
    assert inverted(client, photo, face=0)[1].startswith("face is not right: ")
    for number in (0, -1, "all"):
        answer = client.post(f"/invert?face={number}", content=photo)
        assert answer.status_code == 400 and answer.json()["error"].startswith("face is not right: ")


def test_a_crop_is_told_to_be_one(client: Any) -> None:
    pytest.importorskip("skimage")
    from face_pictures import astronaut

    from sdic_runtime.faces import find

    crop = png(find(astronaut())[0].crop)
    assert inverted(client, crop) == (200, 'the picture is an aligned crop of a face already, and is taken whole; say so with "aligned"')


def test_other_sentences_have_no_options_either(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise BundleError("the bundle is of another; use --trust, or build it again with --force")

    monkeypatch.setattr(Pipeline, "load", fail)
    with TestClient(Guard(create_app([tiny_bundle])), base_url="http://localhost") as client:
        while client.get("/ready").json()["status"] == "loading":
            time.sleep(0.01)
        expected = "the bundle is of another; use trust, or build it again with force"
        assert client.get("/ready").json()["reasons"] == [expected] and client.post("/invert", content=noise()).json()["error"] == expected
        assert "--" not in client.get("/", headers={"host": "elsewhere"}).text


def test_commands_in_sentences_can_be_run_as_they_stand() -> None:
    """Whoever runs the service reads them too."""
    sentence = "the engines cannot be used with --backend auto: they are old; build them again with: {}; or use --trust"
    for command in ("sdic-export engines b --target tensorrt --precision fp32", "pip uninstall --yes a && pip install --force-reinstall b"):
        expected = sentence.format(command).replace("--backend", "backend").replace("--trust", "trust")
        assert plain(sentence.format(command)) == expected
