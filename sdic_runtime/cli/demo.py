"""`sdic-run demo`: the embedded bundle at work on the pictures that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.pipeline import Pipeline

EDITS = 3  # columns of the sheet, besides input, baseline and inversion
FALLBACK_STRENGTH = 2.0  # for a direction that suggests no range
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
        edits = _edits(pipeline)
        rows = []
        for picture in progress(pictures, "pictures"):
            inversion = pipeline.invert(picture)
            found = (as_seen(pipeline, picture), pipeline.baseline(inversion).images[0], inversion.images[0])
            rows.append([*found, *(pipeline.edit(inversion, name, strength).images[0] for name, strength in edits)])
        method = pipeline.bundle.manifest.method.upper()
        captions = ("input", "baseline", method, *(f"{name} {strength:+g}" for name, strength in edits))
        path = save_picture(sheet(rows, captions, SHEET_HEIGHT), out / "sheet.png")
        typer.echo(path)
        for name, strength in edits[:1]:
            frames = edited_frames(pipeline, pipeline.invert(pictures[0]), name, evenly_spaced(-strength, strength, FRAMES))
            typer.echo(save_animation(back_and_forth(frames), out / f"{pictures[0].stem}.{name}.gif"))
    row = f"a picture, what its initial codes alone give, {method}'s inversion, and {len(edits)} edits of that"
    options.notice(f"open {path}: each row shows {row}")


def _edits(pipeline: Pipeline) -> list[tuple[str, float]]:
    """The first directions of the bundle, in the order of its manifest, each with the upper end of its suggested range."""
    from sdic_runtime.edits import Direction

    found = ((name, pipeline.directions[name]) for name in pipeline.bundle.manifest.directions)
    plain = [(name, direction) for name, direction in found if isinstance(direction, Direction)][:EDITS]
    return [(name, direction.strength_range[1] if direction.strength_range else FALLBACK_STRENGTH) for name, direction in plain]
