"""Options that several commands share, and how a command gets its pipeline. Only light imports at the top."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sdic_runtime.pipeline import Pipeline


@dataclass
class Settings:
    """What holds for one call of `sdic-run`, whichever command runs."""

    debug: bool = False


class Eq6(str, Enum):
    """Which latent code the edited layer-7 feature of Eq. 6 comes from."""

    paper = "paper"
    released = "released"


def remember_debug(context: typer.Context, value: bool) -> bool:
    """Let `--debug` count wherever it stands, before or after the command's name."""
    settings = context.find_root().obj
    if value and isinstance(settings, Settings):
        settings.debug = True
    return value


Debug = Annotated[bool, typer.Option("--debug", callback=remember_debug, help="Show the traceback of an error.")]
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle folder; the embedded demo bundle when left out.")
]
BackendOption = Annotated[str, typer.Option("--backend", help="auto, onnxruntime, tensorrt, tensorrt-rtx, torch or any installed backend.")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Precision of the graphs, such as fp32 or fp16; the bundle's default when left out.")
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Weights for the torch backend; those the bundle records when left out.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR|FILE", help="Folder, or file for a single result; the current folder when left out."),
]
SourceArgument = Annotated[
    Path, typer.Argument(metavar="IMG|INVERSION", help="A picture, or an inversion saved as .safetensors.", show_default=False)
]
Eq6Option = Annotated[Eq6, typer.Option("--eq6", help="Form of Eq. 6: the paper's, or the one in the released code.")]


DEMO_NOTICE = "using the embedded demo bundle (drawn portraits); name your own with --bundle"


def notice(text: str) -> None:
    """Tell the user something that is not a result."""
    typer.echo(text, err=True)


def load_pipeline(bundle: Path | None, backend: str, precision: str | None = None, checkpoint: Path | None = None) -> Pipeline:
    """The pipeline of a bundle, saying on standard error when the demo bundle is used and which backend `auto` took."""
    from sdic_runtime.backends.options import parse_backend
    from sdic_runtime.pipeline import Pipeline

    if bundle is None:
        notice(DEMO_NOTICE)
    name, options = parse_backend(backend)
    pipeline = Pipeline.load(bundle, backend=name, **{"precision": precision, "checkpoint": checkpoint, **options})
    if pipeline.reason:
        notice(f"backend: {pipeline.reason}")
    return pipeline
