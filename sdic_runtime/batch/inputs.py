"""Which pictures a folder or a list stands for, and the name that each one's results get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sdic_runtime.batch.job import Job, Task
from sdic_runtime.errors import ArgumentError, FileError
from sdic_runtime.files import reason
from sdic_runtime.folders import PICTURE_SUFFIXES, STANDARD_INPUT, distinct_stems, pictures_in, standard_input

LARGEST_LIST = 1 << 30  # bytes


def tasks_of(source: Path, job: Job) -> tuple[list[Task], list[Path]]:
    """A task for every picture of `source`, a folder or a list; and the files of a folder that are skipped. Raises SdicError, also when a
    result would replace an input.

    Of a list, a picture in the list's own folder or below keeps its sub-folder in the output; others go directly into it.
    """
    skipped: list[Path] = []
    if source.is_dir():
        found, skipped = pictures_in([source])
        pictures = [Path(os.path.abspath(picture)) for picture in found]
        tasks = [Task(str(picture), stem) for picture, stem in zip(pictures, distinct_stems(pictures), strict=True)]
    else:
        tasks = _named(listed(source), Path(os.path.abspath(source.parent)))
    _refuse_replacing(tasks, source, job)
    return tasks, skipped


def listed(path: Path) -> list[Path]:
    """The absolute paths in the list `path`, "-" for standard input: one a line, relative ones from the list's folder, each only once.
    Raises FileError."""
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise FileError(f"{path} is a picture; name a folder or a list of pictures, or use: sdic-run invert {path}")
    try:
        with standard_input() if path == STANDARD_INPUT else path.open("rb") as stream:
            content = stream.read(LARGEST_LIST + 1)
        if len(content) > LARGEST_LIST:
            raise FileError(f"{path} has more than {LARGEST_LIST} bytes, which is no list of pictures; split it")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; name a folder or a list of pictures") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError:
        raise FileError(f"{path} is not a text file; give a list with the path of one picture per line, in UTF-8") from None
    base = os.path.abspath(path.parent)
    names = [line.strip() for line in text.splitlines()]
    found = list(dict.fromkeys(Path(os.path.normpath(os.path.join(base, name))) for name in names if name))
    if not found:
        raise FileError(f"the list {path} is empty; write the path of one picture per line")
    return found


def _named(pictures: Sequence[Path], base: Path) -> list[Task]:
    """Tasks with names that are distinct in each output folder."""
    groups: dict[str, list[Path]] = {}
    for picture in pictures:
        inside = picture.parent.is_relative_to(base)
        groups.setdefault(picture.parent.relative_to(base).as_posix() if inside else ".", []).append(picture)
    named: dict[Path, str] = {}
    for folder, group in groups.items():
        named |= {picture: str(PurePosixPath(folder, stem)) for picture, stem in zip(group, distinct_stems(group), strict=True)}
    return [Task(str(picture), named[picture]) for picture in pictures]


def _refuse_replacing(tasks: Sequence[Task], source: Path, job: Job) -> None:
    if source.is_dir() and job.out.resolve() == source.resolve():
        raise ArgumentError(f"--out {job.out} is the folder of the pictures itself; choose another folder for the results")
    out = Path(os.path.abspath(job.out))
    inputs = {task.source for task in tasks}
    for task in tasks:
        replaced = next((out / name for name in task.outputs(job) if str(out / name) in inputs), None)
        if replaced is not None:
            raise ArgumentError(f"the result of {task.source} would replace the input {replaced}; choose another folder with --out")
