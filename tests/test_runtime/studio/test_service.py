"""The web service under good, malformed, oversized, slow and cut-off requests on loopback."""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studio_server import Server, TestClient, httpx, png, start, waiting

from sdic_runtime import Pipeline
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, OutOfMemoryError, PictureError
from sdic_runtime.studio.service import create_app


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, log: Path) -> Iterator[Server]:
    running = start(tiny_bundle, log)
    while httpx.get(running.url + "/ready").status_code != 200:
        time.sleep(0.05)
    yield running
    running.process.terminate()
    running.process.wait(30)


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> dict[str, np.ndarray]:
    """What the good requests must give, by their path."""
    pipeline = Pipeline.load(tiny_bundle, "onnxruntime", threads=1)
    inversion = pipeline.invert(np.asarray(Image.open(io.BytesIO(png()))))
    pictures = {
        "/invert": inversion,
        "/edit?direction=smile": pipeline.edit(inversion, "smile"),
        "/edit?direction=age&strength=-2&move=released": pipeline.edit(inversion, "age", -2, "released"),
    }
    return {path: np.asarray(picture.images[0], int) for path, picture in pictures.items()}


def check_good(server: Server, expected: dict[str, np.ndarray], path: str) -> str:
    answer = server.post(path, png())
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    assert np.abs(np.asarray(Image.open(io.BytesIO(answer.content)), int) - expected[path]).max() <= 1
    return "good"


def check_bad(status: int, sentence: str, answer_status: int, body: bytes) -> None:
    said = json.loads(body)
    assert list(said) == ["error"] and answer_status == status
    assert sentence in said["error"] and "\n" not in said["error"] and "Traceback" not in said["error"]


BAD: dict[str, tuple[str, bytes, int, str]] = {
    "text": ("/invert", b"no picture at all", 400, "the picture is not a picture this program can read; use JPEG"),
    "empty": ("/invert", b"", 400, "the picture is empty (0 bytes); get the picture again"),
    "cut": ("/invert", png()[:4000], 400, "the picture is damaged: "),
    "oversized": ("/invert", bytes(300_000), 413, "the upload is larger than 200000 bytes; send a smaller file"),
    "pixels": ("/invert", b"", 400, "the picture has 4 megapixels, and the limit is 1; make the picture smaller"),
    "direction": (
        "/edit?direction=smiel",
        png(),
        400,
        'there is no direction "smiel"; the bundle "tiny" has: age, basis, smile; did you mean "smile"?',
    ),
    "basis": ("/edit?direction=basis", png(), 400, "is a PCA basis of 6 components, and no edit by itself"),
    "nan": ("/edit?direction=smile&strength=nan", png(), 400, "the strength is nan; give a finite number"),
    "strength": ("/edit?direction=smile&strength=much", png(), 400, "strength is not right: "),
    "move": ("/edit?direction=smile&move=other", png(), 400, 'move is "other"; the bundle "tiny" has: paper, released'),
    "no direction": ("/edit", png(), 400, "direction is not right: "),
    "path": ("/nowhere", png(), 404, "Not Found"),
}


def check_refused(server: Server, name: str) -> str:
    path, content, status, sentence = BAD[name]
    if name == "pixels":
        stream = io.BytesIO()
        Image.new("L", (2000, 2000)).save(stream, "PNG")
        content = stream.getvalue()
    answer = server.post(path, content)
    check_bad(status, sentence, answer.status_code, answer.content)
    return name


def head(length: int) -> bytes:
    return f"POST /invert HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()


def check_slow(server: Server) -> str:
    status, _, body = server.raw(head(5000), b"x", pause=0.1).partition(b"\r\n\r\n")
    check_bad(408, f"the upload took longer than {server.seconds:g} seconds; send a smaller file", int(status.split()[1]), body)
    return "slow"


def check_cut_off(server: Server) -> str:
    server.raw(head(5000), png()[:2000], answer=False)
    return "cut off"


def check_slow_head(server: Server) -> str:
    assert server.raw(b"POST /invert HTTP/1.1\r\nHost: localhost\r\n") == b""  # the connection is closed
    return "slow head"


