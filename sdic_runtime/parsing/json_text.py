"""The one reader of JSON that came from somewhere else: bounded in size, depth and numbers, and checked by types."""

from __future__ import annotations

from typing import Any

import msgspec

from sdic_runtime.errors import printable

LARGEST = 16 << 20  # bytes of a text
DEEPEST = 64  # lists and objects in each other
MOST_PARTS = 200_000
SHOWN = 200  # characters of what is wrong


class JsonError(ValueError):
    """What is wrong with a text, in a few printable words. Callers make the sentence."""


def parse_json(text: bytes | str, kind: Any = Any, what: str = "it") -> Any:
    """The value that `text` holds, converted to the type `kind` by msgspec. Numbers are finite and of at most 64 bits. Raises JsonError, in
    which `what` names the text."""
    if len(text) > LARGEST:
        raise JsonError(f"{what} has {len(text)} characters, and the limit is {LARGEST}")
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise JsonError(f"{what} is not valid JSON ({printable(str(error), SHOWN)})") from error
    _check_bounds(data, what)
    return convert(data, kind)


def convert(data: Any, kind: Any, str_keys: bool = False) -> Any:
    """Parsed `data` as the type `kind`; with `str_keys` texts stand for the numbers that are keys. Raises JsonError."""
    try:
        return msgspec.convert(data, kind, str_keys=str_keys)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise JsonError(printable(str(error), SHOWN)) from error


def _check_bounds(data: Any, what: str) -> None:
    """Raise JsonError for what is nested too deeply, has too many parts, or numbers beyond 64 bits."""
    level, parts = [data], 0
    for _ in range(DEEPEST + 1):
        parts += len(level)
        if parts > MOST_PARTS:
            raise JsonError(f"{what} has more than {MOST_PARTS} parts")
        if any(isinstance(value, int) and not -(1 << 63) <= value < 1 << 64 for value in level):
            raise JsonError(f"{what} holds a number of more than 64 bits")
        inner = [value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)]
        if not inner:
            return
        level = [value for values in inner for value in values]
    raise JsonError(f"{what} is nested more than {DEEPEST} levels deep")
