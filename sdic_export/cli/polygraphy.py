"""`sdic-export polygraphy`: a bundle's stages for NVIDIA's Polygraphy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug

PRECISION_HELP = "Precision of the graphs, of those that the bundle holds, such as fp16; its default when omitted."


def polygraphy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the files.", show_default=False)],
    precision: Annotated[str | None, typer.Option("--precision", help=PRECISION_HELP)] = None,
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME[:KEY=VALUE,...]", help="What computes inputs, and outputs that are not golden.")
    ] = "onnxruntime:cpu_graphs=false",
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="How many of the golden pictures.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder that an earlier run wrote.")] = False,
    debug: Debug = False,
) -> None:
    """Write what NVIDIA Polygraphy needs to compare stages.

    One folder per stage: inputs and outputs in Polygraphy's JSON, a data loader, scripts that compare the stage on ONNX Runtime and
    TensorRT with them, and one that finds the first tensor that is off. Prints the stages.

    \b
    Example:
      sdic-export polygraphy engines/ffhq1024 debug
      sh debug/generator_tail/tensorrt.sh
    """
    from sdic_export import report
    from sdic_export.polygraphy_files import PolygraphyOptions, write_polygraphy

    for stage in write_polygraphy(PolygraphyOptions(bundle, folder, precision, backend, pictures, force), report.show_step):
        typer.echo(stage)
