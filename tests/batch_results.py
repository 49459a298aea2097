"""What a batch left in its folder."""

from __future__ import annotations

import csv
from pathlib import Path

from sdic_runtime.batch.job import FAILURES


def failures(out: Path) -> dict[str, str]:
    with (out / FAILURES).open(newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def results(out: Path) -> dict[str, int]:
    """The visible results -> when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".") and path.name != FAILURES}