def check_garbage(server: Server) -> str:
    assert server.raw(b"\x16\x03\x01 no HTTP at all\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    return "garbage"


def test_it_is_ready_when_the_bundle_is_loaded(server: Server) -> None:
    assert httpx.get(server.url + "/ready").json() == {"status": "ready", "reasons": []}
    (bundle,) = httpx.get(server.url + "/api/bundles").json()
    assert [edit["name"] for edit in bundle["edits"]] == ["age", "smile"] and bundle["backend"].startswith("ONNX Runtime ")
    assert [move["name"] for move in bundle["moves"]] == ["paper", "released"]


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_loading_that_fails_in_any_way_is_told_apart_from_loading(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the driver is gone")

    if fault == "unexpected":
        monkeypatch.setattr(Pipeline, "load", fail)
    expected = {"missing": f"there is no bundle at {tmp_path}/nowhere", "unexpected": "loading failed: RuntimeError: the driver is gone"}
    with TestClient(create_app([tmp_path / "nowhere"])) as client:
        while (answer := client.get("/ready")).json()["status"] == "loading":
            time.sleep(0.01)
        assert answer.status_code == 503 and answer.json()["status"] == "failed"
        assert answer.json()["reasons"][0].startswith(expected[fault])
        assert client.post("/invert", content=png()).json()["error"].startswith(expected[fault])
        assert client.get("/health").status_code == 200


def ready(client: Any) -> None:
    while client.get("/ready").status_code != 200:
        time.sleep(0.01)


def test_good_requests_give_the_pictures_of_python(server: Server, expected: dict[str, np.ndarray]) -> None:
    for path in expected:
        check_good(server, expected, path)
    for kind in ("JPEG", "WEBP", "BMP"):
        assert server.post("/invert", png(kind=kind)).status_code == 200


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_in_one_sentence(server: Server, name: str) -> None:
    check_refused(server, name)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (PictureError("the picture is gray"), 400, "the picture is gray"),
        (ArgumentError("the strength is odd"), 400, "the strength is odd"),
        (OutOfMemoryError("no room on the device"), 503, "no room on the device"),
        (MemoryError(), 503, "not enough memory for this picture; send a smaller one"),
        (BackendError("the driver is gone"), 500, "the driver is gone"),
        (BundleError("a file is damaged"), 500, "a file is damaged"),
    ],
)
def test_the_status_says_whose_fault_an_error_is(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    with TestClient(create_app([tiny_bundle], threads=1)) as client:
        ready(client)
        for part in ("prepare", "invert"):
            with monkeypatch.context() as patch:
                patch.setattr(Pipeline, part, fail)
                answer = client.post("/invert", content=png())
            check_bad(status, sentence, answer.status_code, answer.content)


def test_slow_and_cut_off_requests_and_garbage(server: Server, expected: dict[str, np.ndarray]) -> None:
    for check in (check_slow, check_slow_head, check_cut_off, check_garbage):
        check(server)
        check_good(server, expected, "/invert")


def storm(server: Server, expected: dict[str, np.ndarray], count: int, seconds: list[float] | None = None) -> Counter[str]:
    """`count` requests from 16 clients: two in three are good, the others bad in every way in turn. `seconds` gets the good ones' times."""

    def timed(path: str) -> str:
        begun = time.perf_counter()
        name = check_good(server, expected, path)
        if seconds is not None:
            seconds.append(time.perf_counter() - begun)
        return name

    bad = [lambda name=name: check_refused(server, name) for name in BAD]
    bad += [lambda check=check: check(server) for check in (check_slow, check_slow_head, check_cut_off, check_garbage)]
    good = [lambda path=path: timed(path) for path in expected]
    work = [bad[index // 3 % len(bad)] if index % 3 == 0 else good[index % len(good)] for index in range(count)]
    with ThreadPoolExecutor(16) as clients:
        return Counter(result.result() for result in [clients.submit(item) for item in work])


def test_a_connection_that_is_kept_answers_at_once(server: Server) -> None:
    seconds = []
    with httpx.Client() as client:
        for _ in range(40):
            start = time.perf_counter()
            assert client.get(server.url + "/health").status_code == 200
            seconds.append(time.perf_counter() - start)
    # Where the second part of an answer waits for an acknowledgement of the first, no answer takes less than 40 ms.
    assert np.percentile(seconds, 20) < 0.03


def test_a_small_storm(server: Server, expected: dict[str, np.ndarray], log: Path) -> None:
    seen = storm(server, expected, 48)
    assert seen["good"] == 32 and len(seen) == 17
    assert httpx.get(server.url + "/ready").status_code == 200
    assert "Traceback" not in log.read_text()


def test_told_to_stop_it_answers_what_it_has_accepted_and_ends(tiny_bundle: Path, expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    server = start(tiny_bundle, tmp_path / "log")
    while httpx.get(server.url + "/ready").status_code != 200:
        time.sleep(0.05)

    def ask(index: int) -> str:
        time.sleep(0.02 * index)
        try:
            answer = server.post("/edit?direction=smile", png(seed=index))
        except httpx.ConnectError:
            return "not accepted"
        except (httpx.ReadError, httpx.RemoteProtocolError):  # connected, but nobody read from the socket any more
            return "not accepted"
        if answer.status_code == 200:
            Image.open(io.BytesIO(answer.content)).load()
            return "answered"
        return f"{answer.status_code} {answer.json()['error']}"

    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(ask, index) for index in range(16)]
        asked[0].result()
        ended = sum(one.done() for one in asked)
        accepted = ended + waiting(server)
        server.process.terminate()
        begun = time.perf_counter()
        assert server.process.wait(30) in (0, -15)
        seconds, seen = time.perf_counter() - begun, Counter(answer.result() for answer in asked)
    assert seen["answered"] >= 1 and set(seen) <= {"answered", "not accepted", "503 the service is being stopped"}, seen
    assert seen.total() - seen["not accepted"] >= accepted, "whatever was accepted is answered"
    assert seconds < 8, "five seconds, and what the interpreter needs to end"
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.full
def test_a_storm_of_2000_requests_leaves_memory_flat_and_nobody_waiting(
    tiny_bundle: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    quiet, log = os.getloadavg()[0] < 1, tmp_path / "log"
    server = start(tiny_bundle, log, seconds=5)  # on a busy machine a sound client too may need more than one
    while httpx.get(server.url + "/ready").status_code != 200:
        time.sleep(0.05)
    storm(server, expected, 200)  # allocators and thread pools reach their size
    before, seconds = server.memory(), list[float]()
    assert storm(server, expected, 2000, seconds)["good"] == 1333
    grown, (middle, late) = server.memory() - before, np.percentile(seconds, (50, 99))
    print(f"memory grew by {grown / 1e6:.1f} MB over 2000 requests, from {before / 1e6:.0f} MB")
    print(f"good requests: p50 {1e3 * middle:.0f} ms, p99 {1e3 * late:.0f} ms{'' if quiet else ', on a machine with other work'}")
    assert grown < 20e6
    assert not quiet or late < 3 * middle
    assert httpx.get(server.url + "/ready").status_code == 200
    server.process.terminate()
    assert server.process.wait(30) in (0, -15) and "Traceback" not in log.read_text()
