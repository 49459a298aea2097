"""Which backends there are: found through the entry point group `sdic.backends`, so that anyone can add one."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import ArgumentError, BackendError

if TYPE_CHECKING:
    from sdic_runtime.backends.base import Backend
    from sdic_runtime.bundle.bundle import Bundle

GROUP = "sdic.backends"
AUTO = "auto"  # the backend that `choose_backend` takes, or as a precision: a reduced one is allowed
GPU_ORDER = ("tensorrt", "tensorrt-rtx")
AUTO_ORDER = (*GPU_ORDER, "onnxruntime")  # fastest first; PyTorch is for comparison and never chosen by itself
REDUCED = {"openvino": "bf16"}  # backends that reduce the precision by themselves, once the user allows it -> to what
BUILT_IN = {
    name: f"sdic_runtime.backends.{name}:load" for name in ("onnxruntime", "openvino")
}  # there even when the package runs from a folder that was not installed


@dataclass(frozen=True)
class BackendEntry:
    """A registered backend that is not loaded yet.

    `target` is "module:callable" of `load(bundle, **options) -> Backend`. The module may also offer
    `unavailable(bundle: Bundle | None) -> str | None`: in a few words why the backend cannot be used here (with this bundle); those of
    REDUCED also take the precision that they would run in. And `untrusted(bundle) -> str | None`: why `auto` must not choose it.
    """

    name: str
    target: str

    def load(self) -> Callable[..., Backend]:
        """The loading function. Raises ImportError when the package behind it is not installed."""
        module, attribute = self.target.split(":")
        function: Callable[..., Backend] = getattr(importlib.import_module(module), attribute)
        return function

    def unavailable(self, bundle: Bundle | None = None, reduced: bool = False) -> str | None:
        """Why this backend cannot be used here, or not in its reduced precision, in a few words; None when it can."""
        try:
            module = importlib.import_module(self.target.split(":")[0])
        except ImportError as error:
            return f"it needs the package {error.name}" if error.name else str(error)
        check = getattr(module, "unavailable", None)
        return check(bundle, *([REDUCED[self.name]] if reduced else [])) if check else None

    def untrusted(self, bundle: Bundle) -> str | None:
        """Why this backend should only run `bundle` when it is named, in a few words; None when it may be chosen."""
        check = getattr(importlib.import_module(self.target.split(":")[0]), "untrusted", None)
        return check(bundle) if check else None

    def options(self) -> dict[str, inspect.Parameter]:
        """The options of `load`; a key "**" stands for any other. Empty for a backend whose package is not installed."""
        try:
            parameters = list(inspect.signature(self.load()).parameters.values())[1:]
        except ImportError:
            return {}
        return {"**" if item.kind is item.VAR_KEYWORD else item.name: item for item in parameters}


def available_backends() -> dict[str, BackendEntry]:
    """Every registered backend by name, usable here or not (see `BackendEntry.unavailable`)."""
    targets = {**BUILT_IN, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}
    return {name: BackendEntry(name, target) for name, target in sorted(targets.items())}


def choose_backend(bundle: Bundle, precision: str | None = None) -> tuple[str, str]:
    """The first usable backend for `bundle`, and the reason in words: of AUTO_ORDER, or where the user allows or names a reduced precision,
    also of REDUCED. Raises BackendError when none is."""
    entries = available_backends()
    reducing = [name for name, reduced in REDUCED.items() if precision in (AUTO, reduced)]
    exact = AUTO_ORDER if not reducing or precision == AUTO else ()
    order = (*GPU_ORDER, *reducing, *exact[len(GPU_ORDER) :])
    passed: list[str] = []
    for name in order:
        obstacle = entries[name].unavailable(bundle, reduced=name in reducing) if name in entries else "not installed"
        obstacle = obstacle or entries[name].untrusted(bundle)
        if obstacle is None:
            return name, f"{name} is the first of {', '.join(order)} that can be used here" + _because(passed)
        passed.append(f"{name}: {obstacle}")
    raise BackendError(f"no backend can be used here{_because(passed)}; install one with: pip install onnxruntime")


def _because(passed: Sequence[str]) -> str:
    return f" ({'; '.join(passed)})" if passed else ""


def parse_backend(text: str) -> tuple[str, dict[str, Any]]:
    """Split "name:key=value,key=value" into the name and the options; numbers and true/false become what they say. Raises ArgumentError."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not key.isidentifier():
            raise ArgumentError(f'the backend option "{part}" in "{text}" is not of the form key=value')
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return name, options


def load_backend(backend: str, bundle: Bundle, wishes: dict[str, Any] | None = None, **options: Any) -> Backend:
    """Load the backend that `backend` names: "auto" (see `choose_backend`), a name, or "name:key=value,key=value".

    The precision "auto" is the reduced one of a backend of REDUCED where it can be used, and otherwise the default. `options`
    must be known to it; those in `backend` come first. `wishes` are for whichever backend has them, such as a checkpoint that several
    backends of one command share. Options that are None are omitted. Raises ArgumentError for an unknown backend or an option it
    does not have, and BackendError when it cannot be used here: there is no silent fallback.
    """
    name, own = parse_backend(backend)
    if name == AUTO:
        name = choose_backend(bundle, own.get("precision", options.get("precision")))[0]
    entries = available_backends()
    if name not in entries:
        close = get_close_matches(name, entries, 1)
        guess = f'; did you mean "{close[0]}"?' if close else ""
        raise ArgumentError(f'there is no backend "{name}"; installed are: {", ".join(entries)}, or use "auto"{guess}')
    obstacle = entries[name].unavailable(bundle)
    if obstacle is not None:
        raise BackendError(f'the backend "{name}" cannot be used here: {obstacle}')
    known = entries[name].options()
    wanted = {key: value for key, value in (wishes or {}).items() if key in known or "**" in known}
    given = {key: value for key, value in {**wanted, **options, **own}.items() if value is not None}
    unknown = [key for key in given if key not in known and "**" not in known]
    if unknown:
        raise ArgumentError(f'the backend "{name}" has no option "{unknown[0]}"; it has: {", ".join(known)}')
    if given.get("precision") == AUTO:
        del given["precision"]
        given |= {"precision": REDUCED[name]} if name in REDUCED and entries[name].unavailable(bundle, reduced=True) is None else {}
    return entries[name].load()(bundle, **given)
