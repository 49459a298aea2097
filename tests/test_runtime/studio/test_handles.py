"""A picture is sent once and inverted once; edits, masks, strips and animations refer to its handle."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Pipeline

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)

from fastapi.testclient import TestClient  # noqa: E402 - it needs them

from sdic_runtime.studio.limits import Limits  # noqa: E402
from sdic_runtime.studio.service import PAGE, create_app  # noqa: E402

SIDE = 128  # of the tiny bundle's pictures


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[Any]:
    with TestClient(create_app([tiny_bundle], Limits(parts=3, frames=5), threads=1)) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def python(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, "onnxruntime", threads=1)


def picture(side: int = 90, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def opened(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def refused(answer: Any, status: int, sentence: str) -> None:
    assert answer.status_code == status and sentence in answer.json()["error"], answer.text
    assert len(answer.json()["error"]) <= 400


@pytest.fixture
def inversion(client: Any) -> str:
    sent = client.post("/api/pictures", content=picture()).json()
    made = client.post(f"/api/pictures/{sent['picture']}/invert", json={}).json()
    assert (made["bundle"], made["width"], made["height"], made["notices"], made["masked"]) == ("tiny", SIDE, SIDE, [], False)
    return str(made["inversion"])


def test_a_picture_is_the_body_or_a_field_of_a_form(client: Any) -> None:
    raw = client.post("/api/pictures", content=picture())
    form = client.post("/api/pictures", files={"file": ("photo.png", picture(), "image/png")}, data={"note": "a field that is no file"})
    for answer in (raw, form):
        assert {key: answer.json()[key] for key in ("width", "height", "faces")} == {"width": 90, "height": 90, "faces": []}
    assert client.get(f"/api/pictures/{raw.json()['picture']}").json() == raw.json()
    assert opened(client.get(f"/api/pictures/{raw.json()['picture']}/image")).size == (90, 90)
    refused(client.post("/api/pictures", data={"note": "nothing"}, files={}), 400, "the picture")
    refused(client.post("/api/pictures", files={"file": ("a.png", b"", "image/png")}), 400, "the picture is empty (0 bytes)")
    broken = client.post("/api/pictures", content=b"--x\r\nnothing", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400 and broken.json()["error"].startswith(("the form cannot be read", "the form has no file"))


def test_edits_are_those_of_python(client: Any, python: Pipeline, inversion: str) -> None:
    before = python.invert(np.asarray(Image.open(io.BytesIO(picture()))))
    for edits, move in (([], None), ([("smile", 1.5)], None), ([("smile", -1.0), ("age", 2.0)], "released")):
        body = {"edits": [{"name": name, "strength": strength} for name, strength in edits], "move": move}
        found = np.asarray(opened(client.post(f"/api/inversions/{inversion}/edit", json=body)), int)
        parts: Any = [(name, strength) for name, strength in edits]
        expected = python.edit(before, parts, move=move).images[0] if edits else before.images[0]
        assert np.abs(found - np.asarray(expected, int)).max() <= 1
    zero = client.post(f"/api/inversions/{inversion}/edit", json={"edits": [{"name": "smile", "strength": 0}]})
    assert np.array_equal(np.asarray(opened(zero)), np.asarray(before.images[0]))
    assert opened(client.get(f"/api/inversions/{inversion}/input")).size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_edit_comes_in_the_format_that_was_asked_for(client: Any, inversion: str, kind: str) -> None:
    answer = client.post(f"/api/inversions/{inversion}/edit", json={"edits": [{"name": "smile"}], "format": kind})
    assert answer.headers["content-type"] == f"image/{kind}" and opened(answer).format == kind.upper()


def test_nothing_changes_where_the_mask_is_white(client: Any, inversion: str) -> None:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    edit = {"edits": [{"name": "smile", "strength": 3}]}

    def edited(body: Any) -> np.ndarray:
        return np.asarray(opened(client.post(f"/api/inversions/{inversion}/edit", json=body)), int)

    plain, free = edited({}), edited(edit)
    assert client.put(f"/api/inversions/{inversion}/mask", content=stream.getvalue()).json()["masked"]
    kept = edited(edit)
    half = SIDE // 2
    assert np.array_equal(kept[:, :half], plain[:, :half]) and np.array_equal(kept[:, half:], free[:, half:])
    assert not client.put(f"/api/inversions/{inversion}/mask", content=b"").json()["masked"]
    assert np.array_equal(edited(edit), free)
    refused(client.put(f"/api/inversions/{inversion}/mask", content=picture(30)), 400, "the mask has 30 x 30 pixels, and the model's")


def test_a_strip_and_an_animation_hold_every_strength(client: Any, inversion: str) -> None:
    body = {"edits": [{"name": "age", "strength": 1}], "swept": "smile", "strengths": [-2, 0, 2]}
    strip = opened(client.post(f"/api/inversions/{inversion}/strip", json=body))
    assert strip.width > 3 * SIDE and strip.height > SIDE
    animation = opened(client.post(f"/api/inversions/{inversion}/animation", json=body))
    assert (animation.format, animation.n_frames, animation.size) == ("GIF", 4, (SIDE, SIDE))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"edits": [{"name": "smiel"}]},
        'there is no direction "smiel"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?',
    ),
    "unknown at 0": ({"edits": [{"name": "smiel", "strength": 0}]}, 'there is no direction "smiel"'),
    "file": ({"edits": [{"name": "/etc/passwd.npy"}]}, 'there is no direction "/etc/passwd.npy"'),
    "relative file": ({"edits": [{"name": "smile.safetensors"}]}, 'there is no direction "smile.safetensors"'),
    "infinite": ({"edits": [{"name": "smile", "strength": 1e39}]}, "edits.0.strength is not right"),
    "too many": ({"edits": [{"name": "smile"}] * 4}, "4 edits are combined, and the limit is 3; give fewer"),
    "move": ({"edits": [{"name": "smile"}], "move": "other"}, 'move is "other"; the bundle "tiny" has: paper, released'),
    "field": ({"edit": []}, "edit is not right"),
    "format": ({"format": "tiff"}, "format is not right"),
    "type": ({"edits": "smile"}, "edits is not right"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_wishes_are_refused_in_one_sentence(client: Any, inversion: str, name: str) -> None:
    body, sentence = BAD[name]
    refused(client.post(f"/api/inversions/{inversion}/edit", json=body), 400, sentence)


def test_too_many_pictures_in_a_strip_are_refused(client: Any, inversion: str) -> None:
    body = {"swept": "smile", "strengths": [0.5] * 6}
    refused(client.post(f"/api/inversions/{inversion}/strip", json=body), 400, "6 strengths were asked for, and the limit is 5; give fewer")


def test_what_is_forgotten_is_gone(client: Any, inversion: str) -> None:
    assert client.get(f"/api/inversions/{inversion}").json()["inversion"] == inversion
    client.delete(f"/api/inversions/{inversion}")
    for answer in (
        client.get(f"/api/inversions/{inversion}"),
        client.post(f"/api/inversions/{inversion}/edit", json={}),
        client.post("/api/pictures/nothing/invert", json={}),
    ):
        refused(answer, 404, "this picture is not here any more; send it again")


def test_a_bundle_that_is_not_open_is_named(client: Any) -> None:
    sent = client.post("/api/pictures", content=picture()).json()["picture"]
    refused(client.post(f"/api/pictures/{sent}/invert", json={"bundle": "other"}), 400, 'there is no bundle "other" here; there are: tiny')


def test_metrics_count_answers_and_what_is_kept(client: Any, inversion: str) -> None:
    text = client.get("/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(numbers['sdic_answers_total{status="200"}']) > 0 and float(numbers['sdic_work_seconds_count{work="invert"}']) > 0
    assert float(numbers["sdic_inversions"]) >= 1 and float(numbers["sdic_kept_bytes"]) > SIDE * SIDE * 12


def test_the_page_and_its_files_are_there_and_nothing_comes_from_elsewhere(client: Any) -> None:
    files = sorted(PAGE.iterdir())
    for path in ("/", *(f"/{file.name}" for file in files if file.name != "index.html")):
        answer = client.get(path)
        assert answer.status_code == 200 and "://" not in answer.text.replace("http://www.w3.org/2000/svg", ""), path
    assert client.get("/nothing.js").status_code == 404
