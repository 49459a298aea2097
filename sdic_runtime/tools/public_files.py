"""Publicly known files that a user may hold, by size and SHA-256, for `sdic-run doctor`. Facts only, no addresses.

Sizes and hashes in `public_files.json` come from public listings of mirrors. A file that is not in the table is a variant that it does not
know, not a bad file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class PublicFile(msgspec.Struct, frozen=True, array_like=True):
    """One public file. `bytes` and `sha256` are None where no listing gives them; a short hash is a known beginning."""

    names: tuple[str, ...]  # names under which it is handed around
    what: str
    bytes: int | None
    sha256: str | None
    licence: str


class _Table(msgspec.Struct):
    """`public_files.json`: a file's licence is the short name of one of `licences`."""

    licences: dict[str, str]
    files: tuple[PublicFile, ...]


_table = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=_Table)
PUBLIC_FILES = tuple(msgspec.structs.replace(entry, licence=_table.licences[entry.licence]) for entry in _table.files)
DIRECTION = _table.licences["direction"]


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
