"""The service behind the page: pictures are sent once, an inversion has a handle, and edits refer to it."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as AnyHttpException

from sdic_runtime.errors import ArgumentError, SdicError
from sdic_runtime.faces import open_photo
from sdic_runtime.pictures import opened as decoding
from sdic_runtime.sheets import back_and_forth, gif
from sdic_runtime.studio.answers import STATUS, plain, refuse
from sdic_runtime.studio.kept import Kept as Store
from sdic_runtime.studio.limits import Limits
from sdic_runtime.studio.messages import Number, ToEdit, ToInvert, ToSweep
from sdic_runtime.studio.rooms import FAILED, FORMATS, LOADING, READY, Asked, Kept, Picture, Room, Taken, encoded, opened
from sdic_runtime.studio.uploads import Uploads, small_bodies
from sdic_runtime.studio.worker import Work, Worker, finished

PAGE = Path(__file__).with_name("page")
PREVIEW_SIDE = 1024  # pixels of the longer side of a photograph that the page shows


class Studio:
    """What the routes share."""

    def __init__(
        self, bundles: Sequence[Path | None], limits: Limits, options: dict[str, Any], loaded: Callable[[Sequence[Room]], None]
    ) -> None:
        self.limits, self.loaded = limits, loaded
        self.rooms = [Room(path, options) for path in bundles]
        # The models, and what reads the pictures that come for them.
        self.worker, self.reader, self.uploads = Worker(limits.waiting), Worker(limits.waiting), Uploads(limits)
        self.pictures: Store[Picture] = Store(limits.kept, limits.kept_bytes // 2, limits.lifetime)
        self.inversions: Store[Kept] = Store(limits.kept, limits.kept_bytes // 2, limits.lifetime)
        self.inverting = {id(room): Work(room.invert, limits.batch) for room in self.rooms}
        self.tasks: list[asyncio.Task[None]] = []
        self.stopping = False
        self.registry = CollectorRegistry()
        self.answers = Counter("sdic_answers", "Answers by status", ["status"], registry=self.registry)
        self.seconds = Histogram("sdic_work_seconds", "From a request to its result", ["work"], registry=self.registry)
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "sdic_waiting": ("Requests that wait or are computed", lambda: len(self.worker) + len(self.reader)),
            "sdic_pictures": ("Pictures in memory", lambda: len(self.pictures)),
            "sdic_inversions": ("Inversions in memory", lambda: len(self.inversions)),
            "sdic_kept_bytes": ("Bytes of both", lambda: self.pictures.size + self.inversions.size),
        }
        for name, (meaning, value) in gauges.items():
            Gauge(name, meaning, registry=self.registry).set_function(value)

    def start(self) -> None:
        """Load the bundles and answer, in the running event loop; what runs already goes on."""
        if not self.tasks:
            running = (self.worker.run(), self.reader.run(), self._load())
            self.tasks = [asyncio.create_task(each) for each in running]

    async def _load(self) -> None:
        for room in self.rooms:
            await asyncio.to_thread(room.load)
        self.loaded(self.rooms)

    async def stop(self) -> None:
        """Answer what was accepted, and take nothing more."""
        self.stopping = True
        await finished([self.worker, self.reader], self.limits.stop_seconds)
        for task in self.tasks:
            task.cancel()

    def room(self, name: str | None = None) -> Room:
        """The bundle called `name`, the first one that did not fail when None. Raises HTTPException or ArgumentError."""
        if self.stopping:
            raise HTTPException(503, "the service is being stopped")
        ready = {room.open.bundle.manifest.name: room for room in self.rooms if room.state == READY}
        if name is None or not ready:
            first = next((room for room in self.rooms if room.state != FAILED), self.rooms[0])
            if first.state != READY:
                raise HTTPException(503, first.reason)
            return first
        if name not in ready:
            if any(room.state == LOADING for room in self.rooms):
                raise HTTPException(503, f'there is no bundle "{name}" here yet, and more are loading; try again in a moment')
            raise ArgumentError(f'there is no bundle "{name}" here; there are: {", ".join(ready)}')
        return ready[name]

    async def done(
        self, request: Request, what: str, work: Work, payload: Any, slot: str | None = None, worker: Worker | None = None
    ) -> Any:
        """The result of a job for `worker`, the models' when None; one whose client has gone is dropped. Raises what the job raised, and
        HTTPException after too long."""
        start = time.perf_counter()
        answer = (self.worker if worker is None else worker).submit(work, payload, slot)  # one without work counts as false
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({answer, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                result = answer.result()
                self.seconds.labels(what).observe(time.perf_counter() - start)
                return result
            if gone.done():
                raise HTTPException(499, "the client has gone")
            raise HTTPException(503, f"this request waited for {self.limits.seconds:g} seconds; try again in a moment")
        finally:
            answer.cancel()
            gone.cancel()

    async def picture(self, request: Request, faces: bool) -> Picture:
        """The picture that a request brings."""
        data, limits = await self.uploads.read(request), self.limits

        def made(_: Sequence[Any]) -> list[Picture]:
            with decoding(io.BytesIO(data), "the picture", limits.pixels) as image:
                return [opened(open_photo(image), faces)]

        picture: Picture = await self.done(request, "decode", Work(made), None, worker=self.reader)
        return picture

    async def look(self, request: Request, picture: Picture) -> None:
        """Look for the faces of a picture, where nobody did: the model that needs them may have been loaded later."""

        def looked(_: Sequence[Any]) -> list[None]:
            picture.look()
            return [None]

        if picture.faces is None:
            await self.done(request, "faces", Work(looked), None, worker=self.reader)

    def finds(self) -> bool:
        """Whether a model that is ready takes the faces of photographs."""
        return any(room.faces for room in self.rooms if room.state == READY)

    async def inversion(self, request: Request, room: Room, picture: Picture, taken: Taken) -> Kept:
        if room.looks(taken):
            await self.look(request, picture)
        kept: Kept = await self.done(request, "invert", self.inverting[id(room)], (picture, taken))
        return kept

    async def image(self, request: Request, kept: Kept, asked: Asked, kind: str, slot: str | None = None) -> Response:
        work = Work(lambda _: kept.room.pictures(kept, [asked]), then=lambda image: encoded(image, kind))
        return Response(await self.done(request, "edit", work, None, slot), media_type=FORMATS[kind][0])


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(
    bundles: Sequence[Path | str | None] = (None,),
    limits: Limits | None = None,
    loaded: Callable[[Sequence[Room]], None] = lambda rooms: None,
    **options: Any,
) -> FastAPI:
    """The application on some bundles (None: the embedded demo bundle); `options` go to Pipeline.load. `loaded` is called in the event
    loop once all bundles are ready or have failed. Mounted in another application it starts with the first request."""
    studio = Studio([None if path is None else Path(path) for path in bundles], limits or Limits(), options, loaded)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        studio.start()
        yield
        await studio.stop()

    app = FastAPI(title="SDIC", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = small_bodies(studio.limits)
    app.state.studio = studio
    _add_page(app)
    _add_health(app, studio)
    _add_pictures(app, studio)
    _add_inversions(app, studio)
    _add_single(app, studio)
    for kind in (SdicError, AnyHttpException, *STATUS):
        app.add_exception_handler(kind, refuse)

    @app.middleware("http")
    async def count(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        studio.start()  # a mounted application is not told that its server starts
        response = await follow(request)
        studio.answers.labels(str(response.status_code)).inc()
        return response

    return app


def _add_page(app: FastAPI) -> None:
    files = {
        "/": "index.html",
        **{f"/{name}": name for name in ("studio.css", "studio.js", "service.js", "address.js", "brush.js", "icon.svg")},
    }
    for path, name in files.items():
        app.add_api_route(path, lambda name=name: FileResponse(PAGE / name), include_in_schema=False)


def _add_health(app: FastAPI, studio: Studio) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers; see /ready for whether it can work."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> Response:
        """Loading while any bundle does, then ready, or failed where one did; or stopping; and why."""
        states = {room.state for room in studio.rooms}
        state = "stopping" if studio.stopping else next((one for one in (LOADING, FAILED) if one in states), READY)
        reasons = [plain(room.reason) for room in studio.rooms if room.reason]
        return JSONResponse({"status": state, "reasons": reasons}, 200 if state == READY else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(studio.registry), media_type="text/plain; version=0.0.4")


def _add_pictures(app: FastAPI, studio: Studio) -> None:
    def described(handle: str, picture: Picture) -> dict[str, Any]:
        width, height = picture.photo.size
        faces = [{"box": list(face.box), "quality": face.quality, "warning": face.warning} for face in picture.faces or ()]
        return {"picture": handle, "width": width, "height": height, "faces": faces}

    @app.get("/api/bundles")
    async def bundles() -> list[dict[str, Any]]:
        studio.room()
        return [room.described() for room in studio.rooms if room.state == READY]

    @app.post("/api/pictures")
    async def send(request: Request) -> dict[str, Any]:
        studio.room()
        picture = await studio.picture(request, studio.finds())
        return described(studio.pictures.add(picture, picture.size), picture)

    @app.get("/api/pictures/{handle}")
    async def picture(request: Request, handle: str) -> dict[str, Any]:
        picture = studio.pictures.get(handle)
        if studio.finds():
            await studio.look(request, picture)
        return described(handle, picture)

    @app.get("/api/pictures/{handle}/image")
    async def image(request: Request, handle: str) -> Response:
        """The photograph, small enough for a page."""
        picture = studio.pictures.get(handle)

        def made(_: Sequence[Any]) -> list[bytes]:
            small = picture.photo.to_srgb(picture.photo.image).copy()
            small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
            return [encoded(small, "jpeg")]

        return Response(await studio.done(request, "preview", Work(made), None, worker=studio.reader), media_type="image/jpeg")

    @app.delete("/api/pictures/{handle}")
    async def forget(handle: str) -> dict[str, str]:
        studio.pictures.drop(handle)
        return {"status": "forgotten"}

    @app.post("/api/pictures/{handle}/invert")
    async def invert(request: Request, handle: str, wanted: ToInvert) -> dict[str, Any]:
        taken = Taken(wanted.face, wanted.crop, wanted.aligned)
        kept = await studio.inversion(request, studio.room(wanted.bundle), studio.pictures.get(handle), taken)
        return _described(studio.inversions.add(kept, kept.size), kept)


def _described(handle: str, kept: Kept) -> dict[str, Any]:
    width, height = kept.inversion.images[0].size
    notices = [plain(notice) for notice in kept.subject.notices]
    return {
        "inversion": handle,
        "bundle": kept.room.open.bundle.manifest.name,
        "width": width,
        "height": height,
        "seconds": kept.seconds,
        "notices": notices,
        "pastes": kept.subject.whole,
        "masked": kept.keeps is not None,
    }


def _add_inversions(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/inversions/{handle}")
    async def inversion(handle: str) -> dict[str, Any]:
        return _described(handle, studio.inversions.get(handle))

    @app.get("/api/inversions/{handle}/input")
    async def taken(request: Request, handle: str) -> Response:
        """What the model was given, in the size of its pictures."""
        kept = studio.inversions.get(handle)

        def made(_: Sequence[Any]) -> list[bytes]:
            image: Any = kept.subject.pictures[0]
            return [encoded(image.convert("RGB").resize(kept.inversion.images[0].size), "jpeg")]

        return Response(await studio.done(request, "preview", Work(made), None, worker=studio.reader), media_type="image/jpeg")

    @app.put("/api/inversions/{handle}/mask")
    async def mask(request: Request, handle: str) -> dict[str, Any]:
        """A picture of the model's size, white where nothing may change; an empty body for none."""
        kept, data = studio.inversions.get(handle), await studio.uploads.read(request)

        def made(_: Sequence[Any]) -> list[None]:
            if not data:
                kept.room.keep(kept, None)
                return [None]
            with decoding(io.BytesIO(data), "the mask", studio.limits.pixels) as image:
                kept.room.keep(kept, image.convert("L"))
            return [None]

        await studio.done(request, "mask", Work(made), None, worker=studio.reader)
        return _described(handle, kept)

    @app.post("/api/inversions/{handle}/edit")
    async def edit(request: Request, handle: str, wanted: ToEdit) -> Response:
        kept = studio.inversions.get(handle)
        studio.room()
        slot = f"{handle}/{wanted.slot}" if wanted.slot else None
        return await studio.image(request, kept, _asked(wanted, studio.limits), wanted.format, slot)

    @app.post("/api/inversions/{handle}/strip")
    async def strip(request: Request, handle: str, wanted: ToSweep) -> Response:
        kept, asked = studio.inversions.get(handle), _swept(wanted, studio.limits)
        captions = [f"{strength:+.3g}" if strength else "0" for strength in wanted.strengths]

        def made(_: Sequence[Any]) -> list[Any]:
            return [kept.room.strip(kept, asked, captions)]

        work = Work(made, then=lambda image: encoded(image, wanted.format))
        return Response(await studio.done(request, "strip", work, None), media_type=FORMATS[wanted.format][0])

    @app.post("/api/inversions/{handle}/animation")
    async def animation(request: Request, handle: str, wanted: ToSweep) -> Response:
        kept, asked = studio.inversions.get(handle), _swept(wanted, studio.limits)

        work = Work(lambda _: [kept.room.pictures(kept, asked, small=True)], then=lambda images: gif(back_and_forth(images)))
        return Response(await studio.done(request, "animation", work, None), media_type="image/gif")

    @app.delete("/api/inversions/{handle}")
    async def forget(handle: str) -> dict[str, str]:
        studio.inversions.drop(handle)
        return {"status": "forgotten"}


