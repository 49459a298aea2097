"""What the seeds share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz.targets import sound_bundle
from sdic_runtime.errors import SdicError

HUGE = "1" + "0" * 400
SECONDS = 5.0


def make_copy(folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(sound_bundle(), folder / "bundle"))


def refused(kind: type[SdicError], sentence: str, work: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        work(*arguments)
    said = str(caught.value)
    assert len(said) <= 400 and said.isprintable()
