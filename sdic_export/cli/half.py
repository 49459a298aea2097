"""`sdic-export half`: half-precision graphs for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug


def half(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle folder.", show_default=False)],
    policy: Annotated[str, typer.Option("--policy", metavar="NAME|FILE", help="fp16, bf16, or the file of a policy.")] = "fp16",
    debug: Debug = False,
) -> None:
    """Add half-precision graphs to a bundle.

    Each stage is checked layer by layer against its float32 graph. Needs no checkpoint.

    \b
    Example:
      sdic-export half engines/ffhq1024
    """
    from sdic_export import report
    from sdic_export.half.stages import HalfProgress, add_precision

    made = add_precision(bundle, policy, HalfProgress(report.show_step, report.show_half_stage))
    typer.echo(f"{made.precision}: the worst picture of the chain has {made.picture.psnr:.1f} dB against fp32 ({made.picture.tensor})")
