"""Options that several commands share, and how a command gets its pipeline. Only light imports at the top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sdic_runtime.edit_orders import EditOrder
    from sdic_runtime.pipeline import Pipeline
    from sdic_runtime.subjects import Wishes


def _remember_debug(context: typer.Context, value: bool) -> bool:
    """Let `--debug` count wherever it stands, before or after the command's name."""
    if value and isinstance(settings := context.find_root().obj, dict):
        settings["debug"] = True
    return value


Debug = Annotated[bool, typer.Option("--debug", callback=_remember_debug, help="Show the traceback of an error.")]
BundleOption = Annotated[Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle folder; the embedded demo bundle when omitted.")]
BACKEND_HELP = "auto, onnxruntime, openvino, tensorrt, tensorrt-rtx, torch or any installed backend, with options."
BackendOption = Annotated[str, typer.Option("--backend", metavar="NAME[:KEY=VALUE,...]", help=BACKEND_HELP)]
PRECISION_HELP = "fp32, fp16, bf16, or auto: bf16 where that is faster, saying what it costs. The bundle's default when omitted."
PrecisionOption = Annotated[str | None, typer.Option("--precision", help=PRECISION_HELP)]
CHECKPOINT_HELP = "Weights for a backend that reads a checkpoint, such as torch; those the bundle records if omitted."
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", metavar="FILE", help=CHECKPOINT_HELP)]
OUT_HELP = "Folder, or file for a single result; when omitted that of a saved inversion, else the current one."
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR|FILE", help=OUT_HELP)]
SOURCE_HELP = "A picture (- for standard input), or an inversion saved as .safetensors."
SourceArgument = Annotated[Path, typer.Argument(metavar="IMG|INVERSION", help=SOURCE_HELP)]
BatchOption = Annotated[int | None, typer.Option("--batch", min=1, help="Pictures computed at once; by the model's size when omitted.")]
EDIT_HELP = """Direction of the bundle, direction file, preset (all are listed by: sdic-run directions), GANSpace component
INDEX/START/END/SIGMA or style channel LAYER/CHANNEL; several at once with commas. Repeat it for several results."""
EditOption = Annotated[list[str] | None, typer.Option("--edit", metavar="NAME[:STRENGTH]", help=EDIT_HELP)]
PCA_HELP = "PCA basis for GANSpace edits; the bundle's own when omitted."
PcaOption = Annotated[Path | None, typer.Option("--pca", metavar="FILE", help=PCA_HELP)]
MOVE_HELP = "Form of the edit, of those the bundle has; of SDIC's Eq. 6: paper, released."
MoveOption = Annotated[str | None, typer.Option("--move", "--eq6", metavar="NAME", help=MOVE_HELP)]
JSON_HELP = 'Write the numbers as JSON; "-" prints them instead of the tables.'
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help=JSON_HELP)]
FACE_HELP = "Of a photograph with several faces: all, largest (as when omitted), or which one, by size from 1."
FaceOption = Annotated[str | None, typer.Option("--face", metavar="N|all|largest", help=FACE_HELP)]
CropOnlyOption = Annotated[bool, typer.Option("--crop-only", help="Write the face's crop alone, not the whole photograph.")]
ALIGNED_HELP = "The picture is an aligned crop already; look for no face in it."
AlignedOption = Annotated[bool, typer.Option("--aligned", help=ALIGNED_HELP)]
PASTE_HELP = "difference (when omitted) adds what the edit changed to the photograph, replace puts the model's picture into it."
PasteOption = Annotated[str | None, typer.Option("--paste", metavar="difference|replace", help=PASTE_HELP)]
KEEP_HELP = """What no edit of a photograph may change: background, or a mask of its size, white where nothing changes; may be repeated.
Of a picture taken whole, a mask for methods whose edits take one."""
KeepOption = Annotated[list[str] | None, typer.Option("--keep", metavar="background|FILE", help=KEEP_HELP)]
CROP_HELP = "Of a picture that is taken whole and has another shape than the model's, take the middle instead of squashing it."
CropOption = Annotated[bool, typer.Option("--crop", help=CROP_HELP)]
PHOTO_HELP = "Of a saved inversion: the photograph that it is of, for the result to be pasted into."
PhotoOption = Annotated[Path | None, typer.Option("--photo", metavar="FILE", help=PHOTO_HELP)]
PROFILES_HELP = "Take the pictures' numbers as they are, as the release does, instead of converting their colour profiles to sRGB."
IgnoreProfilesOption = Annotated[bool, typer.Option("--ignore-profiles", help=PROFILES_HELP)]

DEMO_NOTICE = "using the embedded demo bundle (synthetic portraits); name your own with --bundle"


def notice(text: str) -> None:
    """Tell the user something that is not a result."""
    if text:
        typer.echo(text, err=True)


def wishes(
    face: str | None = None,
    crop_only: bool = False,
    aligned: bool = False,
    paste: str | None = None,
    keep: Sequence[str] | None = None,
    crop: bool = False,
) -> Wishes:
    """What the options say about photographs. Raises ArgumentError for those that contradict each other."""
    from sdic_runtime.subjects import Wishes

    return Wishes(face, crop_only, aligned, paste, tuple(keep or ()), crop)


def load_pipeline(
    bundle: Path | None, backend: str, precision: str | None = None, checkpoint: Path | None = None, ignore_profiles: bool = False
) -> Pipeline:
    """The pipeline of a bundle, saying on standard error when the demo bundle is used, and `Pipeline.notices`."""
    from sdic_runtime.pipeline import Pipeline

    check_checkpoint([backend], checkpoint)
    notice(DEMO_NOTICE if bundle is None else "")
    pipeline = Pipeline.load(bundle, backend=backend, precision=precision, checkpoint=checkpoint, profiles=not ignore_profiles)
    for text in pipeline.notices:
        notice(text)
    return pipeline


def check_checkpoint(backends: Sequence[str], checkpoint: Path | None) -> None:
    """One rule for `--checkpoint`: it goes to those backends of the command that read one. Raises ArgumentError where none does."""
    from sdic_runtime.backends.registry import available_backends, parse_backend
    from sdic_runtime.errors import ArgumentError

    if checkpoint is None:
        return
    known = available_backends()
    names = [parse_backend(text)[0] for text in backends]
    options = [known[name].options() if name in known else {} for name in names]
    # A backend that is not installed has no options to look at; opening it says what is missing.
    if not any("checkpoint" in each or "**" in each or not each for each in options) or names == ["auto"]:
        raise ArgumentError(f"--checkpoint is for a backend that reads one, such as torch; here it would go to {', '.join(names)}")


def edit_orders(
    pipeline: Pipeline, texts: Sequence[str] | None, pca: Path | None, factors: Sequence[float] = (1.0,), called: str = "label"
) -> list[EditOrder]:
    """What `--edit` asks for, each once and checked against the bundle; a strength, times `factors`, beyond its useful range is warned of.
    `called`: see `edit_orders.parsed`. Raises SdicError."""
    from sdic_runtime.edit_orders import parsed
    from sdic_runtime.errors import ArgumentError

    if not texts:
        raise ArgumentError(f"give at least one --edit; the bundle's directions are: {', '.join(pipeline.directions) or 'none'}")
    orders = parsed(texts, pca, called)
    for order in orders:
        order.edit(pipeline.bundle, pipeline.directions)
        for sentence in order.excesses(pipeline.bundle, pipeline.directions, factors):
            notice(f"warning: {sentence}")
    return orders
