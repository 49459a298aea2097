from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.backends import registry
from sdic_runtime.backends.registry import available_backends, choose_backend, load_backend, parse_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register backends: name -> (load, unavailable), as an installed package would."""

    def install(**made: tuple[Callable[..., Any], Callable[..., str | None] | None]) -> None:
        entries = []
        for name, (loader, unavailable) in made.items():
            module = types.ModuleType(f"made_{name}")
            module.load = loader  # type: ignore[attr-defined]
            if unavailable is not None:
                module.unavailable = unavailable  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(types.SimpleNamespace(name=name.replace("_", "-"), value=f"{module.__name__}:load"))
        monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "sdic.backends" else [])

    return install


def made(bundle: Bundle, *, precision: str | None = None, level: int = 1) -> Any:
    return types.SimpleNamespace(name="made", precision=precision, level=level)


def test_the_installed_backends_are_found() -> None:
    entries = available_backends()
    assert {"onnxruntime", "torch"} <= set(entries)
    assert entries["onnxruntime"].unavailable() is None


def test_onnxruntime_is_there_without_installation(register: Callable[..., None]) -> None:
    register()
    assert list(available_backends()) == ["onnxruntime"]


def test_an_unknown_backend_lists_the_known(bundle: Bundle) -> None:
    with pytest.raises(ArgumentError, match=r'^there is no backend "onnx"; installed are: .*onnxruntime.*, or use "auto"'):
        load_backend("onnx", bundle)
    with pytest.raises(ArgumentError, match='did you mean "onnxruntime"'):
        load_backend("onnxruntme", bundle)


def test_auto_takes_the_first_usable_and_says_why(bundle: Bundle, register: Callable[..., None]) -> None:
    register(tensorrt=(made, lambda bundle: "no NVIDIA GPU"), tensorrt_rtx=(made, lambda bundle: None))
    name, reason = choose_backend(bundle)
    assert name == "tensorrt-rtx"
    assert reason == "tensorrt-rtx is the first of tensorrt, tensorrt-rtx, onnxruntime that can be used here (tensorrt: no NVIDIA GPU)"
    assert load_backend("auto", bundle).name == "made"


def test_a_named_backend_that_cannot_be_used_is_an_error_not_another_backend(bundle: Bundle, register: Callable[..., None]) -> None:
    register(tensorrt=(made, lambda bundle: "no NVIDIA GPU"))
    with pytest.raises(BackendError, match='^the backend "tensorrt" cannot be used here: no NVIDIA GPU$'):
        load_backend("tensorrt", bundle)


def test_nothing_usable_is_one_sentence(bundle: Bundle, register: Callable[..., None]) -> None:
    register(onnxruntime=(made, lambda bundle: "broken"))
    with pytest.raises(
        BackendError, match=r"^no backend can be used here \(tensorrt: not installed; .*; onnxruntime: broken\); install one"
    ):
        choose_backend(bundle)


def test_a_backend_whose_package_is_missing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = types.SimpleNamespace(name="far", value="no_such_package.backend:load")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(BackendError, match='^the backend "far" cannot be used here: it needs the package no_such_package$'):
        load_backend("far", bundle)


def test_options_reach_the_backend_and_unknown_ones_are_refused(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None))
    loaded: Any = load_backend("made", bundle, precision="fp32", level=3, threads=None)
    assert (loaded.precision, loaded.level) == ("fp32", 3)
    with pytest.raises(ArgumentError, match='^the backend "made" has no option "threads"; it has: precision, level$'):
        load_backend("made", bundle, threads=2)
    with pytest.raises(ArgumentError, match='^the backend "made" has no option "colour"'):
        load_backend("made:colour=red", bundle)


def test_options_stand_in_the_name_and_come_first(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None))
    loaded: Any = load_backend("made:level=5,precision=fp16", bundle, level=3)
    assert (loaded.precision, loaded.level) == ("fp16", 5)
    assert parse_backend("made") == ("made", {}) and parse_backend("made:") == ("made", {})
    assert parse_backend("made:a=1,b=true,c=cuda:1,d=0.5") == ("made", {"a": 1, "b": True, "c": "cuda:1", "d": 0.5})
    for text in ("made:a", "made:=1", "made:a b=1"):
        with pytest.raises(ArgumentError, match="is not of the form key=value$"):
            parse_backend(text)


def test_wishes_are_for_whichever_backend_has_them(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None), any=(lambda bundle, **options: options, None))
    wishes = {"level": 7, "checkpoint": "a.pt"}
    loaded: Any = load_backend("made", bundle, wishes)
    assert loaded.level == 7
    loaded = load_backend("made", bundle, wishes, level=2)
    assert loaded.level == 2
    assert load_backend("any:checkpoint=b.pt", bundle, wishes) == {"level": 7, "checkpoint": "b.pt"}
