"""The errors of the package: of a kind, lower case, without a full stop."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import sdic_train
from sdic_runtime import errors

ROOT = Path(sdic_train.__file__).parent
MODULES = sorted(path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py"))

# Of reading pickles, where they become a CheckpointError with the file's name; of writing, where `replacing` makes a FileError of it.
INTERNAL = ("Refused", "Damaged", "OSError")


def sentences(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(kind, sentence) of every error that the module raises with a text of its own; what is put in shows as x, but for constants."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            arguments = node.exc.args
            parts = arguments[0].values if arguments and isinstance(arguments[0], ast.JoinedStr) else arguments[:1]
            yield node.exc.func.id, "".join(_text(part, module) for part in parts)


def _text(part: ast.expr, module: ModuleType) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    constant = getattr(module, value.id, None) if isinstance(value, ast.Name) else None
    return constant if isinstance(constant, str) else "x"


@pytest.mark.parametrize("name", MODULES)
def test_errors_are_of_a_kind_and_end_without_a_full_stop(name: str) -> None:
    for kind, sentence in sentences(importlib.import_module(name)):
        assert kind != "SdicError" and (hasattr(errors, kind) or kind in ("SystemExit", "Exit", *INTERNAL)), sentence
        assert not sentence.endswith("."), sentence
        assert not re.match(r"[A-Z][a-z]+\b", sentence), sentence  # names such as PyTorch may come first


def test_the_sentences_are_found() -> None:
    found = [entry for name in MODULES for entry in sentences(importlib.import_module(name))]
    assert len(found) > 60
