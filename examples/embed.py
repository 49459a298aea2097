"""A web service around a bundle. One worker runs the pipeline; pictures that wait meanwhile go through it as one batch.

    pip install "sdic-toolkit[serve]"
    python examples/embed.py [BUNDLE]
    curl --data-binary @photo.jpg "localhost:8000/edit?direction=smile&strength=2" --output smile.png

POST /invert and /edit take a picture as the body and answer with a PNG. Errors are {"error": one sentence}: 400 for what the client can
change, 503 for too little memory, 500 for what is wrong here.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHttpException
from starlette.requests import ClientDisconnect

from sdic_runtime import Pipeline
from sdic_runtime.errors import ArgumentError, OutOfMemoryError, PictureError, SdicError
from sdic_runtime.pictures import decode_picture

UPLOAD_BYTES, UPLOAD_SECONDS, PIXELS = 10_000_000, 10.0, 25_000_000  # of one request
STATUS = {
    PictureError: 400,
    ArgumentError: 400,
    ClientDisconnect: 400,
    RequestValidationError: 400,
    OutOfMemoryError: 503,
    MemoryError: 503,
}
BATCH, WAITING = 8, 64  # pictures at a time; requests beyond those that may wait are turned away


class Job(NamedTuple):
    image: np.ndarray  # prepared, [1, 3, S, S]
    edit: tuple[str, float, str | None] | None  # direction, strength, eq6
    answer: asyncio.Future[bytes]


def run(pipeline: Pipeline, jobs: list[Job]) -> list[bytes | Exception]:
    """The PNG, or the error, of every job. All inversions are one batch."""
    answers: list[bytes | Exception] = []
    try:
        for job, inversion in zip(jobs, pipeline.invert(np.concatenate([job.image for job in jobs])), strict=True):
            try:
                result: Any = pipeline.edit(inversion, *job.edit) if job.edit else inversion
                result.images[0].save(png := io.BytesIO(), "PNG", compress_level=1)
                answers.append(png.getvalue())
            except (SdicError, MemoryError) as error:
                answers.append(error)
    except Exception as error:  # every request gets its answer, and none ends the worker
        answers += [error] * (len(jobs) - len(answers))
    return answers


async def work(state: Any, bundle: str | None, options: dict[str, Any]) -> None:
    """Load the bundle, then run what waits, for ever."""
    try:
        state.pipeline = await asyncio.to_thread(Pipeline.load, bundle, **options)
    except SdicError as error:
        state.reason = str(error)
        return
    while True:
        jobs = [await state.queue.get()]
        while len(jobs) < BATCH and not state.queue.empty():
            jobs.append(state.queue.get_nowait())
        for job, answer in zip(jobs, await asyncio.to_thread(run, state.pipeline, jobs), strict=True):
            if not job.answer.done():  # done: the client has gone
                job.answer.set_exception(answer) if isinstance(answer, Exception) else job.answer.set_result(answer)


async def read(request: Request) -> bytes:
    """The body of a request. One that is too large is still read to its end, because few clients listen before; nothing of it is kept."""
    data, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size <= UPLOAD_BYTES:
            data += piece
    if size > UPLOAD_BYTES:
        raise HTTPException(413, f"the upload is larger than {UPLOAD_BYTES} bytes; send a smaller file")
    return bytes(data)


def loaded(state: Any) -> Pipeline:
    if state.pipeline is None:
        raise HTTPException(503, state.reason)
    pipeline: Pipeline = state.pipeline
    return pipeline


async def respond(request: Request, edit: tuple[str, float, str | None] | None = None) -> Response:
    state, pipeline = request.app.state, loaded(request.app.state)
    try:
        data = await asyncio.wait_for(read(request), UPLOAD_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the upload took longer than {UPLOAD_SECONDS:g} seconds; send a smaller file") from None
    image = await asyncio.to_thread(lambda: pipeline.prepare(decode_picture(io.BytesIO(data), limit=PIXELS)))
    if state.queue.full():
        raise HTTPException(503, f"{WAITING} pictures are waiting already; try again in a moment")
    state.queue.put_nowait(Job(image, edit, answer := asyncio.get_running_loop().create_future()))
    return Response(await answer, media_type="image/png")


def create_app(bundle: str | None = None, **options: Any) -> FastAPI:
    """The application on a bundle (the embedded demo bundle when None); `options` go to Pipeline.load."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pipeline, app.state.reason = None, "the bundle is still loading; try again in a moment"
        app.state.queue = asyncio.Queue(WAITING)
        worker = asyncio.create_task(work(app.state, bundle, options))
        yield
        worker.cancel()

    app = FastAPI(title="SDIC", lifespan=lifespan)

    @app.post("/invert")
    async def invert(request: Request) -> Response:
        return await respond(request)

    @app.post("/edit")
    async def edit(request: Request, direction: str, strength: float = 1.0, eq6: str | None = None) -> Response:
        loaded(request.app.state).directions[direction]  # an unknown name is refused before the upload
        return await respond(request, (direction, strength, eq6))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready(request: Request) -> dict[str, Any]:
        pipeline = loaded(request.app.state)
        return {"status": "ready", "backend": pipeline.backend.description, "directions": list(pipeline.directions)}

    def refuse(_: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500))
        text = str(getattr(error, "detail", error))
        if isinstance(error, RequestValidationError):
            text = "; ".join(f"the parameter {item['loc'][-1]} is not right: {item['msg']}" for item in error.errors())
        elif isinstance(error, MemoryError):
            text = "not enough memory for this picture; send a smaller one"
        return JSONResponse({"error": text or "the upload was cut off; send it again"}, status)

    for kind in (SdicError, AnyHttpException, *STATUS):
        app.add_exception_handler(kind, refuse)
    return app


if __name__ == "__main__":
    uvicorn.run(create_app(*sys.argv[1:2]), port=8000, log_level="warning")
