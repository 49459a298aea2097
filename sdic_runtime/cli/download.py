"""`sdic-run download`: fetch public checkpoints and directions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.tools.download import Fetched

FROM_HELP = """Folder, file or address to fetch from, instead of the public places; may be given several times, tried in this order. The
environment variable SDIC_DOWNLOAD_FROM may hold such places too, separated by ";"."""


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="A file, or a model such as hyperstyle for all its files.")
    ] = None,
    places: Annotated[list[str] | None, typer.Option("--from", metavar="URL|FOLDER", help=FROM_HELP)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")] = Path(),
    accept: Annotated[bool, typer.Option("--accept-licence", help="Agree to the licences of the files named.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name that is another.")] = False,
    json_file: options.JsonOption = None,
    debug: options.Debug = False,
) -> None:
    """Fetch public checkpoints and directions.

    Without a name, lists the files: size, hash, licence, what they are for. A broken download is continued by the same command; a file
    appears only when it is whole and its published hash is right.

    \b
    Example:
      sdic-run download hyperstyle --out weights --accept-licence
      sdic-run download e4e_ffhq_encode.pt --from https://mirror.example/weights --from /mnt/weights
    """
    from sdic_runtime.cli.reports import STANDARD_OUTPUT, check_report, report
    from sdic_runtime.tools.download import DownloadOptions, agree, fetch, places_of_environment
    from sdic_runtime.tools.public_files import wanted

    check_report(json_file)
    if not names:
        show_list(json_file)
        return
    entries = list({entry.name: entry for name in names for entry in wanted(name)}.values())
    asked = sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()
    agree(entries, accept, (lambda question: typer.confirm(question, err=True)) if asked else None)
    settings = DownloadOptions(out, tuple(places or ()) or places_of_environment(), force)
    data: list[dict[str, str | None]] = []
    for entry in entries:
        row = dict.fromkeys(("name", "path", "sha256", "from", "error")) | {"name": entry.name}
        try:
            fetched = fetch(entry, settings)
        except ValueError as error:  # SdicError, of one file; the others may still come
            if len(entries) == 1:
                raise
            row["error"] = str(error)
            options.notice(f"error: {error}")
        else:
            row |= {"path": str(fetched.path), "sha256": fetched.sha256, "from": fetched.place}
            show(fetched, printed=str(json_file) != STANDARD_OUTPUT)
        data.append(row)
    report(data, json_file, lambda: None)
    if any(row["error"] for row in data):
        raise typer.Exit(2)


def show(fetched: Fetched, printed: bool) -> None:
    """The path on standard output, where it is `printed`; what is known of the file on standard error."""
    came = "was there already" if fetched.place is None else f"from {fetched.place}"
    options.notice(f"{fetched.entry.name}: {came}, SHA-256 {fetched.sha256}, {fetched.checked}")
    if printed:
        typer.echo(fetched.path)


def show_list(json_file: Path | None) -> None:
    """Every public file that is known."""
    from sdic_runtime.cli.reports import report, table
    from sdic_runtime.tools.public_files import PUBLIC_FILES

    data = [
        {
            "name": entry.name,
            "what": entry.what,
            "bytes": entry.bytes,
            "sha256": entry.sha256,
            "licence": entry.licence,
            "consent": entry.consent,
            "use": entry.use,
            "models": list(entry.models),
            "addresses": list(entry.addresses),
            "page": entry.page,
        }
        for entry in PUBLIC_FILES
    ]

    def show_tables() -> None:
        for entry in PUBLIC_FILES:
            fetched = "browser only" if not entry.addresses and entry.page else "no place known" if not entry.places else ""
            size = f"{entry.bytes:,} bytes" if entry.bytes else "size unknown"
            digest = f"SHA-256 {entry.sha256}" if entry.sha256 else "SHA-256 unknown"
            typer.echo(f"{entry.name}: {entry.what}")
            typer.echo(f"  {', '.join(filter(None, (size, digest, fetched)))}")
            typer.echo(f"  for {entry.use}; {entry.licence}")
        models = sorted({model for entry in PUBLIC_FILES for model in entry.models})
        rows = [[model, ", ".join(entry.name for entry in PUBLIC_FILES if model in entry.models)] for model in models]
        typer.echo("\n" + table(["model", "files"], rows, left=2))

    report(data, json_file, show_tables)
