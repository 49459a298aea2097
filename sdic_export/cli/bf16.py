"""`sdic-export bf16`: what bfloat16 costs a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug


def bf16(bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle folder.", show_default=False)], debug: Debug = False) -> None:
    """Measure bfloat16 on this CPU and record it in a bundle.

    OpenVINO runs the golden pictures in bf16; the manifest then says how far they are off, and --precision auto may take it.

    \b
    Example:
      sdic-export bf16 engines/ffhq1024
    """
    from sdic_export import report
    from sdic_export.reduced import record_cost

    report.show_step("running the golden pictures in bf16")
    report.show_cost(record_cost(bundle))
