"""Which backends there are: found through the entry point group `sdic.backends`, so that anyone can add one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from sdic_runtime.backends.options import check_option, read_option
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
    REDUCED also take the precision that they would run in. `untrusted(bundle) -> str | None`: why `auto` must not choose it. Both may take
    `options`, as they are written, where the answer depends on them. And `precisions(bundle, options) -> Sequence[str]`: those that it can
    run `bundle` in, beginning with the one when none is named; without it, those of the bundle. Options are checked by their annotations,
    see `options.KINDS`.
    """

    name: str
    target: str

    def load(self) -> Callable[..., Backend]:
        """The loading function. Raises ImportError when the package behind it is not installed."""
        module, attribute = self.target.split(":")
        function: Callable[..., Backend] = getattr(importlib.import_module(module), attribute)
        return function

    def unavailable(self, bundle: Bundle | None = None, reduced: bool = False, given: Mapping[str, Any] | None = None) -> str | None:
        """Why this backend cannot be used here, or not in its reduced precision or with the options `given`, in a few words; None when it
        can."""
        try:
            module = importlib.import_module(self.target.split(":")[0])
        except ImportError as error:
            return f"it needs the package {error.name}" if error.name else str(error)
        check = getattr(module, "unavailable", None)
        return check(bundle, *([REDUCED[self.name]] if reduced else []), **_taken(check, given)) if check else None

    def untrusted(self, bundle: Bundle, given: Mapping[str, Any] | None = None) -> str | None:
        """Why this backend should only run `bundle` (with the options `given`) when it is named, in a few words; None when it may be
        chosen."""
        check = getattr(importlib.import_module(self.target.split(":")[0]), "untrusted", None)
        return check(bundle, **_taken(check, given)) if check else None

    def misfit(self, given: Mapping[str, Any]) -> str | None:
        """Why its `load` does not take the options `given`, those that are None aside, in a few words; None when it does."""
        known = self.options()
        for key, value in given.items():
            if value is not None and key not in known and "**" not in known:
                return f'it has no option "{key}"'
            try:
                check_option(known.get(key), key, value)
            except ArgumentError as error:
                return str(error)
        return None

    def precisions(self, bundle: Bundle, options: Mapping[str, Any]) -> Sequence[str]:
        """The precisions that it can run `bundle` in with these options, beginning with the one when none is named."""
        offered = getattr(importlib.import_module(self.target.split(":")[0]), "precisions", None)
        found: Sequence[str] = offered(bundle, options) if offered else (bundle.manifest.default_precision, *bundle.manifest.precisions)
        return tuple(dict.fromkeys(found))

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


