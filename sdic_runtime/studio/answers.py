"""Errors as answers: one sentence, with the status of its kind."""

from __future__ import annotations

import re

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from sdic_runtime.errors import ArgumentError, OutOfMemoryError, PictureError
from sdic_runtime.studio.kept import GoneError
from sdic_runtime.studio.worker import BusyError, StaleError

OPTION = re.compile(r"(\b(?:sdic-[a-z]+|pip) [^;]*)|(?<![\w-])--(?=[a-z])")  # and the whole commands that keep theirs
STATUS: dict[type[BaseException], int] = {  # the first that fits
    GoneError: 404,
    StaleError: 409,
    BusyError: 503,
    PictureError: 400,
    ArgumentError: 400,
    ClientDisconnect: 400,
    RequestValidationError: 400,
    OutOfMemoryError: 503,
    MemoryError: 503,
}


def plain(sentence: str) -> str:
    """A sentence of the library without the dashes of options, which nobody can give to a service; whole commands, for whoever runs it,
    stay as they are."""
    return OPTION.sub(lambda found: found[1] or "", sentence)


def refuse(_: Request, error: Exception) -> Response:
    """One sentence, with the status of its kind."""
    status = getattr(error, "status_code", next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500))
    text = plain(str(getattr(error, "detail", error)))
    if isinstance(error, RequestValidationError):
        text = "; ".join(
            f"{'.'.join(map(str, item['loc'][1:])) or 'the request'} is not right: {item['msg']}" for item in error.errors()[:3]
        )
    elif isinstance(error, MemoryError):
        text = "not enough memory for this picture; send a smaller one"
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": text[:400] or "the upload was cut off; send it again"}, status, headers)
