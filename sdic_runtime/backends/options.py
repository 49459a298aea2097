"""Backends as text on a command line: a name, and options after a colon."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import SdicError

if TYPE_CHECKING:
    from sdic_runtime.backends.registry import Backend
    from sdic_runtime.bundle.bundle import Bundle


def parse_backend(text: str) -> tuple[str, dict[str, Any]]:
    """Split "name:key=value,key=value" into the name and the options; numbers and true/false become what they say. Raises SdicError."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not key.isidentifier():
            raise SdicError(f'the backend option "{part}" in "{text}" is not of the form key=value')
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return name, options


def chosen_backend(text: str, precision: str | None, checkpoint: str | None) -> tuple[str, dict[str, Any]]:
    """The name in `text` and the options to load it with: those in `text`, and those of the command where `text` says nothing.

    `checkpoint` goes only to backends that read one, so that a command can name it once for several backends. Raises SdicError.
    """
    name, options = parse_backend(text)
    shared: dict[str, Any] = {"precision": precision}
    if checkpoint is not None and has_option(name, "checkpoint"):
        shared["checkpoint"] = checkpoint
    return name, {**shared, **options}


def has_option(name: str, option: str) -> bool:
    """Whether the backend called `name` has this option; False for one that is not registered or not installed."""
    from sdic_runtime.backends.registry import available_backends

    entry = available_backends().get(name)
    try:
        parameters = inspect.signature(entry.load()).parameters if entry is not None else {}
    except ImportError:
        return False
    return option in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def open_backend(text: str, bundle: Bundle, precision: str | None = None, checkpoint: str | None = None) -> Backend:
    """Load the backend that `text` names; see `chosen_backend`. Raises SdicError."""
    from sdic_runtime.backends.registry import load_backend

    name, options = chosen_backend(text, precision, checkpoint)
    return load_backend(name, bundle, **options)
