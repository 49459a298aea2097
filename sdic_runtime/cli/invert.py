"""`sdic-run invert`: pictures into latent codes and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.cli.targets import Target
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pictures import PictureLike
    from sdic_runtime.pipeline import Pipeline


def run(
    sources: Annotated[list[Path], typer.Argument(metavar="IMG", help="Pictures, folders of pictures, or - for standard input.")],
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    out: options.OutOption = None,
    save: Annotated[bool, typer.Option("--save", help="Also write NAME.safetensors, the inversion, for fast edits later.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Also write a picture of input, baseline and inversion.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also write NAME.baseline.png, of the initial codes (SDIC: e4e alone).")
    ] = False,
    batch: options.BatchOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    debug: options.Debug = False,
) -> None:
    """Invert pictures.

    Writes what the generator makes of each as NAME.inverted.png and prints the path of every file written. A picture
    that cannot be read is named on standard error; the others are still written, and the exit code is 2.

    \b
    Example:
      sdic-run invert portrait.png holiday/ --out inverted --save --side-by-side
    """
    from sdic_runtime.cli.inputs import picture_at
    from sdic_runtime.cli.targets import targets
    from sdic_runtime.errors import PictureError
    from sdic_runtime.folders import pictures_in, skipped_notice
    from sdic_runtime.progress import progress, say

    pictures, skipped = pictures_in(sources)
    goals = targets(pictures, out)
    options.notice(skipped_notice(skipped))
    inputs = [picture_at(goal.source) for goal in goals]
    failed = 0
    with options.load_pipeline(bundle, backend, precision, checkpoint) as pipeline:
        results = progress(pipeline.invert_many(inputs, batch, keep_going=True), "inversions", total=len(goals))
        for goal, picture, result in zip(goals, inputs, results, strict=True):
            if result.inversion is None:
                failed += 1
                say(f"error: {result.error}", error=True)
                continue
            for path in _written(pipeline, goal, picture, result.inversion, save, side_by_side, baseline):
                say(str(path))
    if failed and len(goals) > 1:
        raise PictureError(f"{failed} of {len(goals)} pictures could not be inverted; they are named above")
    if failed:
        raise typer.Exit(2)


def _written(
    pipeline: Pipeline, goal: Target, picture: PictureLike, inversion: Inversion, save: bool, side_by_side: bool, baseline: bool
) -> Iterator[Path]:
    """Write what was asked for about one picture, and give each path."""
    from sdic_runtime.cli.inputs import as_seen
    from sdic_runtime.folders import BASELINE, INVERSION, INVERTED, SIDE_BY_SIDE
    from sdic_runtime.sheets import save_picture, sheet

    (inverted,) = inversion.images
    yield save_picture(inverted, goal.main(INVERTED))
    if save:
        inversion.save(goal.path(INVERSION))
        yield goal.path(INVERSION)
    if not (side_by_side or baseline):
        return
    (alone,) = pipeline.baseline(inversion).images
    if baseline:
        yield save_picture(alone, goal.path(BASELINE))
    if side_by_side:
        captions = ("input", "baseline", pipeline.bundle.manifest.method.upper())
        yield save_picture(sheet([(as_seen(pipeline, picture), alone, inverted)], captions), goal.path(SIDE_BY_SIDE))
