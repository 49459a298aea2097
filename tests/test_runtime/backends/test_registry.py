"""Backends as text on a command line, and options that a command has for whichever backend knows them."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from sdic_runtime.backends.registry import load_backend, parse_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch", ("torch", {})),
        ("torch:form=simple,threads=2,lazy=true", ("torch", {"form": "simple", "threads": 2, "lazy": True})),
        ("onnxruntime:device=cuda:1", ("onnxruntime", {"device": "cuda:1"})),
    ],
)
def test_backends_with_options(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parse_backend(text) == expected


def test_a_wish_goes_only_to_backends_that_have_the_option(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("wished_backend")
    module.reads = lambda bundle, precision=None, checkpoint=None: (precision, checkpoint)  # type: ignore[attr-defined]
    module.takes_all = lambda bundle, **options: options  # type: ignore[attr-defined]
    module.plain = lambda bundle, precision=None: precision  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wished_backend", module)
    for name in ("reads", "takes_all", "plain"):
        monkeypatch.setitem(sys.modules["sdic_runtime.backends.registry"].BUILT_IN, name, f"wished_backend:{name}")
    bundle, wishes = Bundle.open(tiny_bundle), {"checkpoint": "w.pt"}
    found: list[Any] = [load_backend(text, bundle, wishes) for text in ("reads", "reads:checkpoint=mine.pt", "takes_all", "plain")]
    assert found == [(None, "w.pt"), (None, "mine.pt"), {"checkpoint": "w.pt"}, None]
    found = [load_backend(text, bundle, wishes, precision="fp32") for text in ("plain", "plain:precision=fp16")]
    assert found == ["fp32", "fp16"]
    with pytest.raises(ArgumentError, match='the backend "plain" has no option "checkpoint"; it has: precision'):
        load_backend("plain", bundle, checkpoint="w.pt")
