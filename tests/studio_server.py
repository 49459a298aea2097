"""The studio's service in a process of its own, and pictures for it."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

httpx = pytest.importorskip("httpx")
for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)
TestClient = pytest.importorskip("fastapi.testclient").TestClient

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
