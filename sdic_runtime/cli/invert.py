"""`sdic-run invert`: pictures into latent codes and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli.options import BackendOption, BundleOption, CheckpointOption, Debug, OutOption, PrecisionOption, load_pipeline

if TYPE_CHECKING:
    from sdic_runtime.cli.outputs import Target
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline

NAME = "invert"


def run(
    sources: Annotated[list[Path], typer.Argument(metavar="IMG", help="Pictures, or folders of pictures.", show_default=False)],
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    out: OutOption = None,
    save: Annotated[bool, typer.Option("--save", help="Also write NAME.safetensors, the inversion, for fast edits later.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Also write a picture of input, e4e and SDIC.")] = False,
    baseline: Annotated[bool, typer.Option("--baseline", help="Also write NAME.e4e.png, what e4e alone gives.")] = False,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Pictures computed at once; chosen by the model's size when left out.")
    ] = None,
    precision: PrecisionOption = None,
    checkpoint: CheckpointOption = None,
    debug: Debug = False,
) -> None:
    """Invert pictures.

    Writes what the generator makes of each as NAME.inverted.png and prints the path of every file written. A picture
    that cannot be read is named on standard error; the others are still written, and the exit code is 2.

    \b
    Example:
      sdic-run invert portrait.png holiday/ --out inverted --save --side-by-side
    """
    from sdic_runtime.cli.outputs import pictures_in, targets
    from sdic_runtime.errors import SdicError
    from sdic_runtime.progress import progress, say

    goals = targets(pictures_in(sources), out)
    pipeline = load_pipeline(bundle, backend, precision, checkpoint)
    results = pipeline.invert_files([goal.source for goal in goals], batch, keep_going=True)
    failed = 0
    for goal, result in zip(goals, progress(results, "inversions", total=len(goals)), strict=True):
        if result.inversion is None:
            failed += 1
            say(f"error: {result.error}", error=True)
            continue
        for path in written(pipeline, goal, result.inversion, save, side_by_side, baseline):
            say(str(path))
    if failed and len(goals) > 1:
        raise SdicError(f"{failed} of {len(goals)} pictures could not be inverted; they are named above")
    if failed:
        raise typer.Exit(2)


def written(pipeline: Pipeline, goal: Target, inversion: Inversion, save: bool, side_by_side: bool, baseline: bool) -> Iterator[Path]:
    """Write what was asked for about one picture, and give each path."""
    from sdic_runtime.cli.sources import INVERSION_SUFFIX, input_picture
    from sdic_runtime.sheets import save_picture, strip

    (picture,) = inversion.images
    yield save_picture(picture, goal.main(".inverted.png"))
    if save:
        inversion.save(goal.path(INVERSION_SUFFIX))
        yield goal.path(INVERSION_SUFFIX)
    if not (side_by_side or baseline):
        return
    (alone,) = pipeline.baseline(inversion).images
    if baseline:
        yield save_picture(alone, goal.path(".e4e.png"))
    if side_by_side:
        row = (input_picture(pipeline, goal.source), alone, picture)
        yield save_picture(strip(row, ("input", "e4e", "SDIC")), goal.path(".side-by-side.png"))
