"""Fetching public files for `sdic-run download`: from the places that the user allows, whole and checked or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError, SdicError
from sdic_runtime.files import reason, sha256
from sdic_runtime.leftovers import held
from sdic_runtime.parsing.contents import WEIGHT_SUFFIXES, content_of
from sdic_runtime.tools.public_files import WHOLE_HASH, PublicFile, known, page_of
from sdic_runtime.tools.resume import Patience, Resuming, Unavailable

PLACES_VARIABLE = "SDIC_DOWNLOAD_FROM"  # places separated by ";", used where --from names none
SCHEMES = ("http://", "https://")
NO_WEIGHTS = (".dat", ".bin")  # suffixes of weight files that have formats of their own too


@dataclass(frozen=True)
class DownloadOptions:
    """Where files come from and where they go. `places`: folders, files and addresses, in this order; those of the table when empty."""

    out: Path
    places: Sequence[str] = ()
    force: bool = False  # replace a file of that name which is another
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Fetched:
    """One file that is there now. `place`: where it came from, None when it was there already."""

    entry: PublicFile
    path: Path
    sha256: str
    place: str | None

    @property
    def checked(self) -> str:
        """What its hash says."""
        if self.entry.sha256 is None:
            return "which no listing has: look at the file with sdic-run doctor"
        return "as published" if len(self.entry.sha256) == WHOLE_HASH else "which begins as published; no listing has more of it"


def places_of_environment() -> tuple[str, ...]:
    """The places that the environment allows."""
    return tuple(place.strip() for place in os.environ.get(PLACES_VARIABLE, "").split(";") if place.strip())


def need_consent(entries: Sequence[PublicFile]) -> dict[str, list[str]]:
    """Licence -> the names of the files under it, for the licences that a user must agree to."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.consent:
            found.setdefault(entry.licence, []).append(entry.name)
    return found


def fetch(entry: PublicFile, options: DownloadOptions) -> Fetched:
    """The file of `entry` in `options.out`. Raises SdicError; then nothing stands under its name that did not before."""
    target = options.out / entry.name
    if target.is_dir():
        raise FileError(f"cannot write {target}: it is a folder; choose another place with --out")
    if target.exists() and (there := _already(entry, target, options.force)) is not None:
        return there
    sources = list(_sources(entry, options.places))
    if not sources:
        raise FileError(f"{entry.name} {_by_hand(entry, options)}")
    pooch = _pooch()
    reasons = []
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with _alone(target), held(options.out, os.mkdir) as folder:
            for source in sources:
                try:
                    fetched = _from(pooch, entry, source, folder, target, options.patience)
                except Unavailable as error:
                    reasons.append(f"{source}: {error}")
                    continue
                os.replace(fetched.path, target)
                return Fetched(entry, target, fetched.sha256, source)
    except OSError as error:
        raise FileError(f"cannot write {target}: {reason(error)}; choose another place with --out") from error
    raise FileError(f"could not fetch {entry.name} ({'; '.join(reasons)}); the file {_by_hand(entry, options)}")


def _already(entry: PublicFile, target: Path, force: bool) -> Fetched | None:
    """The file that is there, where it is the right one as far as can be said; None where it is to be replaced. Raises FileError."""
    digest = sha256(target)
    if entry.sha256 is not None and digest.startswith(entry.sha256):
        return Fetched(entry, target, digest, None)
    if force:
        return None
    if entry.sha256 is not None or entry.bytes not in (None, target.stat().st_size):
        another = known(target.stat().st_size, digest)
        what = f"it is {another.what}" if another else "another file, or damaged"
        raise FileError(
            f"{target} is there already and not the public {entry.name} ({what}); replace it with --force, or choose another --out"
        )
    return Fetched(entry, target, digest, None)


