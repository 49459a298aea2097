"""Bodies that are no uploads have limits of their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

for package in ("fastapi", "httpx", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)

from fastapi.testclient import TestClient  # noqa: E402 - it needs them

from sdic_runtime.studio.limits import Limits  # noqa: E402
from sdic_runtime.studio.service import create_app  # noqa: E402

NOWHERE = "there is no bundle"  # none is needed to refuse a body
PATHS = ("/api/pictures/x/invert", "/api/inversions/x/edit", "/api/inversions/x/strip", "/api/inversions/x/animation")


def answered(app: Any, path: str, pieces: list[bytes], stalls: bool = False) -> tuple[int, str]:
    """The answer to a body that comes in pieces; one that `stalls` never ends. For an application that is called without a server."""
    waiting = [
        {"type": "http.request", "body": piece, "more_body": stalls or index + 1 < len(pieces)} for index, piece in enumerate(pieces)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if not waiting:
            await asyncio.sleep(60)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    asyncio.run(app({**scope, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80)}, receive, send))
    assert not any(message.get("more_body") for message in waiting) or stalls, "a body that is too large is read to its end"
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))["error"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large_is_refused(path: str) -> None:
    client = TestClient(create_app([NOWHERE]))
    answer = client.post(path, content=b'{"move": "' + 65_536 * b"a" + b'"}')
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request's body is larger than 65536 bytes; send a smaller one"}
    assert client.post(path, json={"swept": "a", "strengths": [0.5] * 10}).status_code != 413, "another is not"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_comes_in_pieces_is_counted_and_timed(path: str) -> None:
    app = create_app([NOWHERE], Limits(body_bytes=1000, upload_seconds=0.2))
    assert answered(app, path, [b" " * 600] * 3) == (413, "the request's body is larger than 1000 bytes; send a smaller one")
    for pieces in ([b"{"], [b" " * 1001]):
        assert answered(app, path, pieces, stalls=True) == (408, "the request's body took longer than 0.2 seconds; send it again")
