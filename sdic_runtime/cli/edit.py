"""`sdic-run edit`: change a picture along directions in latent space."""

from __future__ import annotations

from typing import Annotated

import typer

from sdic_runtime.cli import options


def run(
    source: options.SourceArgument,
    edits: options.EditOption = None,
    pca: options.PcaOption = None,
    move: options.MoveOption = None,
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    out: options.OutOption = None,
    save: Annotated[bool, typer.Option("--save", help="Also write NAME.safetensors, the inversion, for fast further edits.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Also write a picture of inversion and edit.")] = False,
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
    """Edit a picture.

    Writes one picture for each --edit. With a model of aligned faces, a picture is a photograph: the largest face is
    found, aligned, edited and pasted back into it. An inversion saved by "invert --save" is edited in a fraction of the
    time that a picture takes.

    \b
    Example:
      sdic-run edit portrait.png --edit smile:2,age:-1.5 --edit glasses:2
      sdic-run edit holiday.jpg --bundle engines/ffhq1024 --edit smile:2 --face all --keep background
    """
    from sdic_runtime.cli.inputs import existing, inversion_of, is_inversion, masks_of
    from sdic_runtime.cli.targets import each, targets
    from sdic_runtime.errors import ArgumentError
    from sdic_runtime.folders import INVERSION, SIDE_BY_SIDE, of_photo
    from sdic_runtime.sheets import save_picture, sheet

    wishes = options.wishes(face, crop_only, aligned, paste, keep, crop)
    (target,) = targets([existing(source)], out)
    if save and is_inversion(source):
        raise ArgumentError(f"--save writes the inversion of a picture, and {source} is a saved inversion already; omit --save")
    if target.named and len(edits or []) > 1:
        raise ArgumentError(f"--out names one file, {out}, for {len(edits or [])} edits; give a folder instead")
    with options.load_pipeline(bundle, backend, precision, checkpoint, ignore_profiles) as pipeline:
        orders = options.edit_orders(pipeline, edits, pca)
        extras = masks_of(pipeline, source, wishes, photo)
        inversion, subject = inversion_of(pipeline, source, wishes, photo, batch)
        whole = subject is not None and subject.whole
        goals = each(target.unnamed() if whole else target, len(inversion))
        for order in orders:
            edited = pipeline.edit(inversion, order.edit(pipeline.bundle, pipeline.directions), move=move, batch=batch, extras=extras)
            ending = f".{order.label}.png"
            if subject is not None and subject.photo and not crop_only:
                ending = of_photo(ending, photo or source)
            if whole and subject is not None:
                typer.echo(subject.save(subject.pasted(edited.images, inversion.images), target.main(ending)))
            for one, before, after in zip(goals, inversion.images, edited.images, strict=True):
                if not whole:
                    typer.echo(save_picture(after, one.main(ending)))
                if side_by_side:
                    captions = ("inversion", order.label)
                    typer.echo(save_picture(sheet([(before, after)], captions), one.path(f".{order.label}{SIDE_BY_SIDE}")))
        if save:
            inversion.save(target.path(INVERSION))
            typer.echo(target.path(INVERSION))
