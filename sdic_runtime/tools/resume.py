"""Fetching one address into a file, in several goes where the connection breaks: what the library that downloads does not do."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import FileError
from sdic_runtime.parsing.contents import HTML_SIGNS, PAGE, QUOTA
from sdic_runtime.progress import byte_progress

if TYPE_CHECKING:
    import requests

CHUNK, SMALL = 1 << 18, 1 << 13
MOST = 64 << 30  # bytes of a file whose size nobody says
MOST_REDIRECTS = 5
AGENT = "sdic-toolkit"


class Unavailable(Exception):
    """Why one place does not give the file; the next may."""


class _Cut(Exception):
    """The connection broke; another go may continue."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a place."""

    connect: float = 10.0  # seconds for a connection
    read: float = 30.0  # seconds without a byte
    slowest: float = 1024.0  # bytes per second, below which over `window` seconds a place is given up
    window: float = 60.0
    goes: int = 5  # without a new byte between them
    most_goes: int = 200
    pause: float = 1.0  # seconds before the second go, and twice as long before each further one


class Resuming:
    """A downloader for pooch, which calls it with the address and the file to write.

    `part`: where the bytes are kept between goes and runs. `size`: bytes of the whole file, None where unknown. `sure`: whether a hash
    tells in the end whether the whole is right, so that any part may be continued; without one a part is continued only where the server
    says that the file is still the same.
    """

    def __init__(self, part: Path, size: int | None, sure: bool, patience: Patience, right: Callable[[Path], bool]) -> None:
        self.part, self.size, self.sure, self.patience, self.right = part, size, sure, patience, right
        self.note = part.with_name(f"{part.name}.json")  # which file the part is of
        self.resumed = False

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Raises Unavailable, and FileError where this machine is at fault."""
        import requests

        self.resumed = bool(self._have())
        with requests.Session() as session:
            session.max_redirects = MOST_REDIRECTS
            self._goes(session, url)
        os.replace(self.part, output_file)
        self.note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was kept."""
        for file in (self.part, self.note):
            file.unlink(missing_ok=True)

    def _goes(self, session: requests.Session, url: str) -> None:
        failed = 0
        for _ in range(self.patience.most_goes):
            before = self._have()
            try:
                return self._go(session, url)
            except _Cut as error:
                if self.sure and self._have() and self.right(self.part):  # it announced more than there is
                    return None
                failed = failed + 1 if self._have() <= before else 1
                if failed >= self.patience.goes:
                    raise Unavailable(str(error)) from error
                time.sleep(self.patience.pause * 2 ** (failed - 1))
        raise Unavailable(f"the connection broke {self.patience.most_goes} times")

    def _go(self, session: requests.Session, url: str) -> None:
        import requests

        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **self._range(url)}
        waits = (self.patience.connect, self.patience.read)
        try:
            with session.get(url, stream=True, headers=headers, timeout=waits) as answer:
                self._receive(url, answer)
        except requests.exceptions.TooManyRedirects as error:
            raise Unavailable(f"it redirects more than {MOST_REDIRECTS} times") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
            raise Unavailable(f"it is no address that can be fetched ({url})") from error
        except requests.exceptions.Timeout as error:
            raise _Cut("it does not answer in time") from error
        except requests.exceptions.SSLError as error:
            raise Unavailable("its certificate is not accepted") from error
        except requests.exceptions.ConnectionError as error:
            raise _Cut("the connection cannot be made, or broke") from error
        except requests.exceptions.RequestException as error:  # among them a body that ends early
            raise _Cut("the connection broke") from error

    def _receive(self, url: str, answer: requests.Response) -> None:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise Unavailable("it redirects from https to an unprotected address")
        have = self._have()
        if answer.status_code == 416 and have:  # nothing behind what is there: it is whole, or of another file
            if have != self.size and not (self.sure and self.right(self.part)):
                self.discard()
                raise _Cut("it has another file than was begun")
            return
        if answer.status_code not in (200, 206):
            temporary = answer.status_code in (408, 425, 429) or answer.status_code >= 500
            raise (_Cut if temporary else Unavailable)(f"it answers {answer.status_code} {answer.reason}".strip())
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise Unavailable("it compresses the file on the way, although asked not to")
        if answer.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
            raise Unavailable(self._page(answer))
        start, total = _extent(answer)
        if start not in (0, have):
            self.discard()
            raise _Cut("it continues at another byte than asked")
        if self.size is not None and total is not None and total != self.size:
            raise Unavailable(f"it announces {total:,} bytes where the file has {self.size:,}")
        self._room((total or self.size or 0) - start)
        self.note.write_text(json.dumps({"url": url, "validator": _validator(answer)}), encoding="utf-8")
        self._write(answer, start, total)

    def _write(self, answer: requests.Response, start: int, total: int | None) -> None:
        limit = self.size if self.size is not None else total if total is not None else MOST
        name = self.part.name.removesuffix(".part")
        since, gained, done = time.monotonic(), 0, start
        with self.part.open("ab" if start else "wb") as stream, byte_progress(name, total or self.size, start) as count:
            for piece in _pieces(answer):
                if done == 0 and piece.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_SIGNS):
                    raise Unavailable(QUOTA if b"quota" in piece.lower() else PAGE)
                done, gained = done + len(piece), gained + len(piece)
                if done > limit:
                    stream.close()
                    self.discard()
                    raise Unavailable(f"it sends more than the {limit:,} bytes of the file")
                stream.write(piece)
                count(len(piece))
                if (elapsed := time.monotonic() - since) >= self.patience.window:
                    if gained < self.patience.slowest * elapsed:
                        raise Unavailable(f"it is too slow ({gained / elapsed:.0f} bytes per second)")
                    since, gained = time.monotonic(), 0
        whole = total if total is not None else self.size
        if whole is not None and done < whole:
            raise _Cut(f"it ends after {done:,} of {whole:,} bytes")

    def _page(self, answer: requests.Response) -> str:
        return QUOTA if b"quota" in next(_pieces(answer), b"").lower() else PAGE

    def _room(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise FileError(
                f"{self.part.parent} has {free:,} bytes free, and {needed:,} are needed; make room, or choose another place with --out"
            )

    def _have(self) -> int:
        with suppress(FileNotFoundError):
            return self.part.stat().st_size
        return 0

    def _range(self, url: str) -> dict[str, str]:
        """The headers that ask for what is missing."""
        have, noted = self._have(), self._noted()
        if not have:
            return {}
        same = noted.get("url") == url and noted.get("validator")
        if not same and not self.sure:
            self.discard()
            return {}
        return {"Range": f"bytes={have}-", **({"If-Range": str(noted["validator"])} if same else {})}

    def _noted(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            return noted if isinstance(noted, dict) else {}
        return {}


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """The body as it comes: reading in whole blocks would lose what a broken connection gave of the last."""
    from urllib3.exceptions import HTTPError

    read = getattr(answer.raw, "read1", None)
    if read is None:  # urllib3 before 2.1
        yield from answer.iter_content(SMALL)
        return
    try:
        while piece := read(CHUNK):
            yield piece
    except HTTPError as error:
        raise _Cut("the connection broke") from error


def _validator(answer: requests.Response) -> str | None:
    """What tells a later request whether the file is still this one; weak tags do not."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _extent(answer: requests.Response) -> tuple[int, int | None]:
    """The first byte of the body in the file, and the size of the whole, None where it is not said."""
    if answer.status_code == 206:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return (int(first) if first.isdigit() else -1), (int(total) if total.isdigit() else None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