def _sources(entry: PublicFile, places: Sequence[str]) -> Iterator[str]:
    """Addresses and files that may be this one, in order. Raises ArgumentError for a place that is neither."""
    if not places:
        yield from entry.addresses
    for place in places:
        if place.startswith(SCHEMES):
            last = place.partition("?")[0].rsplit("/", 1)[-1]
            if last in entry.names or "?" in place:
                yield place
            else:
                yield from (f"{place.rstrip('/')}/{name}" for name in entry.names)
            continue
        if "://" in place or not Path(place).exists():
            raise ArgumentError(
                f'there is no folder "{place}", and it is no address; give a folder or an address of http or https with --from'
            )
        path = Path(place)
        files = [path] if path.is_file() else [path / name for name in entry.names if (path / name).is_file()]
        yield from map(str, files or [path / entry.name])


def _by_hand(entry: PublicFile, options: DownloadOptions) -> str:
    """What to do where nothing could be fetched, as the end of a sentence about the file."""
    if not entry.places:
        return "is at no public place that is known; name a folder or an address that has it with --from"
    page = page_of(entry.places[0])
    looked = "is in none of the places named; it is public at" if options.places else "can be had with a browser at"
    return f"{looked} {page} ; save it from there, and check it with: sdic-run download {entry.name} --from FOLDER"


def _from(pooch: Any, entry: PublicFile, source: str, folder: Path, target: Path, patience: Patience) -> Fetched:
    """The file of one source, checked, in `folder`. Raises Unavailable."""
    whole = entry.sha256 if entry.sha256 and len(entry.sha256) == WHOLE_HASH else None

    def right(path: Path) -> bool:
        return whole is not None and sha256(path) == whole

    resuming = Resuming(target.with_name(f"{target.name}.part"), entry.bytes, whole is not None, patience, right)
    remote = source.startswith(SCHEMES)
    for again in (True, False):
        try:
            pooch.retrieve(
                source, f"sha256:{whole}" if whole else None, fname=entry.name, path=folder, downloader=resuming if remote else _copy
            )
            break
        except SdicError:
            raise
        except ValueError as error:  # of pooch: another hash
            resuming.discard()
            if not (again and resuming.resumed):  # what was continued may have been of another file
                raise Unavailable("it gives another file: its SHA-256 is not the published one") from error
    path = folder / entry.name
    digest = whole or sha256(path)
    wrong = _wrong(entry, path, digest)
    if wrong is not None:
        path.unlink()
        raise Unavailable(wrong)
    return Fetched(entry, path, digest, source)


def _wrong(entry: PublicFile, path: Path, digest: str) -> str | None:
    """Why what has come is not this file, as far as can be said."""
    size = path.stat().st_size
    content = content_of(path)
    if content.wrong and (content.broken or (path.suffix in WEIGHT_SUFFIXES and path.suffix not in NO_WEIGHTS)):
        return f"what it gives {content.wrong}"
    if entry.bytes not in (None, size):
        return f"it gives {size:,} bytes where the file has {entry.bytes:,}"
    if entry.sha256 is not None and not digest.startswith(entry.sha256):
        return "it gives another file: its SHA-256 does not begin as the published one"
    return None


def _copy(source: str, output_file: str, pooch: object, check_only: bool = False) -> None:
    """A downloader for pooch that reads a folder of this machine."""
    if not Path(source).is_file():
        raise Unavailable("there is no such file")
    Path(output_file).unlink()  # it was made readable for its owner alone
    shutil.copyfile(source, output_file)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second download of the same file away from its part. Raises FileError."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise FileError(f"{target} is being downloaded by another process; wait for it") from error


def _pooch() -> Any:
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "pooch", "download", "sdic-run download") from error
    pooch.get_logger().setLevel("ERROR")  # what it says at other times is for its own users
    return pooch


Ask = Callable[[str], bool]


def agree(entries: Sequence[PublicFile], accepted: bool, ask: Ask | None) -> None:
    """Make sure that the user agrees to the licences of `entries`: told so (`accepted`), or asked (`ask`). Raises ArgumentError."""
    for licence, names in need_consent(entries).items():
        listed = ", ".join(names)
        if accepted or (ask is not None and ask(f"{listed}: {licence}. Do you agree?")):
            continue
        raise ArgumentError(f"{listed}: {licence}; nothing was downloaded: agree with --accept-licence if that is your use")
