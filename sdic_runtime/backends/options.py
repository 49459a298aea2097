"""What the options of backends may be: their kinds, told by the annotations of `load`, and the values that several backends share."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sdic_runtime.errors import ArgumentError


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {  # a word of an annotation -> what fits it, and what to do about the rest
    "bool": (lambda value: isinstance(value, bool), "use true or false"),
    "int": (_whole, "give a whole number"),
    "float": (lambda value: _whole(value) or isinstance(value, float), "give a number"),
    "str": (lambda value: isinstance(value, str), "give text"),
    "Path": (lambda value: isinstance(value, os.PathLike), "give a path"),
    "None": (lambda value: value is None, ""),
}
TEXT = {"str", "Path"}  # kinds that take what was written as it stands: a device called 0 is "0"


def _kinds(option: inspect.Parameter | None) -> list[str]:
    """The words of an option's annotation; none where it says nothing, or something that is not in KINDS."""
    if option is None or option.annotation is option.empty:
        return []
    annotation = option.annotation
    words = (annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)).split("|")
    kinds = [word.strip().rpartition(".")[2] for word in words]
    return kinds if set(kinds) <= set(KINDS) else []


def read_option(option: inspect.Parameter | None, text: str) -> Any:
    """What `text` says as the value of an option: numbers, true, false and null are what they say, unless the option is a text."""
    if text != "null" and TEXT & set(_kinds(option)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_option(option: inspect.Parameter | None, name: str, value: object) -> None:
    """Raise ArgumentError unless `value` is of a kind that the option takes."""
    kinds = _kinds(option)
    if kinds and not any(KINDS[kind][0](value) for kind in kinds):
        raise ArgumentError(f"{name} is {value!r}; {next(KINDS[kind][1] for kind in kinds)}")


def check_threads(threads: object) -> None:
    """Raise ArgumentError unless `threads` is a number of CPU threads, or None."""
    if threads is not None and not (_whole(threads) and threads >= 1):  # type: ignore[operator]
        raise ArgumentError(f"threads is {threads!r}; give a whole number of at least 1, or None for all cores")


def device_of(device: str, kinds: Collection[str]) -> tuple[str, int]:
    """A device such as "cuda:1", of one of `kinds`, in its two parts; 0 when it says no number. Raises ArgumentError."""
    kind, _, index = str(device).partition(":")
    if kind not in kinds or not ((index.isascii() and index.isdigit()) or device == kind):
        raise ArgumentError(f'the device is "{device}"; use cpu, cuda or cuda:N')
    return kind, int(index or 0)
