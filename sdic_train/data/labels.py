"""A user's own labels: a CSV file of pictures and values."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason

SWITCHES = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
SHOWN = 3  # names of missing pictures


@dataclass(frozen=True)
class Labels:
    """`pictures`: files that are there; `missing`: that are not. `values` [pictures, attributes], NaN where a picture has none."""

    pictures: list[Path]
    attributes: list[str]
    values: NDArray[np.float32]
    missing: list[str]

    def threshold(self, attribute: str) -> float:
        """Between the two sides of an attribute: the middle where there are two values, such as 0 and 1 or -1 and 1, else the median.
        Raises ArgumentError."""
        column = self.values[:, self.attributes.index(attribute)]
        known = column[np.isfinite(column)]
        values = np.unique(known)
        if len(values) < 2:
            raise ArgumentError(f'the attribute "{attribute}" has {len(values)} different value(s); label pictures of both sides')
        return float(values.mean() if len(values) == 2 else np.median(known))

    @property
    def missing_notice(self) -> str:
        """A line that counts the missing pictures and names the first; "" where there are none."""
        names = ", ".join(self.missing[:SHOWN]) + (f" and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else "")
        return f"{len(self.missing)} picture(s) of the labels are not there: {names}" if self.missing else ""


def read_labels(path: Path, folder: Path | None = None, attribute: str | None = None) -> Labels:
    """Read a CSV file: a picture per line, then a value for each attribute: a number, or yes and no.

    The first line names the attributes where it holds no values; without one a single column is called `attribute`, or as the file is.
    Pictures are relative to `folder`, that of the file when None. Raises FileError and ArgumentError, with the line.
    """
    lines = lines_of(path, "labels", "picture,value")
    if not lines:
        raise FileError(f"{path} holds no labels; write a line picture,value for each picture")
    columns = len(lines[0][1])
    if columns < 2:
        raise FileError(f'{path}, line 1: "{lines[0][1][0]:.60}" has no value; write a line picture,value for each picture')
    names = [attribute or path.stem] if columns == 2 else [f"{path.stem}_{index}" for index in range(1, columns)]
    if all(value_of(cell) is None and cell.strip() for cell in lines[0][1][1:]):
        names = [cell.strip() for cell in lines.pop(0)[1][1:]]
    pictures, values, missing = [], [], []
    for number, row in lines:
        found = [math.nan if not cell.strip() else value_of(cell) for cell in row[1:]]
        if len(row) != columns or None in found:
            raise FileError(f'{path}, line {number}: "{",".join(row):.60}" is not a picture and {columns - 1} number(s)')
        picture = (folder or path.parent) / row[0].strip()
        if picture.is_file():
            pictures.append(picture)
            values.append(found)
        else:
            missing.append(row[0].strip())
    if not pictures:
        raise ArgumentError(f"none of the pictures of {path} is in {folder or path.parent}; name their folder with --pictures")
    return Labels(pictures, names, np.array(values, np.float32), missing)


def lines_of(path: Path, what: str, form: str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not empty, with their numbers: commas, semicolons or tabs, by the first line. `what` it is and its
    `form`, for messages. Raises FileError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return [(number, row) for number, row in enumerate(csv.reader(text.splitlines(), dialect=_dialect(text)), 1) if any(row)]
    except OSError as error:
        raise FileError(f"cannot read the {what} {path}: {reason(error)}") from error
    except UnicodeDecodeError:
        raise FileError(f"{path} is not a text file; give a CSV file of {form}") from None
    except csv.Error as error:
        raise FileError(f"{path} is not a CSV file of {form}: {error}") from error


def _dialect(text: str) -> type[csv.Dialect]:
    """Commas, semicolons or tabs, by the first line."""

    class Found(csv.excel):
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)

    return Found


def value_of(text: str) -> float | None:
    """A number, or yes and no as 1 and 0; None for anything else."""
    word = text.strip().lower()
    try:
        value = SWITCHES[word] if word in SWITCHES else float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
