"""The web service under good, malformed, oversized, slow and cut-off requests on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, OutOfMemoryError, PictureError

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient  # noqa: E402 - it needs all of them

from sdic_runtime.studio.service import create_app  # noqa: E402

LAUNCHER = """
import socket, sys
from sdic_runtime.studio.guard import Guard
from sdic_runtime.studio.limits import Limits
from sdic_runtime.studio.server import server
from sdic_runtime.studio.service import create_app
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
seconds = float(sys.argv[2])
limits = Limits(upload_bytes=200_000, upload_seconds=seconds, pixels=1_000_000, header_seconds=seconds, kept=8)
server(Guard(create_app([sys.argv[1]], limits, threads=1)), limits).run(sockets=[listening])
"""


def png(width: int = 90, height: int = 70, seed: int = 0, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
        self.process, self.port, self.seconds = process, port, seconds
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, content: Any) -> Any:
        return httpx.post(self.url + path, content=content, timeout=60)

    def raw(self, *pieces: bytes, pause: float = 0, answer: bool = True) -> bytes:
        """What comes back on a connection of its own, on which `pieces` are sent with pauses between them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            received = b""
            while answer and (piece := connection.recv(65536)):
                received += piece
                if b"\r\n\r\n" in received and received.endswith(b"}"):
                    break
            return received

    def memory(self) -> int:
        """Resident bytes of the process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def waiting(server: Server, client: Any = httpx) -> int:
    """How many requests wait there or are computed."""
    found = re.search(r"^sdic_waiting (\S+)", client.get(server.url + "/metrics").text, re.M)
    assert found
    return int(float(found[1]))


def start(bundle: Path, log: Path, seconds: float = 1) -> Server:
    """A service that gives an upload, and the head of a request, `seconds`."""
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", LAUNCHER, bundle, str(seconds)], stdout=subprocess.PIPE, stderr=stream)
    assert process.stdout
    server = Server(process, int(process.stdout.readline() or 0), seconds)
    for _ in range(600):
        try:
            if httpx.get(server.url + "/health", timeout=5).status_code == 200:
                return server
        except httpx.HTTPError:
            time.sleep(0.1)
        assert process.poll() is None, log.read_text()
    raise AssertionError("the server does not answer")


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


@dataclass(frozen=True)
class Answer:
    """When a slider's value was sent and answered, and whether with a picture (or because a newer value took its place)."""

    sent: float
    came: float
    shown: bool


def drag(server: Server, inversion: str, seconds: float) -> tuple[list[Answer], int, float]:
    """A slider that sends 30 values a second without waiting for answers; the most that waited in the service meanwhile; and the seconds
    that the slowest answer took for which nothing is computed."""

    def send(index: int) -> Answer:
        time.sleep(max(0.0, begun + index / 30 - time.perf_counter()))
        sent = time.perf_counter()
        edit = {"edits": [{"name": "smile", "strength": index / count}], "slot": "smile", "format": "jpeg"}
        answer = client.post(f"{server.url}/api/inversions/{inversion}/edit", json=edit)
        assert answer.status_code in (200, 409), answer.text
        return Answer(sent, time.perf_counter(), answer.status_code == 200)

    most, slowest, count, begun = 0, 0.0, int(30 * seconds), time.perf_counter() + 0.2
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(32) as threads:
        asked = [threads.submit(send, index) for index in range(count)]
        while not all(one.done() for one in asked):
            start = time.perf_counter()
            most = max(most, waiting(server, client))
            slowest = max(slowest, time.perf_counter() - start)
            time.sleep(0.02)
        return [one.result() for one in asked], most, slowest


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20, marks=pytest.mark.full)])
def test_a_dragged_slider_ends_on_its_last_value_and_queues_nothing(seconds: float, tmp_path: Path) -> None:
    quiet, server = os.getloadavg()[0] < 1, start(DEMO_FOLDER, tmp_path / "log")
    while httpx.get(server.url + "/ready").status_code != 200:
        time.sleep(0.05)
    picture = httpx.post(server.url + "/api/pictures", content=png(128, 128)).json()["picture"]
    inversion = httpx.post(f"{server.url}/api/pictures/{picture}/invert", json={}, timeout=60).json()["inversion"]
    drag(server, inversion, 0.5)  # the first edits load what they need
    answers, most, slowest = drag(server, inversion, seconds)
    assert waiting(server) == 0
    server.process.terminate()
    assert server.process.wait(30) in (0, -15) and "Traceback" not in (tmp_path / "log").read_text()
    shown = sorted((answer for answer in answers if answer.shown), key=lambda answer: answer.came)
    ages, renders = ([1e3 * (answer.came - answer.sent) for answer in shown], [1e3 * (b.came - a.came) for a, b in pairwise(shown)])
    print(f"{len(shown)} of {len(answers)} values shown, one in {np.median(renders):.0f} ms, {np.median(ages):.0f} ms old", end="")
    print(f", the oldest {max(ages):.0f} ms{'' if quiet else ', on a machine with other work'}")
    assert answers[-1].shown, "the last value is what stays on the screen"
    assert most <= 4, "one waits, one is computed, and of their pictures one waits and one is written"
    # Two renders before a picture was there, and no earlier, its value was sent: while one was computed, this one waited.
    slack = 2 * max(slowest, 0.1)
    late = [two.came - new.sent for two, new in zip(shown, shown[2:], strict=False) if new.sent < two.came - slack]
    assert not late, f"{len(late)} of {len(shown)} pictures are older than two renders"
    open_at = [sum(other.sent < answer.sent < other.came for other in answers) for answer in answers]
    half = len(open_at) // 2
    assert np.mean(open_at[half:]) <= np.mean(open_at[:half]) + 2, "no queue grows"


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