def _asked(wanted: ToEdit, limits: Limits) -> Asked:
    if len(wanted.edits) > limits.parts:
        raise ArgumentError(f"{len(wanted.edits)} edits are combined, and the limit is {limits.parts}; give fewer")
    return Asked(tuple((part.name, part.strength) for part in wanted.edits), wanted.move, wanted.paste)


def _swept(wanted: ToSweep, limits: Limits) -> list[Asked]:
    if len(wanted.strengths) > limits.frames:
        raise ArgumentError(f"{len(wanted.strengths)} strengths were asked for, and the limit is {limits.frames}; give fewer")
    one = _asked(wanted, limits)
    others = tuple(part for part in one.edits if part[0] != wanted.swept)
    return [Asked((*others, (wanted.swept, strength)), one.move, one.paste) for strength in wanted.strengths]


def _add_single(app: FastAPI, studio: Studio) -> None:
    """One request from a picture to a picture, for scripts; nothing is kept."""

    async def answered(request: Request, bundle: str | None, asked: Asked, taken: Taken) -> Response:
        room = studio.room(bundle)
        if asked.edits:
            room.edit(asked.edits)  # an unknown name is refused before the upload
        kept = await studio.inversion(request, room, await studio.picture(request, room.looks(taken)), taken)
        return await studio.image(request, kept, asked, "png")

    @app.post("/invert")
    async def invert(
        request: Request, bundle: str | None = None, face: Number = None, crop: bool = False, aligned: bool = False, paste: str = ""
    ) -> Response:
        return await answered(request, bundle, Asked((), None, _paste(paste)), Taken(face, crop, aligned))

    @app.post("/edit")
    async def edit(
        request: Request,
        direction: str,
        strength: float = 1.0,
        move: str | None = None,
        bundle: str | None = None,
        face: Number = None,
        crop: bool = False,
        aligned: bool = False,
        paste: str = "",
    ) -> Response:
        asked = Asked(((direction, strength),), move, _paste(paste))
        return await answered(request, bundle, asked, Taken(face, crop, aligned))


def _paste(paste: str) -> str:
    if paste not in ("", "difference", "replace"):
        raise ArgumentError(f'paste is "{paste[:80]}"; use difference or replace, or omit it')
    return paste
