"""`sdic-run demo`: the embedded bundle at work on the pictures that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli.options import BackendOption, Debug, load_pipeline

if TYPE_CHECKING:
    from PIL import Image

    from sdic_runtime.pipeline import Pipeline

NAME = "demo"
EDITS = 3  # columns of the sheet, besides input, e4e and SDIC
FALLBACK_STRENGTH = 2.0  # for a direction that suggests no range
FRAMES = 15  # of the animation
SHEET_HEIGHT = 256


def run(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sheet.")] = Path("demo"),
    backend: BackendOption = "auto",
    debug: Debug = False,
) -> None:
    """Show the embedded demo bundle at work.

    Inverts and edits the pictures that come with it and draws one sheet of all.

    \b
    Example:
      sdic-run demo --out demo
    """
    from sdic_runtime.bundle.bundle import DEMO_FOLDER
    from sdic_runtime.cli.outputs import pictures_in, writable_folder
    from sdic_runtime.errors import SdicError
    from sdic_runtime.progress import progress
    from sdic_runtime.sheets import save_picture, sheet

    folder = DEMO_FOLDER / "pictures"
    if not folder.is_dir():
        raise SdicError(f"the demo pictures are missing at {folder}; install sdic again")
    pictures = pictures_in([folder])
    writable_folder(out)
    pipeline = load_pipeline(None, backend)
    edits = demo_edits(pipeline)
    rows = [sheet_row(pipeline, picture, edits) for picture in progress(pictures, "pictures")]
    captions = ("input", "e4e", "SDIC", *(f"{name} {strength:+g}" for name, strength in edits))
    path = save_picture(sheet(rows, captions, SHEET_HEIGHT), out / "sheet.png")
    typer.echo(path)
    if edits:
        typer.echo(animation(pipeline, pictures[0], *edits[0], out))
    typer.echo(
        f"open {path}: each row shows a picture, what e4e alone makes of it, SDIC's inversion, and {len(edits)} edits of that", err=True
    )


def animation(pipeline: Pipeline, picture: Path, name: str, strength: float, out: Path) -> Path:
    """One picture edited along one direction, from the opposite of `strength` to `strength` and back."""
    from sdic_runtime.cli.edits import name_for_file
    from sdic_runtime.cli.sweep import edited_frames, evenly_spaced
    from sdic_runtime.edits import as_edit
    from sdic_runtime.sheets import back_and_forth, save_animation

    strengths = evenly_spaced(-strength, strength, FRAMES)
    frames = edited_frames(pipeline, pipeline.invert(picture), as_edit(name, pipeline.directions), strengths, "paper", None)
    return save_animation(back_and_forth(frames), out / f"{picture.stem}.{name_for_file(name)}.gif")


def demo_edits(pipeline: Pipeline) -> list[tuple[str, float]]:
    """The first directions of the bundle, in the order of its manifest, each with the upper end of its suggested range."""
    from sdic_runtime.edits import Direction

    found = ((name, pipeline.directions[name]) for name in pipeline.bundle.manifest.directions)
    plain = [(name, direction) for name, direction in found if isinstance(direction, Direction)][:EDITS]
    return [(name, direction.strength_range[1] if direction.strength_range else FALLBACK_STRENGTH) for name, direction in plain]


def sheet_row(pipeline: Pipeline, picture: Path, edits: list[tuple[str, float]]) -> list[Image.Image]:
    """Input, e4e, SDIC and the edits of one picture."""
    from sdic_runtime.cli.sources import input_picture

    inversion = pipeline.invert(picture)
    changed = [pipeline.edit(inversion, name, strength).images[0] for name, strength in edits]
    return [input_picture(pipeline, picture), pipeline.baseline(inversion).images[0], inversion.images[0], *changed]
