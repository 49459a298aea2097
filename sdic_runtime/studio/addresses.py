"""Where a service can be reached, for people to open."""

from __future__ import annotations

import socket

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # what is listened on: this machine's own address among it
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # of no machine: for documentation


def addresses(host: str, port: int, token: str | None = None) -> list[str]:
    """The addresses of the page: one, or where it listens on all of this machine's the one for this machine, then the one for others."""
    hosts = [host]
    if host in EVERYWHERE:
        hosts = [EVERYWHERE[host], *outward(family_of(host))]
    return [f"http://{f'[{one}]' if ':' in one else one}:{port}/{f'?token={token}' if token else ''}" for one in hosts]


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def outward(family: socket.AddressFamily) -> list[str]:
    """The address that this machine has for others, where it has one. Nothing is sent: a datagram's socket only looks for the way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as looking:
            looking.connect((ELSEWHERE[family], 9))
            return [looking.getsockname()[0]]
    except OSError:
        return []
