"""`sdic-run video`: edit the faces of a clip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.video import Report

SOURCE_HELP = "A video with a face in it, or a moving picture (GIF, APNG)."
RESULT_HELP = "The result: .mp4, .mov, .mkv or .webm; NAME.EDIT.mp4 in the current folder when omitted."
CODEC_HELP = "Encoder of FFmpeg, such as libx264, libx265, libsvtav1, libvpx-vp9; by the kind of file when omitted."
QUALITY_HELP = "On the encoder's own scale, such as 0 (best) to 51 for libx264; good when omitted."
SMOOTH_HELP = "Seconds over which landmarks are smoothed; 0 for not at all."
SMOOTH_CODES_HELP = "Seconds over which inversions are smoothed; 0 for not at all."


def run(
    source: Annotated[Path, typer.Argument(metavar="CLIP", help=SOURCE_HELP)],
    edit: Annotated[str | None, typer.Option("--edit", metavar="NAME[:STRENGTH]", help=options.EDIT_HELP.partition(" Repeat")[0])] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=RESULT_HELP)] = None,
    pca: options.PcaOption = None,
    move: options.MoveOption = None,
    face: options.FaceOption = None,
    aligned: options.AlignedOption = False,
    paste: options.PasteOption = None,
    keep: options.KeepOption = None,
    codec: Annotated[str | None, typer.Option("--codec", metavar="NAME", help=CODEC_HELP)] = None,
    quality: Annotated[int | None, typer.Option("--quality", metavar="N", help=QUALITY_HELP)] = None,
    smooth: Annotated[float, typer.Option("--smooth", metavar="SECONDS", help=SMOOTH_HELP)] = 0.1,
    smooth_codes: Annotated[float, typer.Option("--smooth-codes", metavar="SECONDS", help=SMOOTH_CODES_HELP)] = 0.04,
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    batch: options.BatchOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    json_file: options.JsonOption = None,
    debug: options.Debug = False,
) -> None:
    """Edit the faces of a video.

    Faces are followed from frame to frame, edited and pasted back. Sound and all times are kept. With a bundle that is
    not for aligned faces, the middle square of each frame is edited. A run that was stopped goes on where it was when
    the same command is given again.

    \b
    Example:
      sdic-run video clip.mp4 --bundle engines/ffhq1024 --edit smile:2 --out smiling.mp4
    """
    from sdic_runtime.cli.reports import check_report, report
    from sdic_runtime.errors import ArgumentError
    from sdic_runtime.progress import say
    from sdic_runtime.subjects import BACKGROUND, DIFFERENCE, FFHQ, LARGEST, mask_of
    from sdic_runtime.video import Settings, Smoothing, edit_video
    from sdic_runtime.video.reader import checked
    from sdic_runtime.video.render import PERSON, SQUARE

    wishes = options.wishes(face, paste=paste, keep=keep)
    checked(source)
    check_report(json_file)
    settings = Settings(
        face=int(face) if face and face.isdecimal() else face or LARGEST,
        paste=paste or DIFFERENCE,
        mask=PERSON if BACKGROUND in wishes.keep else SQUARE,
        keep=mask_of(wishes),
        aligned=aligned,
        codec=codec,
        quality=quality,
        smoothing=Smoothing(smooth, smooth_codes),
        batch=batch,
    )
    with options.load_pipeline(bundle, backend, precision, checkpoint) as pipeline:
        said = "--face" if face else f"--keep {BACKGROUND}" if BACKGROUND in wishes.keep else None
        if said and (aligned or pipeline.bundle.manifest.faces != FFHQ):
            raise ArgumentError(f"{said} is about faces that are found in the frames, and here frames are taken whole; omit it")
        (order,) = options.edit_orders(pipeline, [edit] if edit else None, pca)
        target = out or Path(f"{source.stem}.{order.label}.mp4")
        whole_edit = order.edit(pipeline.bundle, pipeline.directions)
        found = edit_video(pipeline, source, target, whole_edit, 1.0, settings, move=move, say=lambda text: say(text, error=True))
    report({"file": str(target), **asdict(found)}, json_file, lambda: _show(target, found))


def _show(target: Path, found: Report) -> None:
    typer.echo(target)
    before, after = found.flicker
    ratio = "" if found.ratio is None else f", {found.ratio:.2f} times as much"
    shots = f" in {found.shots} shots" if found.shots > 1 else ""
    typer.echo(f"{found.edited} of {found.frames} frames edited, {found.faces} face(s) followed{shots}, {found.seconds:.0f} s")
    typer.echo(f"flicker (mean second difference of 255 inside the face): source {before:.2f}, result {after:.2f}{ratio}")
