from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.errors import CheckpointError
from sdic_train.methods import METHODS


def test_only_a_method_of_several_files_is_given_further_ones() -> None:
    def load(path: Path, domain: str | None) -> Any:
        return path, domain

    method: Any = dataclasses.replace(METHODS["sdic"], load=load)
    assert method.read(Path("a.pt"), "faces") == (Path("a.pt"), "faces")
    with pytest.raises(CheckpointError, match=r'^a model of the method "sdic" is one file; give no further files, such as b.pt$'):
        method.read(Path("a.pt"), None, [Path("b.pt")])
