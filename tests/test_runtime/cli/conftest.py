"""The tiny bundle in the place of the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def demo_bundle(make_bundle: Callable[..., Path], photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny bundle in the place of the embedded one."""
    folder = make_bundle("demo-bundle")
    monkeypatch.setattr("sdic_runtime.bundle.bundle.DEMO_FOLDER", folder)
    return folder
