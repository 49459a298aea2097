"""Backends: what runs the stages. Found through the entry point group `sdic.backends`, so that anyone can add one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeAlias

import numpy as np

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import SdicError

GROUP = "sdic.backends"
AUTO_ORDER = ("tensorrt", "tensorrt-rtx", "onnxruntime")  # fastest first; PyTorch is for comparison and never chosen by itself
BUILT_IN = {"onnxruntime": "sdic_runtime.backends.onnxruntime:load"}  # there even when sdic runs from a folder that was not installed

Tensor: TypeAlias = Any  # opaque to the chain: a numpy array, or whatever the backend keeps on its device


class Backend(Protocol):
    """Runs the stages of one bundle. Safe to call from several threads.

    A tensor returned by `run` or `upload` keeps its values for as long as someone holds it: a backend that uses its buffers again
    must copy first.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def description(self) -> str:
        """What runs and where: "ONNX Runtime 1.31.1, CPUExecutionProvider, fp32"."""

    def upload(self, array: np.ndarray) -> Tensor:
        """A float32 host array as a tensor of this backend."""

    def download(self, tensor: Tensor) -> np.ndarray:
        """A tensor of this backend as a float32 host array."""

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Run one stage of the stage table for the `outputs` asked for; the others need not be computed. Raises SdicError, for one when
        memory runs out."""


def run_whole(backend: Backend, function: Callable[..., Any], tensors: Mapping[str, Tensor], **settings: Any) -> Any:
    """`function(backend, **tensors, **settings)`, a chain of stages that gives a tensor or tensors by name.

    A backend may have a method `whole(function, tensors, settings)` that does the same in another way: as one recorded CUDA graph.
    """
    whole = getattr(backend, "whole", None)
    return whole(function, tensors, settings) if whole is not None else function(backend, **tensors, **settings)


@dataclass(frozen=True)
class BackendEntry:
    """A registered backend that is not loaded yet.

    `target` is "module:callable" of `load(bundle, **options) -> Backend`. The module may also offer
    `unavailable(bundle: Bundle | None) -> str | None`: in a few words why the backend cannot be used here (with this bundle).
    """

    name: str
    target: str

    def load(self) -> Callable[..., Backend]:
        """The loading function. Raises ImportError when the package behind it is not installed."""
        module, attribute = self.target.split(":")
        function: Callable[..., Backend] = getattr(importlib.import_module(module), attribute)
        return function

    def unavailable(self, bundle: Bundle | None = None) -> str | None:
        """Why this backend cannot be used here, in a few words; None when it can."""
        try:
            module = importlib.import_module(self.target.split(":")[0])
        except ImportError as error:
            return f"it needs the package {error.name}" if error.name else str(error)
        check = getattr(module, "unavailable", None)
        return check(bundle) if check else None


def available_backends() -> dict[str, BackendEntry]:
    """Every registered backend by name, usable here or not (see `BackendEntry.unavailable`)."""
    targets = {**BUILT_IN, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}
    return {name: BackendEntry(name, target) for name, target in sorted(targets.items())}


def choose_backend(bundle: Bundle) -> tuple[str, str]:
    """The first usable backend of AUTO_ORDER for `bundle`, and the reason in words. Raises SdicError when none is."""
    entries = available_backends()
    passed: list[str] = []
    for name in AUTO_ORDER:
        obstacle = entries[name].unavailable(bundle) if name in entries else "not installed"
        if obstacle is None:
            return name, f"{name} is the first of {', '.join(AUTO_ORDER)} that can be used here" + _because(passed)
        passed.append(f"{name}: {obstacle}")
    raise SdicError(f"no backend can be used here{_because(passed)}; install one with: pip install onnxruntime")


def _because(passed: Sequence[str]) -> str:
    return f" ({'; '.join(passed)})" if passed else ""


def load_backend(name: str, bundle: Bundle, **options: Any) -> Backend:
    """Load the backend called `name` ("auto": see `choose_backend`) with the options it knows; options that are None are left out.

    Raises SdicError for an unknown backend, an option it does not have, or when it cannot be used here: there is no silent fallback.
    """
    if name == "auto":
        name = choose_backend(bundle)[0]
    entries = available_backends()
    if name not in entries:
        close = get_close_matches(name, entries, 1)
        guess = f'; did you mean "{close[0]}"?' if close else ""
        raise SdicError(f'there is no backend "{name}"; installed are: {", ".join(entries)}, or use "auto"{guess}')
    obstacle = entries[name].unavailable(bundle)
    if obstacle is not None:
        raise SdicError(f'the backend "{name}" cannot be used here: {obstacle}')
    load = entries[name].load()
    given = {key: value for key, value in options.items() if value is not None}
    parameters = inspect.signature(load).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        unknown = [key for key in given if key not in parameters]
        if unknown:
            known = [key for key in parameters if key != "bundle"]
            raise SdicError(f'the backend "{name}" has no option "{unknown[0]}"; it has: {", ".join(known)}')
    return load(bundle, **given)
