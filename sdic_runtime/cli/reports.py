"""Plain text tables and numbers for standard output, and the same numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from sdic_runtime.cli.targets import writable_folder
from sdic_runtime.errors import FileError
from sdic_runtime.files import replacing

STANDARD_OUTPUT = "-"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    align = [str.ljust] * left + [str.rjust] * (len(headings) - left)
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(to(text, width) for text, width, to in zip(line, widths, align, strict=True)).rstrip() for line in lines)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table: its cells are padded, so that it reads well as text too; bars in them are escaped."""
    lines = [[text.replace("|", "\\|") for text in line] for line in (headings, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(headings))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |" for line in lines)


def scientific(value: float) -> str:
    """Two significant digits, for differences."""
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def decibels(value: float) -> str:
    """A signal-to-noise ratio; "equal" where there is no noise at all."""
    return "equal" if value == math.inf else f"{value:.1f}"


def check_report(json_file: Path | None) -> None:
    """Raise FileError unless the file of `report` can be written, before any work that would be lost."""
    if json_file is not None and str(json_file) != STANDARD_OUTPUT:
        if json_file.is_dir():
            raise FileError(f"{json_file} is a folder; name a file in it")
        writable_folder(json_file.parent, "--json")


def report(data: object, json_file: Path | None, show: Callable[[], None]) -> None:
    """Print numbers as tables with `show`, and write them as JSON where asked; the file "-" is standard output, without tables."""
    text = json.dumps(data, indent=1)
    if json_file is not None and str(json_file) == STANDARD_OUTPUT:
        typer.echo(text)
        return
    show()
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        typer.echo(json_file)
