"""Bodies of requests within the limits: uploads, which are the body or one field of a form, and the small ones of everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

from sdic_runtime.studio.limits import Limits

FORM = "multipart/form-data"


class Uploads:
    """Reads bodies within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._turns = limits, asyncio.Semaphore(limits.uploads)

    async def read(self, request: Request) -> bytes:
        """The file of a request. Raises HTTPException."""
        limits = self._limits
        async with self._counted():
            try:
                data = await asyncio.wait_for(self._body(request), limits.upload_seconds)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the upload took longer than {limits.upload_seconds:g} seconds; send a smaller file") from None
        kind = request.headers.get("content-type", "")
        return file_of(data, kind) if kind.startswith(FORM) else data

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """A turn among the uploads; one that does not come in time is refused."""
        try:
            await asyncio.wait_for(self._turns.acquire(), self._limits.upload_seconds)
        except asyncio.TimeoutError:
            raise HTTPException(503, f"{self._limits.uploads} uploads are under way already; try again in a moment") from None
        try:
            yield
        finally:
            self._turns.release()

    async def _body(self, request: Request) -> bytes:
        """One that is too large is still read to its end, because few clients listen before; nothing of it is kept."""
        data, size, most = bytearray(), 0, self._limits.upload_bytes
        async for piece in request.stream():
            size += len(piece)
            if size <= most:
                data += piece
            elif data:
                data = bytearray()
        if size > most:
            raise HTTPException(413, f"the upload is larger than {most} bytes; send a smaller file")
        return bytes(data)


def small_bodies(limits: Limits) -> type[APIRoute]:
    """Routes whose body, where they take one that is no upload, is read within the limits."""

    class SmallBodies(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            if self.body_field is None:
                return handle

            async def measured(request: Request) -> Response:
                return await handle(Request(request.scope, _small(request.receive, limits)))

            return measured

    return SmallBodies


def _small(receive: Receive, limits: Limits) -> Receive:
    """Raises HTTPException for a body beyond the limits; one that is too large is still read to its end, as an upload is."""
    size, end, whole = 0, time.monotonic() + limits.upload_seconds, False

    async def piece() -> Message:
        nonlocal size, whole
        if whole:  # what comes after the body is that the client goes
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request's body took longer than {limits.upload_seconds:g} seconds; send it again") from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message

    async def receiving() -> Message:
        message = await piece()
        while size > limits.body_bytes:
            if whole:
                raise HTTPException(413, f"the request's body is larger than {limits.body_bytes} bytes; send a smaller one")
            await piece()
        return message

    return receiving


def file_of(body: bytes, kind: str) -> bytes:
    """The first file of a form. Raises HTTPException."""
    from python_multipart import FormParser

    _, parameters = parse_options_header(kind)
    files: list[bytes] = []

    def add(file: object) -> None:
        stream = file.file_object  # type: ignore[attr-defined]
        stream.seek(0)
        files.append(stream.read())

    try:
        parser = FormParser(
            FORM, lambda field: None, add, boundary=parameters.get(b"boundary", b""), config={"MAX_MEMORY_FILE_SIZE": 1 << 30}
        )
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, ValueError) as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from None
    if not files:
        raise HTTPException(400, "the form has no file; send it as the field: file")
    return files[0]
