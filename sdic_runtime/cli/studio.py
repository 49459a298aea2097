"""`sdic-run studio`: a page with sliders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli import options


def run(
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundle", metavar="DIR", help="Bundle folder, may be repeated; the embedded demo bundle when omitted."),
    ] = None,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(help="What clients must show; made anew when omitted on an address that others reach.")
    ] = None,
    hosts: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="Name that the service is reached by, besides its address.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Show a page with sliders.

    Drop a photograph on the page, choose the face, and drag. The picture is inverted once and kept in memory, nowhere else,
    while the page is used; see docs/studio.md for the service behind it.

    \b
    Example:
      sdic-run studio --bundle engines/ffhq1024
    """
    import re
    import secrets
    import socket
    from importlib.util import find_spec

    from sdic_runtime.errors import ArgumentError, BackendError, MissingExtraError, SdicError, printable

    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "sdic-run studio")
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.studio.addresses import addresses, family_of
    from sdic_runtime.studio.guard import LOOPBACK, Guard
    from sdic_runtime.studio.limits import Limits
    from sdic_runtime.studio.rooms import FAILED, Room
    from sdic_runtime.studio.server import server
    from sdic_runtime.studio.service import create_app

    names = [Bundle.open(path).manifest.name for path in bundles or []]
    if len(set(names)) < len(names):
        raise ArgumentError(f"two bundles are called alike: {', '.join(names)}; give bundles of different names")
    if token is not None and not re.fullmatch(r"[\w.~-]{8,}", token):
        raise ArgumentError("the token needs at least 8 letters, digits, or any of . _ ~ -")
    token = token or (None if host in LOOPBACK else secrets.token_urlsafe(18))
    if not bundles:
        options.notice(options.DEMO_NOTICE)
    failed: list[Room] = []

    def loaded(rooms: Sequence[Room]) -> None:
        """Say what could not be loaded; without any bundle there is nothing to serve."""
        failed.extend(room for room in rooms if room.state == FAILED)
        none = len(failed) == len(rooms)
        serving.should_exit |= none  # a signal may have asked for it meanwhile
        for room in failed[: len(failed) - none]:
            options.notice(f"error: {printable(f'{room.path}: {room.reason}')}")

    app = create_app(bundles or [None], loaded=loaded, backend=backend, precision=precision)
    try:
        listening = socket.create_server((host, port), family=family_of(host))
    except OSError as error:
        raise ArgumentError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host") from error
    for address in addresses(host, listening.getsockname()[1], token):
        typer.echo(address)
    serving = server(Guard(app, {host, *(hosts or [])}, token, addresses=host not in LOOPBACK), Limits())
    serving.run(sockets=[listening])
    if failed and len(failed) == len(app.state.studio.rooms):
        last = failed[-1]
        raise last.error if isinstance(last.error, SdicError) else BackendError(last.reason) from last.error
