"""Where commands write to: names settled and folders tried before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason
from sdic_runtime.folders import INVERSION, OWN_ENDINGS, STANDARD_INPUT, distinct_stems
from sdic_runtime.leftovers import held
from sdic_runtime.sheets import PICTURE_FORMATS


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

    def unnamed(self) -> Target:
        """The same for further results, whose names are made here."""
        return replace(self, named=None)


def targets(sources: Sequence[Path], out: Path | None) -> list[Target]:
    """Where the results of each source go; the folder exists and can be written to when this returns.

    `out`: a folder (made if need be), or the name of one file, recognised by its ending; when None that of a single saved inversion, or the
    current folder. Raises ArgumentError or FileError.
    """
    if out is not None and not out.is_dir() and out.suffix.lower() in PICTURE_FORMATS:
        if len(sources) != 1:
            raise ArgumentError(f"--out names one file, {out}, for {len(sources)} pictures; give a folder instead")
        if out.exists() and sources[0].exists() and sources[0].samefile(out):
            raise ArgumentError(f"--out {out} is the input itself, which would be replaced; choose another name")
        writable_folder(out.parent)
        return [Target(sources[0], out.parent, out.stem, named=out)]
    saved = len(sources) == 1 and sources[0].suffix.lower() == INVERSION
    folder = out if out is not None else sources[0].resolve().parent if saved else Path.cwd()
    if out is not None and not out.exists() and out.suffix:
        formats = ", ".join(PICTURE_FORMATS)
        why = f"--out {out} is neither a folder nor a file ending in {formats}"
        raise ArgumentError(f"{why}; a new folder's name must not have an extension")
    writable_folder(folder)
    stems = distinct_stems([Path("stdin") if source == STANDARD_INPUT else source for source in sources])
    goals = [Target(source, folder, stem) for source, stem in zip(sources, stems, strict=True)]
    _refuse_replacing(goals, folder)
    return goals


def each(target: Target, count: int) -> list[Target]:
    """The target of each picture of one inversion file: the target itself, or numbered ones where there are several."""
    if count == 1:
        return [target]
    if target.named is not None:
        raise ArgumentError(f"--out names one file, {target.named}, and {target.source} holds {count} pictures; give a folder instead")
    return [Target(target.source, target.folder, f"{target.stem}-{index + 1}") for index in range(count)]


def _refuse_replacing(goals: Sequence[Target], folder: Path) -> None:
    """Refuse a result that would replace another of the inputs, such as `a.inverted.png` when `a.png` is inverted beside it."""
    here = folder.resolve()
    inputs = {goal.source.name for goal in goals if goal.source.parent.resolve() == here}
    for goal, ending in product(goals, OWN_ENDINGS):
        if f"{goal.stem}{ending}" in inputs:
            why = f"the result of {goal.source} would replace the input {goal.path(ending)}"
            raise ArgumentError(f"{why}; choose another folder with --out")


def writable_folder(folder: Path, option: str = "--out") -> Path:
    """Make the folder and try that files can be written into it, before any work that would be lost. Raises FileError, which advises
    another value of `option`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder, lambda probe: probe.touch(exist_ok=False)):
            pass
    except OSError as error:
        raise FileError(f"cannot write into the folder {folder}: {reason(error)}; choose another one with {option}") from error
    return folder
