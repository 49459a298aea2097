"""`sdic-run sweep`: one edit at many strengths, as a strip and as an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdic_runtime.edits import EditLike
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.subjects import Subject

MOST_STEPS = 200
RANGE_HELP = "The end of the useful range when omitted."


def run(
    source: options.SourceArgument,
    edits: options.EditOption = None,
    pca: options.PcaOption = None,
    first: Annotated[float | None, typer.Option("--from", help=f"First strength; times that of --edit. {RANGE_HELP}")] = None,
    last: Annotated[float | None, typer.Option("--to", help=f"Last strength. {RANGE_HELP}")] = None,
    steps: Annotated[int, typer.Option(min=2, max=MOST_STEPS, help="How many strengths, both ends included.")] = 7,
    move: options.MoveOption = None,
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    out: options.OutOption = None,
    face: options.FaceOption = None,
    crop_only: options.CropOnlyOption = False,
    aligned: options.AlignedOption = False,
    paste: options.PasteOption = None,
    keep: options.KeepOption = None,
    crop: options.CropOption = False,
    photo: options.PhotoOption = None,
    ignore_profiles: options.IgnoreProfilesOption = False,
    batch: options.BatchOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    debug: options.Debug = False,
) -> None:
    """Edit a picture at many strengths.

    They go through the useful range of the edit (see: sdic-run directions), or from -3 to 3 where that is not known. Writes
    for each --edit a strip with captions and an animation back and forth, NAME.EDIT.strip.png and NAME.EDIT.gif; with a model
    of aligned faces they show the whole photograph, or with --crop-only the face.

    \b
    Example:
      sdic-run sweep portrait.png --edit smile --steps 7
    """
    from sdic_runtime.cli.inputs import existing, inversion_of, masks_of
    from sdic_runtime.cli.targets import each, targets
    from sdic_runtime.edits import UNKNOWN_RANGE, check_number
    from sdic_runtime.errors import ArgumentError
    from sdic_runtime.folders import STRIP
    from sdic_runtime.sheets import back_and_forth, save_animation, save_picture, sheet

    wishes = options.wishes(face, crop_only, aligned, paste, keep, crop)
    given = [check_number(value, name) for name, value in (("--from", first), ("--to", last)) if value is not None]
    (target,) = targets([existing(source)], out)
    if target.named is not None:
        raise ArgumentError(f"--out names one file, {out}, and a sweep writes a strip and an animation; give a folder instead")
    with options.load_pipeline(bundle, backend, precision, checkpoint, ignore_profiles) as pipeline:
        orders = options.edit_orders(pipeline, edits, pca, given, "name")
        extras = masks_of(pipeline, source, wishes, photo)
        inversion, subject = inversion_of(pipeline, source, wishes, photo, batch)
        for order in orders:
            low, high = order.strength_range(pipeline.bundle, pipeline.directions) or UNKNOWN_RANGE
            strengths = evenly_spaced(low if first is None else first, high if last is None else last, steps)
            captions = [f"{strength:+.3g}" if strength else "0" for strength in strengths]
            edit = order.edit(pipeline.bundle, pipeline.directions)
            rows = [edited_frames(pipeline, single, edit, strengths, move, batch, extras) for single in inversion]
            goals = each(target, len(inversion))
            if subject is not None and subject.whole:
                rows, goals = [_photographs(subject, inversion.images, rows)], [target]
            for one, frames in zip(goals, rows, strict=True):
                typer.echo(save_picture(sheet([frames], captions), one.path(f".{order.name}{STRIP}")))
                typer.echo(save_animation(back_and_forth(frames), one.path(f".{order.name}.gif")))


def _photographs(subject: Subject, bases: Sequence[Image.Image], rows: Sequence[Sequence[Image.Image]]) -> list[Image.Image]:
    """The whole photograph at each strength, of a size to look at; `rows`: the frames of each face."""
    from sdic_runtime.sheets import reduced

    return [reduced(subject.pasted(images, bases)) for images in zip(*rows, strict=True)]


def evenly_spaced(first: float, last: float, steps: int) -> list[float]:
    """`steps` strengths from `first` to `last`, both included; of -5.9 to 5.9 the middle one is 0, and nothing that only rounds to it."""
    shares = [index / (steps - 1) for index in range(steps)]
    return [first * (1 - share) + last * share for share in shares]


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
