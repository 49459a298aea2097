"""Where commands read pictures from and write files to: names settled and folders tried before any work starts."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from sdic_runtime.errors import SdicError
from sdic_runtime.files import reason, replacing
from sdic_runtime.sheets import PICTURE_FORMATS

INPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Endings of what these commands write, so that a folder that is read and written twice does not feed on its own results.
OWN_ENDINGS = (".inverted.png", ".e4e.png", ".side-by-side.png", ".strip.png")


@dataclass(frozen=True)
class Target:
    """One input picture, and the folder and name stem of everything that is written about it."""

    source: Path
    folder: Path
    stem: str
    named: Path | None = None  # the file that the user named with --out, instead of a name made here

    def path(self, ending: str) -> Path:
        """The output with this ending, such as ".inverted.png"."""
        return self.folder / f"{self.stem}{ending}"

    def main(self, ending: str) -> Path:
        """The output that was asked for by name, or else the one with this ending."""
        return self.named or self.path(ending)


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """The files named, and of every folder named the pictures directly in it, in order of name and each only once."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [entry for entry in sorted(path.iterdir()) if is_input(entry)]
            if not inside:
                raise SdicError(f"the folder {path} holds no picture; picture names end in {', '.join(INPUT_SUFFIXES)}")
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise SdicError(f"there is no file {path}; check the path")
        else:
            found[path] = None
    return list(found)


def is_input(path: Path) -> bool:
    """Whether a file found in a folder is a picture to work on rather than something else or an earlier result."""
    name = path.name.lower()
    return path.is_file() and not name.startswith(".") and path.suffix.lower() in INPUT_SUFFIXES and not name.endswith(OWN_ENDINGS)


def targets(sources: Sequence[Path], out: Path | None, single_suffixes: Sequence[str] = tuple(PICTURE_FORMATS)) -> list[Target]:
    """Where the results of each source go; the folder exists and can be written to when this returns.

    out  a folder (made if need be), or the name of one file, recognised by its ending; the current folder when None
    """
    if out is not None and not out.is_dir() and out.suffix.lower() in single_suffixes:
        if len(sources) != 1:
            raise SdicError(f"--out names one file, {out}, for {len(sources)} pictures; give a folder instead")
        refuse_overwriting(sources, out)
        writable_folder(out.parent)
        return [Target(sources[0], out.parent, out.stem, named=out)]
    folder = out if out is not None else Path.cwd()
    if out is not None and not out.exists() and out.suffix:
        raise SdicError(
            f"--out {out} is neither a folder nor a file ending in {', '.join(single_suffixes)}; end a new folder's name without a dot"
        )
    writable_folder(folder)
    goals = [Target(source, folder, stem) for source, stem in zip(sources, distinct_stems(sources), strict=True)]
    refuse_replacing(goals, folder)
    return goals


def target_of(source: Path, out: Path | None) -> Target:
    """Where the results of one source go; see `targets`."""
    return targets([source], out)[0]


def each(target: Target, count: int) -> list[Target]:
    """The target of each picture of one inversion file: the target itself, or numbered ones where there are several."""
    if count == 1:
        return [target]
    if target.named is not None:
        raise SdicError(f"--out names one file, {target.named}, and {target.source} holds {count} pictures; give a folder instead")
    return [Target(target.source, target.folder, f"{target.stem}-{index + 1}") for index in range(count)]


def distinct_stems(sources: Sequence[Path]) -> list[str]:
    """A name stem for each source: its own, or its whole file name where `a.png` and `a.jpg` are both there."""
    stems = Counter(source.stem for source in sources)
    names = [source.name if stems[source.stem] > 1 else source.stem for source in sources]
    counts = Counter(names)
    twice = next((name for name in names if counts[name] > 1), None)
    if twice is not None:
        first, second = [source for source, name in zip(sources, names, strict=True) if name == twice][:2]
        raise SdicError(
            f"{first} and {second} have the same name, so one result would replace the other; use two calls with different --out folders"
        )
    return names


def refuse_replacing(goals: Sequence[Target], folder: Path) -> None:
    """Refuse a result that would replace another of the inputs, such as `a.inverted.png` when `a.png` is inverted beside it."""
    here = folder.resolve()
    inputs = {goal.source.name for goal in goals if goal.source.parent.resolve() == here}
    for goal in goals:
        for ending in OWN_ENDINGS:
            if f"{goal.stem}{ending}" in inputs:
                replaced = goal.path(ending)
                raise SdicError(f"the result of {goal.source} would replace the input {replaced}; choose another folder with --out")


def refuse_overwriting(sources: Sequence[Path], out: Path) -> None:
    """Refuse an output that is one of the inputs."""
    if out.exists() and any(source.exists() and source.samefile(out) for source in sources):
        raise SdicError(f"--out {out} is the input itself, which would be replaced; choose another name")


def writable_folder(folder: Path) -> Path:
    """Make the folder and prove that files can be written into it, before any work that would be lost."""
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise SdicError(f"cannot write into the folder {folder}: {reason(error)}; choose another one with --out") from error
    return folder


def writable_file(path: Path) -> Path:
    """Prove that this file can be written, before any work that would be lost."""
    if path.is_dir():
        raise SdicError(f"{path} is a folder; name a file in it")
    writable_folder(path.parent)
    return path


STANDARD_OUTPUT = "-"


def check_report(json_file: Path | None) -> None:
    """Prove that the file of `report` can be written, before any work that would be lost."""
    if json_file is not None and str(json_file) != STANDARD_OUTPUT:
        writable_file(json_file)


def report(data: object, json_file: Path | None, show: Callable[[], None]) -> None:
    """Print numbers as tables with `show`, and write them as JSON where asked; the file "-" is standard output, without tables."""
    text = json.dumps(data, indent=1)
    if json_file is not None and str(json_file) == STANDARD_OUTPUT:
        typer.echo(text)
        return
    show()
    if json_file is not None:
        typer.echo(write_text(json_file, text + "\n"))


def write_text(path: Path, text: str) -> Path:
    """Write the text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
