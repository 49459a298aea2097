"""`sdic-run sweep`: one edit at many strengths, as a strip and as an animation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdic_runtime.edits import EditLike
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline

MOST_STEPS = 200


def run(
    source: options.SourceArgument,
    edits: options.EditOption = None,
    pca: options.PcaOption = None,
    first: Annotated[float, typer.Option("--from", help="First strength; times that of --edit.")] = -3.0,
    last: Annotated[float, typer.Option("--to", help="Last strength.")] = 3.0,
    steps: Annotated[int, typer.Option(min=2, max=MOST_STEPS, help="How many strengths, both ends included.")] = 7,
    move: options.MoveOption = None,
    keep: options.KeepOption = None,
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    out: options.OutOption = None,
    batch: options.BatchOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    debug: options.Debug = False,
) -> None:
    """Edit a picture at many strengths.

    Writes for each --edit a strip with captions and an animation back and forth, NAME.EDIT.strip.png and NAME.EDIT.gif.

    \b
    Example:
      sdic-run sweep portrait.png --edit smile --from -3 --to 3 --steps 7
    """
    from sdic_runtime.cli.inputs import existing, inversion_of, masks_of
    from sdic_runtime.cli.targets import each, targets
    from sdic_runtime.errors import ArgumentError
    from sdic_runtime.folders import STRIP
    from sdic_runtime.sheets import back_and_forth, save_animation, save_picture, sheet

    strengths = evenly_spaced(first, last, steps)
    (target,) = targets([existing(source)], out)
    if target.named is not None:
        raise ArgumentError(f"--out names one file, {out}, and a sweep writes a strip and an animation; give a folder instead")
    with options.load_pipeline(bundle, backend, precision, checkpoint) as pipeline:
        orders = options.edit_orders(pipeline, edits, pca)
        extras = masks_of(pipeline, keep)
        inversion = inversion_of(pipeline, source)
        captions = [f"{strength:+.3g}" if strength else "0" for strength in strengths]
        for one, single in zip(each(target, len(inversion)), inversion, strict=True):
            for order in orders:
                edit = order.edit(pipeline.bundle, pipeline.directions)
                frames = edited_frames(pipeline, single, edit, strengths, move, batch, extras)
                typer.echo(save_picture(sheet([frames], captions), one.path(f".{order.name}{STRIP}")))
                typer.echo(save_animation(back_and_forth(frames), one.path(f".{order.name}.gif")))


def evenly_spaced(first: float, last: float, steps: int) -> list[float]:
    """`steps` strengths from `first` to `last`, both included."""
    from sdic_runtime.edits import check_number

    check_number(first, "--from"), check_number(last, "--to")
    return [first + (last - first) * index / (steps - 1) for index in range(steps)]


def edited_frames(
    pipeline: Pipeline,
    inversion: Inversion,
    edit: EditLike,
    strengths: list[float],
    move: str | None = None,
    batch: int | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
) -> list[Image.Image]:
    """One picture per strength, a batch at a time so that the bar moves."""
    from sdic_runtime.progress import progress

    size = batch or pipeline.default_batch
    parts = progress([strengths[start : start + size] for start in range(0, len(strengths), size)], "edits", unit="batch")
    return [image for part in parts for image in pipeline.edit(inversion, edit, part, move=move, batch=size, extras=extras).images]
