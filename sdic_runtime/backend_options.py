"""Backends as text on a command line: a name, and options after a colon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import SdicError

if TYPE_CHECKING:
    from sdic_runtime.backends import Backend
    from sdic_runtime.bundle import Bundle


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


def open_backend(text: str, bundle: Bundle, precision: str | None) -> Backend:
    """Load the backend that `text` names, in `precision` where its options name none. Raises SdicError."""
    from sdic_runtime.backends import load_backend

    name, options = parse_backend(text)
    return load_backend(name, bundle, **{"precision": precision, **options})
