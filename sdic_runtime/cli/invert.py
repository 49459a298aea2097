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
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.subjects import Subject


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
    face: options.FaceOption = None,
    crop_only: options.CropOnlyOption = False,
    aligned: options.AlignedOption = False,
    keep: options.KeepOption = None,
    crop: options.CropOption = False,
    ignore_profiles: options.IgnoreProfilesOption = False,
    batch: options.BatchOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    debug: options.Debug = False,
) -> None:
    """Invert pictures.

    Writes what the generator makes of each as NAME.inverted.png and prints the path of every file written. With a model
    of aligned faces, pictures are photographs: the largest face is found, aligned, inverted and pasted back. A picture
    that cannot be used is named on standard error; the others are still written, and the exit code is 2.

    \b
    Example:
      sdic-run invert portrait.png holiday/ --out inverted --save --side-by-side
    """
    from sdic_runtime.cli.inputs import subject_at
    from sdic_runtime.cli.targets import targets
    from sdic_runtime.errors import ArgumentError, FileError, PictureError
    from sdic_runtime.files import name_is_too_long
    from sdic_runtime.folders import pictures_in, skipped_notice
    from sdic_runtime.progress import progress, say
    from sdic_runtime.subjects import Reader, inverted

    wishes = options.wishes(face, crop_only, aligned, None, keep, crop)
    pictures, skipped = pictures_in(sources)
    goals = targets(pictures, out)
    options.notice(skipped_notice(skipped))
    failed = 0
    with options.load_pipeline(bundle, backend, precision, checkpoint, ignore_profiles) as pipeline:
        reader = Reader(pipeline.bundle.manifest, wishes, pipeline.profiles)
        if keep and not reader.photographs:
            raise ArgumentError("--keep of an inversion is for photographs with a model of aligned faces; omit it")
        results = inverted(pipeline, goals, lambda goal: subject_at(reader, goal.source), batch)
        for result in progress(results, "inversions", total=len(goals)):
            for text in result.subject.notices if result.subject else ():
                say(text, error=True)
            if result.subject is None or result.inversion is None:
                failed += 1
                say(f"error: {result.error}", error=True)
                continue
            try:
                for path in _written(pipeline, result.item, result.subject, result.inversion, save, side_by_side, baseline):
                    say(str(path))
            except FileError as error:
                if not name_is_too_long(error):  # another one would not be written either
                    raise
                failed += 1
                say(f"error: {error}", error=True)
    if failed and len(goals) > 1:
        raise PictureError(f"{failed} of {len(goals)} pictures could not be inverted; they are named above")
    if failed:
        raise typer.Exit(2)


def _written(
    pipeline: Pipeline, goal: Target, subject: Subject, inversion: Inversion, save: bool, side_by_side: bool, baseline: bool
) -> Iterator[Path]:
    """Write what was asked for about one picture, and give each path."""
    from sdic_runtime.cli.inputs import as_seen
    from sdic_runtime.cli.targets import each
    from sdic_runtime.folders import BASELINE, INVERSION, INVERTED, SIDE_BY_SIDE, of_photo
    from sdic_runtime.sheets import save_picture, sheet

    ending = of_photo(INVERTED, goal.source) if subject.photo and not subject.wishes.crop_only else INVERTED
    if subject.whole:
        yield subject.save(subject.pasted(inversion.images), goal.main(ending))
    else:
        for one, image in zip(each(goal, len(inversion)), inversion.images, strict=True):
            yield save_picture(image, one.main(ending))
    if save:
        inversion.save(goal.path(INVERSION))
        yield goal.path(INVERSION)
    if not (side_by_side or baseline):
        return
    captions = ("input", "baseline", pipeline.bundle.manifest.method.upper())
    singles = zip(
        each(goal.unnamed(), len(inversion)), subject.pictures, pipeline.baseline(inversion).images, inversion.images, strict=True
    )
    for one, picture, alone, image in singles:
        if baseline:
            yield save_picture(alone, one.path(BASELINE))
        if side_by_side:
            yield save_picture(sheet([(as_seen(pipeline, picture), alone, image)], captions), one.path(SIDE_BY_SIDE))
