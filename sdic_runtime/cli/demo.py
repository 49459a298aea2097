"""`sdic-run demo`: the embedded bundle at work on the pictures that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.pipeline import Pipeline

# Of every picture: directions, each with the end of its range that the person is not at.
LOWER, UPPER = 0, 1
EDITS: dict[str, tuple[tuple[str, int], ...]] = {
    "portrait_1": (("glasses", UPPER), ("fringe", UPPER), ("light", LOWER)),
    "portrait_2": (("hair_colour", LOWER), ("age", UPPER), ("glasses", UPPER)),
    "portrait_3": (("smile", UPPER), ("age", UPPER), ("hair_colour", LOWER)),
    "portrait_4": (("smile", UPPER), ("glasses", LOWER), ("age", UPPER)),
    "portrait_5": (("hair_length", UPPER), ("hair_colour", UPPER), ("age", UPPER)),
    "portrait_6": (("smile", UPPER), ("age", UPPER), ("hair_colour", UPPER)),
    "portrait_7": (("glasses", LOWER), ("hair_colour", UPPER), ("smile", UPPER)),
    "portrait_8": (("glasses", UPPER), ("hair_colour", UPPER), ("light", UPPER)),
}
CAPTIONS = ("input", "e4e", "SDIC", "edits", "", "")
FRAMES = 15  # of the animation
SHEET_HEIGHT = 256


def run(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sheet.")] = Path("demo"),
    backend: options.BackendOption = "auto",
    debug: options.Debug = False,
) -> None:
    """Show the embedded demo bundle at work.

    Inverts and edits the pictures that come with it and draws one sheet of all.

    \b
    Example:
      sdic-run demo --out demo
    """
    from sdic_runtime.bundle.bundle import DEMO_FOLDER
    from sdic_runtime.cli.inputs import as_seen
    from sdic_runtime.cli.sweep import edited_frames, evenly_spaced
    from sdic_runtime.cli.targets import writable_folder
    from sdic_runtime.errors import FileError
    from sdic_runtime.folders import pictures_in
    from sdic_runtime.progress import progress
    from sdic_runtime.sheets import back_and_forth, save_animation, save_picture, sheet

    folder = DEMO_FOLDER / "pictures"
    if not folder.is_dir():
        raise FileError(f"the demo pictures are missing at {folder}; install sdic-toolkit again")
    pictures, _ = pictures_in([folder])
    writable_folder(out)
    with options.load_pipeline(None, backend) as pipeline:
        rows, notes = [], []
        for picture in progress(pictures, "pictures"):
            inversion = pipeline.invert(picture)
            edits = [(name, _ends(pipeline, name)[end]) for name, end in EDITS[picture.stem]]
            found = (as_seen(pipeline, picture), pipeline.baseline(inversion).images[0], inversion.images[0])
            rows.append([*found, *(pipeline.edit(inversion, name, strength).images[0] for name, strength in edits)])
            notes.append(["", "", "", *(f"{name} {strength:+g}" for name, strength in edits)])
        path = save_picture(sheet(rows, CAPTIONS, SHEET_HEIGHT, notes=notes), out / "sheet.png")
        typer.echo(path)
        first, name = pictures[0], EDITS[pictures[0].stem][0][0]
        frames = edited_frames(pipeline, pipeline.invert(first), name, evenly_spaced(*_ends(pipeline, name), FRAMES))
        typer.echo(save_animation(back_and_forth(frames), out / f"{first.stem}.{name}.gif"))
    options.notice(f"open {path}: each row shows a picture, what e4e alone gives, SDIC's inversion, and three edits of that")


def _ends(pipeline: Pipeline, name: str) -> tuple[float, float]:
    """The two ends of a direction's useful strengths."""
    from sdic_runtime.edits import UNKNOWN_RANGE

    useful: tuple[float, float] | None = getattr(pipeline.directions[name], "strength_range", None)
    return useful or UNKNOWN_RANGE
