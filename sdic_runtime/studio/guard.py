"""Who may talk to the studio: known hosts, no other site's pages, and with a token nobody else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "sdic_token"
OPEN = ("/health", "/ready")  # what a supervisor asks, without a token
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Wraps the application. `hosts`: what the Host header may name besides loopback; "*" for any. `token`: what a request must show, as a
    bearer token, a cookie, or `?token=` on the page, which sets the cookie."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), token: str | None = None) -> None:
        self.app, self.hosts, self.token = app, {*LOOPBACK, *hosts}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
        elif self.token and _path(scope) == "/" and _query_token(scope) is not None:
            page = quote(f"{scope.get('root_path', '')}/")
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path={page}"
            await _answer(send, 303, "", [(b"location", page.encode()), (b"set-cookie", cookie.encode("latin-1"))])
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refused(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if "*" not in self.hosts and host not in self.hosts:
            return 421, f'this service does not answer as "{host[:80]}"; name the host with --allow-host'
        origin = headers.get("origin")
        navigates = headers.get("sec-fetch-mode") == "navigate" and _path(scope) == "/" and scope["method"] == "GET"
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if not navigates and (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return 403, "pages of other sites may not use this service"
        if self.token and _path(scope) not in OPEN and not self._knows(scope, headers):
            return 401, "a token is needed; open the address that was printed when the service started"
        return None

    def _knows(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [bearer] if kind.lower() == "bearer" else []
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        shown += [cookies[COOKIE].value] if COOKIE in cookies else []
        if _path(scope) == "/" and (query := _query_token(scope)) is not None:
            shown.append(query)
        return any(secrets.compare_digest(text.encode(), str(self.token).encode()) for text in shown)


def _path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path, mount = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(mount) :] if path.startswith(f"{mount}/") else path


def _query_token(scope: Scope) -> str | None:
    return next(iter(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])), None)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, sentence: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"error": sentence}).encode() if sentence else b""
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    sending = _with_headers(send)
    await sending({"type": "http.response.start", "status": status, "headers": head})
    await sending({"type": "http.response.body", "body": body})
