"""`sdic-run directions`: what a bundle can be edited along."""

from __future__ import annotations

import typer

from sdic_runtime.cli import options


def run(bundle: options.BundleOption = None, json_file: options.JsonOption = None, debug: options.Debug = False) -> None:
    """List what a bundle can be edited along.

    Its directions with their kinds and useful strengths, and the presets that it can run.

    \b
    Example:
      sdic-run directions --bundle engines/ffhq1024
    """
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.cli.reports import check_report, report, table
    from sdic_runtime.tools.list_directions import listed

    check_report(json_file)
    options.notice(options.DEMO_NOTICE if bundle is None else "")
    entries = listed(Bundle.open(bundle))

    def show() -> None:
        if not entries:
            typer.echo("this bundle has no directions; add some with: sdic-export directions add BUNDLE FILE")
            return
        rows = [(entry.name, entry.kind, entry.useful, entry.rows, entry.made) for entry in entries]
        typer.echo(table(("name", "kind", "useful strengths", "rows", "made by"), rows, left=5))

    report([entry.as_dict() for entry in entries], json_file, show)
