"""Which pictures a folder holds, and a name for the results of each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from sdic_runtime.errors import ArgumentError, FileError, PictureError

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
    ".heic", ".heif",
)  # fmt: skip
# The ending of a photograph that is written again -> that of its results; .png for all others.
PHOTO_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".heic", ".heif"), ".jpg"),
    ".webp": ".webp", ".tif": ".tif", ".tiff": ".tif",
}  # fmt: skip
PNG = ".png"
INVERTED, BASELINE, SIDE_BY_SIDE, STRIP, INVERSION = ".inverted.png", ".baseline.png", ".side-by-side.png", ".strip.png", ".safetensors"
COMPARED = ".compared.png"
# What the commands write, so that a folder that is read and written twice does not feed on its own results: these endings, and beside
# NAME.png or NAME.safetensors also an edit, NAME.smile+2.png, and a sweep, NAME.smile.gif. Photographs keep their kind: NAME.smile+2.jpg.
RESULT_SUFFIXES = tuple(dict.fromkeys((PNG, *PHOTO_SUFFIXES.values())))
OWN_ENDINGS = (*(INVERTED.removesuffix(PNG) + suffix for suffix in RESULT_SUFFIXES), BASELINE, SIDE_BY_SIDE, STRIP, COMPARED)
OWN_LABEL = re.compile(rf"(?P<stem>.+?)\.(?:[^.].*[+-]\d[\d.e+-]*(?:{'|'.join(map(re.escape, RESULT_SUFFIXES))})|[^.][^/]*\.gif)")
STANDARD_INPUT = Path("-")
BACKGROUND = "background"  # for `--keep`, beside files
SHOWN = 3  # names of skipped files


def of_photo(ending: str, source: Path) -> str:
    """The ending of a result that is a whole photograph: of the kind that `source` is, where it is one that photographs are kept in."""
    return ending.removesuffix(PNG) + PHOTO_SUFFIXES.get(source.suffix.lower(), PNG)


def standard_input() -> BinaryIO:
    """What is piped in. Raises FileError where standard input is closed."""
    if sys.stdin is None:
        raise FileError("standard input is closed, and it is to be read; pipe something into the command, or name a file")
    return sys.stdin.buffer


def pictures_in(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The pictures to work on, each once, and the files that are skipped.

    Pictures are the files named ("-" for standard input), and of every folder named those directly in it, in order of name. Its other
    visible files are skipped: what is no picture, broken links, pipes, and results of these commands. Raises FileError or PictureError.
    """
    found: dict[Path, None] = {}
    skipped: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = files_in(path.iterdir())
            stems = {entry.stem for entry in files if entry.suffix.lower() in (*PICTURE_SUFFIXES, INVERSION)}
            named = [entry for entry in files if entry.suffix.lower() in PICTURE_SUFFIXES and not _is_own(entry.name, stems)]
            inside = [entry for entry in named if entry.is_file()]
            if not inside:
                raise PictureError(f"the folder {path} holds no picture; picture names end in {', '.join(PICTURE_SUFFIXES)}")
            found.update(dict.fromkeys(inside))
            skipped += [entry for entry in files if entry not in found]
        elif path != STANDARD_INPUT and not path.exists():
            raise FileError(f"there is no file {path}; check the path")
        else:
            found[path] = None
    return list(found), skipped


def files_in(entries: Iterable[Path]) -> list[Path]:
    """The visible ones that are no folders, in order: also what cannot be read, so that nobody passes over it without a word."""
    return sorted(entry for entry in entries if not entry.is_dir() and not entry.name.startswith("."))


def _is_own(name: str, stems: set[str]) -> bool:
    own = OWN_LABEL.fullmatch(name)
    # Every beginning that ends before a dot may be the picture's name: names have dots too.
    beginnings = (name[:index] for index, letter in enumerate(name) if letter == ".") if own else ()
    return name.lower().endswith(OWN_ENDINGS) or any(beginning in stems - {Path(name).stem} for beginning in beginnings)


def skipped_notice(skipped: Sequence[Path]) -> str:
    """A line that counts the skipped files and names the first; "" where there are none."""
    names = ", ".join(path.name for path in skipped[:SHOWN])
    more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    return f"skipped {len(skipped)} file(s) that are no pictures to invert, or results: {names}{more}" if skipped else ""


def distinct_stems(sources: Sequence[Path]) -> list[str]:
    """A name stem for each source: its own, or its whole file name where `a.png` and `a.jpg` are both there. Raises ArgumentError."""
    stems = Counter(source.stem for source in sources)
    names = [source.name if stems[source.stem] > 1 else source.stem for source in sources]
    counts = Counter(names)
    twice = next((name for name in names if counts[name] > 1), None)
    if twice is not None:
        first, second = [source for source, name in zip(sources, names, strict=True) if name == twice][:2]
        why = f"{first} and {second} have the same name, so one result would replace the other"
        raise ArgumentError(f"{why}; use two calls with different --out folders")
    return names
