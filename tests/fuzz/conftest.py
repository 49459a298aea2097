"""What the seeds share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fuzz.seeds import SECONDS, make_copy


@pytest.fixture
def at_once() -> Any:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the sound bundle to break."""
    return make_copy(tmp_path)
