"""Publicly known files that a user may hold, by size and SHA-256, and where they are: for `sdic-run doctor` and `sdic-run download`.

Sizes and hashes in `public_files.json` come from public listings of mirrors. A file that is not in the table is a variant that it does not
know, not a bad file.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import msgspec

from sdic_runtime.errors import ArgumentError

WHOLE_HASH = 64  # hexadecimal digits of a SHA-256
DRIVE, HUGGING_FACE, PAGE = "drive", "hf", "page"
# Kind of place -> address to fetch, and the page for a browser. `{0}` and `{1}` are what stands behind the kind, split at colons.
ADDRESSES = {
    DRIVE: "https://drive.usercontent.google.com/download?id={0}&export=download&confirm=t",
    HUGGING_FACE: "https://huggingface.co/{0}/resolve/main/{1}",
}
PAGES = {DRIVE: "https://drive.google.com/file/d/{0}/view", HUGGING_FACE: "https://huggingface.co/{0}/blob/main/{1}"}
WORDS = {DRIVE: "Google Drive {0}", HUGGING_FACE: "Hugging Face {0}"}


class Licence(msgspec.Struct, frozen=True):
    """What is known of a file's terms, and whether they are such that a user must agree before it is fetched."""

    text: str
    consent: bool


class PublicFile(msgspec.Struct, frozen=True):
    """One public file. `bytes` and `sha256` are None where no listing gives them; a short hash is a known beginning."""

    names: tuple[str, ...]  # names under which it is handed around
    what: str
    bytes: int | None
    sha256: str | None
    licence: str
    use: str = ""  # commands and options that it is for
    places: tuple[str, ...] = ()  # where it is public, official ones first: "drive:ID", "hf:OWNER/NAME:PATH", "page:URL" or a URL
    models: tuple[str, ...] = ()  # whole models that it is a file of
    consent: bool = False  # whether a user must agree to the licence before it is fetched

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be fetched without a browser."""
        return tuple(address for place in self.places if (address := address_of(place)) is not None)

    @property
    def page(self) -> str | None:
        """The page of its first place, for a browser."""
        return page_of(self.places[0]) if self.places else None


class _Table(msgspec.Struct):
    """`public_files.json`: a file's licence is the short name of one of `licences`."""

    licences: dict[str, Licence]
    files: tuple[PublicFile, ...]


_table = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=_Table)


def _with_licence(entry: PublicFile) -> PublicFile:
    licence = _table.licences[entry.licence]
    return msgspec.structs.replace(entry, licence=licence.text, consent=licence.consent)


PUBLIC_FILES = tuple(map(_with_licence, _table.files))
DIRECTION = _table.licences["direction"].text


def known(size: int, sha256: str) -> PublicFile | None:
    """The public file with exactly this content, whatever it is called here; None when its hash is in no listing."""
    fitting = (entry for entry in PUBLIC_FILES if entry.sha256 and sha256.startswith(entry.sha256) and entry.bytes in (None, size))
    return next(fitting, None)


def candidates(name: str) -> list[PublicFile]:
    """The public files that go by this name, in any case."""
    return [entry for entry in PUBLIC_FILES if name.lower() in {known_name.lower() for known_name in entry.names}]


def same_size(size: int) -> list[PublicFile]:
    """The public files of exactly this size."""
    return [entry for entry in PUBLIC_FILES if entry.bytes == size]


def wanted(name: str) -> list[PublicFile]:
    """The files that `name` means: one file, by any of its names, or every file of a whole model. Raises ArgumentError."""
    if found := candidates(name):
        return found[:1]  # the others of that name are variants, which are known and fetched nowhere
    if model := [entry for entry in PUBLIC_FILES if name.lower() in entry.models]:
        return model
    names = sorted({*(entry.name for entry in PUBLIC_FILES), *(model for entry in PUBLIC_FILES for model in entry.models)})
    close = get_close_matches(name, names, 1)
    guess = f'; did you mean "{close[0]}"?' if close else ""
    raise ArgumentError(f'there is no public file or model "{name}"; sdic-run download without a name lists them{guess}')


def address_of(place: str) -> str | None:
    """The address that `place` is fetched from; None for one that only a browser can read."""
    kind, _, rest = place.partition(":")
    if kind == PAGE:
        return None
    return ADDRESSES[kind].format(*rest.split(":")) if kind in ADDRESSES else place


def page_of(place: str) -> str:
    """The page of `place` for a browser."""
    kind, _, rest = place.partition(":")
    return PAGES[kind].format(*rest.split(":")) if kind in PAGES else rest if kind == PAGE else place


def where(name: str) -> str:
    """Where the file called `name` is public, in words."""
    found = candidates(name)
    if not found or not found[0].places:
        return f'"{name}"'
    kind, _, rest = found[0].places[0].partition(":")
    place = WORDS[kind].format(*rest.split(":")) if kind in WORDS else page_of(found[0].places[0])
    hint = f"sdic-run download {name}" if found[0].addresses else "with a browser"
    return f"{name}, at {place}: {hint}"
