"""`sdic-export web`: a bundle as a static site that runs it in the browser."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug


class StoredWeights(str, Enum):
    """How large weights are stored."""

    float16 = "float16"
    float32 = "float32"


def web(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the new site.", show_default=False)],
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web", metavar="DIR|TGZ", help="The npm package onnxruntime-web; npm gets it when omitted.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        StoredWeights, typer.Option("--weights", help="How large weights are stored; the arithmetic is float32.")
    ] = StoredWeights.float16,
    webgpu: Annotated[
        bool, typer.Option("--webgpu/--no-webgpu", help="Also hold what WebGPU needs, 27 MB that only browsers with it load.")
    ] = True,
    pictures: Annotated[
        list[Path] | None, typer.Option("--picture", metavar="FILE", help="Example picture for the page; may be given several times.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the site that is at FOLDER.")] = False,
    debug: Debug = False,
) -> None:
    """Write a static site that runs a bundle in the browser.

    Any web server can serve the folder; pictures stay in the browser. Weights are stored in half precision, and the site is written only
    if its pictures are within 2 of 255 of the bundle's own.

    \b
    Example:
      sdic-export web engines/ffhq1024 site && python -m http.server --directory site
    """
    from sdic_export import report
    from sdic_export.web.site import WebOptions, write_site

    options = WebOptions(bundle, folder, onnxruntime_web, weights.value, webgpu, pictures or [], force)
    site = write_site(options, report.show_step)
    typer.echo(f"{folder}: a bundle of {site.bundle_bytes / report.MEGA:.1f} MB, its pictures within {site.worst} of 255 of the original's")
