"""Plain text tables and numbers for standard output."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def scientific(value: float) -> str:
    """Two significant digits, for differences."""
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def decibels(value: float) -> str:
    """A signal-to-noise ratio; "equal" where there is no noise at all."""
    return "equal" if value == math.inf else f"{value:.1f}"