def _taken(check: Callable[..., Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options `given`, for a function of a backend's module that takes them."""
    return {"options": given} if given and "options" in inspect.signature(check).parameters else {}


def choose_backend(bundle: Bundle, precision: str | None = None, given: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The first usable backend for `bundle`, and the reason in words: of AUTO_ORDER, or where the user allows or names a reduced precision,
    also of REDUCED. All but the last are passed over where they do not take the options `given`. Raises BackendError when none is."""
    entries = available_backends()
    reducing = [name for name, reduced in REDUCED.items() if precision in (AUTO, reduced)]
    exact = AUTO_ORDER if not reducing or precision == AUTO else ()
    order = (*GPU_ORDER, *reducing, *exact[len(GPU_ORDER) :])
    passed: list[str] = []
    told = _told(given or {})
    for name in order:
        obstacle = entries[name].unavailable(bundle, name in reducing, told) if name in entries else "not installed"
        obstacle = obstacle or (entries[name].misfit(told) if name != order[-1] else None) or entries[name].untrusted(bundle, told)
        if obstacle is None:
            return name, f"{name} is the first of {', '.join(order)} that can be used here" + _because(passed)
        passed.append(f"{name}: {obstacle}")
    remedy = "install one with: pip install onnxruntime" if exact else "name the precision fp32, or auto, which reduces it where it can"
    raise BackendError(f"no backend can be used here{_because(passed)}; {remedy}")


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that decide which backend can be used: neither None nor the precision "auto"."""
    return {key: value for key, value in given.items() if value is not None and (key, value) != ("precision", AUTO)}


def _because(passed: Sequence[str]) -> str:
    return f" ({'; '.join(passed)})" if passed else ""


def _parts(text: str) -> tuple[str, dict[str, str]]:
    """Split "name:key=value,key=value" into the name and the options as they are written. Raises ArgumentError."""
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not key.isidentifier():
            raise ArgumentError(f'the backend option "{part}" in "{text}" is not of the form key=value')
        if key in options:
            raise ArgumentError(f'"{text}" has the option "{key}" twice; give it once')
        options[key] = value
    return name, options


def parse_backend(text: str) -> tuple[str, dict[str, Any]]:
    """Split "name:key=value,key=value" into the name and the options; numbers and true/false become what they say. Raises ArgumentError."""
    name, options = _parts(text)
    return name, {key: read_option(None, value) for key, value in options.items()}


@dataclass(frozen=True)
class Choice:
    """A backend that was found for a bundle and is not loaded yet. `reason`: why `auto` took it, "" when it was named. `exact`: why the
    precision "auto" reduces nothing, "" where it does, or was not asked for."""

    entry: BackendEntry
    options: Mapping[str, Any]
    reason: str = ""
    exact: str = ""

    def load(self, bundle: Bundle) -> Backend:
        """Load it. Raises SdicError."""
        return self.entry.load()(bundle, **self.options)

    def precision(self, bundle: Bundle) -> str:
        """The precision that it runs `bundle` in. Raises ArgumentError where it cannot."""
        there, wanted = self.entry.precisions(bundle, self.options), self.options.get("precision")
        if wanted is not None and wanted not in there:
            raise ArgumentError(
                f'the backend "{self.entry.name}" runs {bundle.path} in {" or ".join(there)} and not in "{wanted}"; name one of them'
            )
        return wanted or there[0]


def find_backend(backend: str, bundle: Bundle, wishes: Mapping[str, Any] | None = None, here: bool = True, **options: Any) -> Choice:
    """What `load_backend` loads. `here=False`: for another machine, so that it need not be usable on this one if it is named."""
    name, written = _parts(backend)
    entries, reason = available_backends(), ""
    given = {**options, **{key: read_option(None, value) for key, value in written.items()}}
    if by_itself := name == AUTO:
        name, reason = choose_backend(bundle, written.get("precision", options.get("precision")), given)
    if name not in entries:
        close = get_close_matches(name, entries, 1)
        guess = f'; did you mean "{close[0]}"?' if close else ""
        raise ArgumentError(f'there is no backend "{name}"; installed are: {", ".join(entries)}, or use "auto"{guess}')
    entry = entries[name]
    obstacle = entry.unavailable(bundle, given=_told(given)) if here else None
    if obstacle is not None:
        raise BackendError(f'the backend "{name}" cannot be used here: {obstacle}')
    known = entry.options()
    own = {key: read_option(known.get(key), value) for key, value in written.items()}
    for key, value in own.items():
        if None not in (value, options.get(key)) and str(options[key]) != str(value):
            raise ArgumentError(f'{key} is "{value}" in "{backend}" and "{options[key]}" beside it; give one of them')
    wanted = {key: value for key, value in (wishes or {}).items() if key in known or "**" in known}
    given = {key: value for key, value in {**wanted, **options, **own}.items() if value is not None}
    unknown = [key for key in given if key not in known and "**" not in known]
    if unknown:
        raise ArgumentError(f'the backend "{name}" has no option "{unknown[0]}"; it has: {", ".join(known)}')
    for key, value in given.items():
        check_option(known.get(key), key, value)
    if given.get("precision") != AUTO:
        return Choice(entry, given, reason)
    del given["precision"]
    exact = _exact(entries, name, bundle, by_itself, given)
    return Choice(entry, given | ({} if exact else {"precision": REDUCED[name]}), reason, exact)


def _exact(entries: Mapping[str, BackendEntry], name: str, bundle: Bundle, by_itself: bool, given: Mapping[str, Any]) -> str:
    """Why the precision "auto" reduces nothing on the backend `name`, in a few words; "" where it reduces. `by_itself`: "auto" took it,
    with the options `given`."""
    if name in REDUCED:
        return entries[name].unavailable(bundle, reduced=True) or ""
    if not by_itself:
        return f"{name} reduces none by itself; {' and '.join(REDUCED)} does, or name a precision"
    reducing = [entry for each, entry in entries.items() if each in REDUCED]
    obstacles = {entry.name: entry.unavailable(bundle, reduced=True) or entry.misfit(given) for entry in reducing}
    return "; ".join(f"{each}: {why}" for each, why in obstacles.items() if why) or f"{name} comes first"


def load_backend(backend: str, bundle: Bundle, wishes: Mapping[str, Any] | None = None, **options: Any) -> Backend:
    """Load the backend that `backend` names: "auto" (see `choose_backend`), a name, or "name:key=value,key=value".

    The precision "auto" is the reduced one of a backend of REDUCED where it can be used, and otherwise the default. `options`
    must be known to it, and must not contradict those in `backend`. `wishes` are for whichever backend has them, such as a checkpoint that
    several backends of one command share; those in `backend` come first. Options that are None are omitted. Raises ArgumentError for an
    unknown backend, an option it does not have or a value of another kind, and BackendError when it cannot be used here: there is no silent
    fallback.
    """
    return find_backend(backend, bundle, wishes, **options).load(bundle)


def precision_of(backend: str, bundle: Bundle, precision: str | None = None) -> str:
    """The precision that `backend` runs `bundle` in. Where nothing here can run it, what is asked for or else the bundle's default: another
    machine may. Raises ArgumentError for one that the backend does not have."""
    try:
        return find_backend(backend, bundle, here=False, precision=precision).precision(bundle)
    except (BackendError, ImportError):
        return precision or bundle.manifest.default_precision
