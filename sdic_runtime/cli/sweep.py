"""`sdic-run sweep`: one direction at many strengths, as a strip and as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli.options import (
    BackendOption,
    BundleOption,
    CheckpointOption,
    Debug,
    Eq6,
    Eq6Option,
    OutOption,
    PrecisionOption,
    SourceArgument,
    load_pipeline,
)

if TYPE_CHECKING:
    from PIL import Image

    from sdic_runtime.edits import Edit
    from sdic_runtime.inversion import Inversion
    from sdic_runtime.pipeline import Pipeline

NAME = "sweep"
MOST_STEPS = 200


def run(
    source: SourceArgument,
    direction: Annotated[str | None, typer.Option("--direction", help="Direction of the bundle.")] = None,
    direction_file: Annotated[
        Path | None,
        typer.Option("--direction-file", metavar="FILE", help="Direction in a .safetensors, .npz or .npy file, instead of --direction."),
    ] = None,
    first: Annotated[float, typer.Option("--from", help="First strength.")] = -3.0,
    last: Annotated[float, typer.Option("--to", help="Last strength.")] = 3.0,
    steps: Annotated[int, typer.Option("--steps", help="How many strengths, both ends included.")] = 7,
    eq6: Eq6Option = Eq6.paper,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    out: OutOption = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Edits computed at once; chosen by the model's size when left out.")
    ] = None,
    precision: PrecisionOption = None,
    checkpoint: CheckpointOption = None,
    debug: Debug = False,
) -> None:
    """Edit a picture at many strengths.

    Writes a strip with captions and an animation back and forth, NAME.DIRECTION.strip.png and NAME.DIRECTION.gif.

    \b
    Example:
      sdic-run sweep portrait.png --direction smile --from -3 --to 3 --steps 7
    """
    from sdic_runtime.cli.outputs import each, target_of
    from sdic_runtime.cli.sources import existing, inversion_of
    from sdic_runtime.errors import SdicError
    from sdic_runtime.sheets import back_and_forth, save_animation, save_picture, strip

    if not 2 <= steps <= MOST_STEPS:
        raise SdicError(f"--steps is {steps}; give a whole number from 2 to {MOST_STEPS}")
    target = target_of(existing(source), out)
    if target.named is not None:
        raise SdicError(f"--out names one file, {out}, and a sweep writes a strip and an animation; give a folder instead")
    pipeline = load_pipeline(bundle, backend, precision, checkpoint)
    name, edit = chosen_direction(pipeline, direction, direction_file)
    strengths = evenly_spaced(first, last, steps)
    inversion = inversion_of(pipeline, source)
    for one, single in zip(each(target, len(inversion)), inversion, strict=True):
        frames = edited_frames(pipeline, single, edit, strengths, eq6.value, batch)
        captions = [f"{strength:+.3g}" if strength else "0" for strength in strengths]
        typer.echo(save_picture(strip(frames, captions), one.path(f".{name}.strip.png")))
        typer.echo(save_animation(back_and_forth(frames), one.path(f".{name}.gif")))


def chosen_direction(pipeline: Pipeline, name: str | None, path: Path | None) -> tuple[str, Edit]:
    """The one direction that was asked for, checked against the model, under a name that suits a file."""
    from sdic_runtime.cli.edits import direction_of, listed, name_for_file
    from sdic_runtime.edits import as_edit
    from sdic_runtime.errors import SdicError

    if (name is None) == (path is None):
        raise SdicError(f"give either --direction or --direction-file; the bundle's directions are: {listed(pipeline)}")
    label, value = (name, pipeline.directions[name]) if name is not None else direction_of(path)  # type: ignore[arg-type]
    edit = as_edit(value)
    edit.check(pipeline.sizes)
    return name_for_file(label), edit


def evenly_spaced(first: float, last: float, steps: int) -> list[float]:
    """`steps` strengths from `first` to `last`, both included."""
    from sdic_runtime.edits import check_number

    check_number(first, "--from"), check_number(last, "--to")
    return [first + (last - first) * index / (steps - 1) for index in range(steps)]


def edited_frames(
    pipeline: Pipeline, inversion: Inversion, edit: Edit, strengths: list[float], eq6: str, batch: int | None
) -> list[Image.Image]:
    """One picture per strength, a batch at a time so that the bar moves."""
    from sdic_runtime.progress import progress

    size = batch or pipeline.default_batch
    parts = [strengths[start : start + size] for start in range(0, len(strengths), size)]
    return [image for part in progress(parts, "edits", unit="batch") for image in pipeline.edit(inversion, edit, part, eq6, size).images]
