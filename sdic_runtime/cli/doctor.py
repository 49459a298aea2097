"""`sdic-run doctor`: look over this machine, bundles and checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.tools.doctor import Section

MARKS = {"ok": "ok  ", "note": "note", "problem": "BAD "}


def run(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Bundle folders, checkpoints or any other file.")] = None,
    debug: options.Debug = False,
) -> None:
    """Check this machine, bundles and files.

    Looks at Python, packages, GPU and backends, then at the bundles and checkpoint files named. The exit code is 2 when
    something named is broken or missing.

    \b
    Example:
      sdic-run doctor engines/ffhq1024 SDIC_ffhq.pt e4e_ffhq_encode.pt
    """
    from sdic_runtime.tools.doctor import examine, examine_machine

    for section in examine_machine():
        show(section)
    sound = True
    for section in map(examine, paths or []):
        show(section)
        sound = sound and section.sound
    if not sound:
        raise typer.Exit(2)


def show(section: Section) -> None:
    """Print one section: a title and one line per finding."""
    typer.echo(section.title)
    width = max((len(finding.subject) for finding in section.findings), default=0)
    for finding in section.findings:
        typer.echo(f"  {MARKS[finding.level]} {finding.subject:{width}}  {finding.text}")
