"""docs/methods.md says of every array that the official code computed where it is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from official_checkpoint import DATA

METHODS = Path(__file__).parents[2] / "docs/methods.md"
SECTIONS = {"psp": "e4e and pSp", "sfe": "StyleFeatureEditor", "fs": "FS", "hfgi": "HFGI"} | {
    name: name for name in ("ReStyle", "HyperStyle", "CLCAE", "PTI")
}
PLACEHOLDERS = {"<j>": r"\d+", "<t>": r"\d+", "*": r".+"}


def section(name: str) -> str:
    text = METHODS.read_text(encoding="utf-8")
    return re.split(r"^## ", text[text.index(f"\n## {name}") + 4 :], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_official_array_is_in_a_table(name: str) -> None:
    rows = [line for line in section(SECTIONS[name]).splitlines() if line.startswith("|")]
    patterns = [re.escape(word) for row in rows for word in re.findall(r"`([^`]+)`", row)]
    for mark, pattern in PLACEHOLDERS.items():
        patterns = [word.replace(re.escape(mark), pattern) for word in patterns]
    with np.load(DATA / "methods" / f"{name.lower()}.expected.npz") as file:
        arrays = [re.sub(r"^(psp|e4e)\.", "", array) for array in file]
    missing = [array for array in arrays if not any(re.fullmatch(rf"{pattern}(\.slice|\.crop|\.stats)?", array) for pattern in patterns)]
    assert not sorted(missing)
