"""Uploads as clients send them: the file as the body, or one field of a form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

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
