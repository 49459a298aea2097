from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.backends import registry
from sdic_runtime.backends.registry import available_backends, choose_backend, find_backend, load_backend, parse_backend, precision_of
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, SdicError


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


def test_backends_that_need_one_package_are_there_without_installation(register: Callable[..., None]) -> None:
    register()
    assert list(available_backends()) == ["onnxruntime", "openvino"]


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
    loaded: Any = load_backend("made:level=5,precision=fp16", bundle, {"level": 3})
    assert (loaded.precision, loaded.level) == ("fp16", 5)
    assert parse_backend("made") == ("made", {}) and parse_backend("made:") == ("made", {})
    assert parse_backend("made:a=1,b=true,c=cuda:1,d=0.5") == ("made", {"a": 1, "b": True, "c": "cuda:1", "d": 0.5})
    for text in ("made:a", "made:=1", "made:a b=1"):
        with pytest.raises(ArgumentError, match="is not of the form key=value$"):
            parse_backend(text)


@pytest.mark.parametrize(
    ("backend", "options", "sentence"),
    [
        ("made:level=1,level=2", {}, '"made:level=1,level=2" has the option "level" twice; give it once'),
        ("made:level=x", {}, "level is 'x'; give a whole number"),
        ("made:level=true", {}, "level is True; give a whole number"),
        (
            "made:precision=fp16",
            {"precision": "fp32"},
            'precision is "fp16" in "made:precision=fp16" and "fp32" beside it; give one of them',
        ),
        ("made:level=5", {"level": 3}, 'level is "5" in "made:level=5" and "3" beside it; give one of them'),
    ],
)
def test_options_that_cannot_be(
    bundle: Bundle, register: Callable[..., None], backend: str, options: dict[str, Any], sentence: str
) -> None:
    register(made=(made, None))
    with pytest.raises(ArgumentError) as caught:
        load_backend(backend, bundle, **options)
    assert str(caught.value) == sentence


def test_a_text_stays_what_was_written(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None))
    loaded: Any = load_backend("made:precision=16", bundle, precision="16")
    assert loaded.precision == "16"


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """The threads of PyTorch, where it is there, are those of before."""
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("name", ["onnxruntime", "torch", "torch-plain", "openvino"])
@pytest.mark.parametrize("value", ["x", "7", "true", "[1]", "{}", "-1", "0", "1.5"])
def test_no_value_of_an_option_is_an_internal_error(bundle: Bundle, name: str, value: str) -> None:
    for option in (*available_backends()[name].options(), "plain"):
        with suppress(SdicError):
            load_backend(f"{name}:{option}={value}", bundle).close()


def test_the_precision_that_runs_is_known_before_it_is_loaded(bundle: Bundle, register: Callable[..., None]) -> None:
    register(tensorrt=(made, lambda bundle: "no NVIDIA GPU"))
    assert precision_of("onnxruntime", bundle) == precision_of("auto", bundle) == precision_of("tensorrt", bundle) == "fp32"
    assert precision_of("openvino:precision=bf16", bundle) == precision_of("openvino", bundle, "bf16") == "bf16"
    sentence = f'^the backend "onnxruntime" runs {bundle.path} in fp32 and not in "fp16"; name one of them$'
    with pytest.raises(ArgumentError, match=sentence):
        precision_of("onnxruntime:precision=fp16", bundle)


def test_where_nothing_can_run_the_precision_is_the_one_that_is_asked_for(bundle: Bundle, register: Callable[..., None]) -> None:
    register(onnxruntime=(made, lambda bundle: "broken"))
    assert (precision_of("auto", bundle), precision_of("auto", bundle, "fp16")) == ("fp32", "fp16")


def test_why_the_precision_auto_reduces_nothing(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None), openvino=(made, lambda bundle, precision=None: "too old" if precision else None))
    assert find_backend("openvino", bundle, precision="auto").exact == "too old"
    assert find_backend("auto", bundle, precision="auto").exact == find_backend("auto:precision=auto", bundle).exact == "openvino: too old"
    assert find_backend("made", bundle, precision="auto").exact == "made reduces none by itself; openvino does, or name a precision"
    assert not find_backend("made", bundle).exact and not find_backend("openvino", bundle, precision="fp32").exact
    register(openvino=(made, lambda bundle, precision=None: None))
    chosen = find_backend("auto:precision=auto", bundle)
    assert (chosen.exact, chosen.options) == ("", {"precision": "bf16"}) and chosen.reason.startswith("openvino is the first of ")


def test_auto_passes_a_reduced_backend_over_that_does_not_take_the_options(bundle: Bundle, register: Callable[..., None]) -> None:
    register(onnxruntime=(made, None), openvino=(lambda bundle, precision=None: None, lambda bundle, precision=None: None))
    assert find_backend("auto", bundle, precision="auto").entry.name == "openvino"
    chosen = find_backend("auto:level=2", bundle, precision="auto")
    assert (chosen.entry.name, chosen.options) == ("onnxruntime", {"level": 2})
    assert chosen.exact == 'openvino: it has no option "level"' and chosen.exact in chosen.reason
    with pytest.raises(ArgumentError, match='^the backend "openvino" has no option "level"; it has: precision$'):
        find_backend("auto:level=2", bundle, precision="bf16")


def test_a_named_backend_is_asked_with_its_options(bundle: Bundle, register: Callable[..., None]) -> None:
    """One that cannot run on the first GPU may be meant for the second."""

    def unavailable(bundle: Bundle | None = None, options: Any = None) -> str | None:
        return None if (options or {}).get("level") == 2 else "no level but the second"

    register(tensorrt=(made, unavailable))
    for text, options in (("tensorrt:level=2", {}), ("tensorrt", {"level": 2}), ("auto:level=2", {}), ("auto", {"level": 2})):
        assert find_backend(text, bundle, **options).entry.name == "tensorrt", (text, options)
    for text in ("tensorrt", "tensorrt:level=1", "tensorrt:colour=red"):
        with pytest.raises(BackendError, match='^the backend "tensorrt" cannot be used here: no level but the second$'):
            find_backend(text, bundle)


def test_wishes_are_for_whichever_backend_has_them(bundle: Bundle, register: Callable[..., None]) -> None:
    register(made=(made, None), any=(lambda bundle, **options: options, None))
    wishes = {"level": 7, "checkpoint": "a.pt"}
    loaded: Any = load_backend("made", bundle, wishes)
    assert loaded.level == 7
    loaded = load_backend("made", bundle, wishes, level=2)
    assert loaded.level == 2
    assert load_backend("any:checkpoint=b.pt", bundle, wishes) == {"level": 7, "checkpoint": "b.pt"}


def test_a_named_precision_that_nothing_runs_in_is_answered_with_others(bundle: Bundle, register: Callable[..., None]) -> None:
    register(onnxruntime=(made, None), openvino=(made, lambda bundle, precision=None: "no bf16" if precision else None))
    with pytest.raises(BackendError, match="openvino: no bf16.*; name the precision fp32, or auto, which reduces it where it can$"):
        find_backend("auto", bundle, precision="bf16")
