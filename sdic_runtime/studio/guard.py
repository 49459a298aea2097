"""Who may talk to the studio: known hosts, no other site's pages, and with a token nobody else."""

from __future__ import annotations

import ipaddress
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
    """Wraps the application. `hosts`: what the Host header may name besides loopback; "*" for any. `addresses`: any IP address too, for a
    service that listens on those of this machine; what a page elsewhere can make lead here is a name. `token`: what a request must show, as
    a bearer token, a cookie, or `?token=` on the page, which sets the cookie."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), token: str | None = None, addresses: bool = False) -> None:
        self.app, self.hosts, self.token, self.addresses = app, {*LOOPBACK, *(host.lower() for host in hosts)}, token, addresses

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
        given, origin = headers.get("host", ""), headers.get("origin")
        host = _host(given)
        if not (self.hosts & {"*", host} or (self.addresses and _is_address(host))):
            return 421, f'this service does not answer as "{(host or given)[:80]}"; whoever starts it can allow that name'
        navigates = headers.get("sec-fetch-mode") == "navigate" and _path(scope) == "/" and scope["method"] == "GET"
        foreign = origin is not None and _netloc(origin) != given.lower()
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


def _host(given: str) -> str:
    """The name or address in a Host header, "" where it is none."""
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """What the Host header of an origin's own requests names; None where it is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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
