"""uvicorn, with a limit on how long the head of a request may take, and an end that answers what was accepted."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdic_runtime.studio.limits import Limits

KEEP_ALIVE = 15  # seconds that a connection stays open between two requests


def protocol(seconds: float) -> type[H11Protocol]:
    """HTTP connections that are closed where the head of a request is not complete within `seconds`, and send what they have at once."""

    class Timed(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # asyncio does this for sockets made with the protocol's number alone; those of socket.create_server have 0. Without it the
            # second part of an answer waits for the client's delayed acknowledgement of the first: 40 ms.
            connection = transport.get_extra_info("socket")
            if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.deadline = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            idle = self.cycle is None or self.cycle.response_complete
            if self.deadline is not None and not idle:
                self.deadline.cancel()
                self.deadline = None
            elif self.deadline is None and idle:  # the head of a further request has begun
                self.deadline = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
            super().connection_lost(exc)

    return Timed


def server(app: Any, limits: Limits, **options: Any) -> uvicorn.Server:
    """A server of `app`; `options` are uvicorn's."""
    defaults: dict[str, Any] = {
        "http": protocol(limits.header_seconds),
        "ws": "none",
        "log_level": "warning",
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": max(1, round(limits.stop_seconds)),
    }
    return uvicorn.Server(uvicorn.Config(app, **{**defaults, **options}))
