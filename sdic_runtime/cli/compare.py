"""`sdic-run compare`: compare two backends, stage by stage and end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.tools.compare import Comparison


def run(
    picture: Annotated[Path, typer.Argument(metavar="IMG", help="The picture that both invert.", show_default=False)],
    backend: Annotated[str, typer.Option(help="The backend that is examined.")] = "onnxruntime",
    against: Annotated[str, typer.Option(help="The backend that is taken as right.")] = "torch",
    swap: Annotated[str | None, typer.Option(metavar="STAGE", help="Run only this stage on --backend, all others on --against.")] = None,
    edit: Annotated[str | None, typer.Option(metavar="NAME[:STRENGTH]", help="Edit to compare; the first direction when omitted.")] = None,
    face: options.FaceOption = None,
    aligned: options.AlignedOption = False,
    bundle: options.BundleOption = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    against_precision: Annotated[str | None, typer.Option(help="Precision of --against; the bundle's default when omitted.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest difference / standard deviation that passes; else the bundle's.")] = None,
    json_file: options.JsonOption = None,
    debug: options.Debug = False,
) -> None:
    """Compare two backends.

    Prints how far apart they are on one picture. Each stage is given the same inputs on both, those of --against; then
    the whole inversion and one edit are compared. The exit code is 1 when a difference exceeds the tolerance.

    \b
    Example:
      sdic-run compare portrait.png --backend tensorrt --against torch --swap dicn
    """
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.cli.inputs import subject_at
    from sdic_runtime.cli.reports import check_report, report
    from sdic_runtime.edit_orders import EditOrder
    from sdic_runtime.subjects import Reader
    from sdic_runtime.tools.compare import compare_backends

    options.check_checkpoint([backend, against], checkpoint)
    check_report(json_file)
    options.notice(options.DEMO_NOTICE if bundle is None else "")
    order = EditOrder.parse(edit) if edit else None
    subject = subject_at(Reader(Bundle.open(bundle).manifest, options.wishes(face, aligned=aligned)), picture)
    for text in subject.notices:
        options.notice(text)
    taken = subject.pictures[0]
    comparison = compare_backends(bundle, taken, backend, against, swap, precision, against_precision, checkpoint, tolerance, order)
    report(comparison.as_dict(), json_file, lambda: show(comparison))
    if not comparison.passed:
        first = comparison.excessive[0]
        where = f"{len(comparison.excessive)} tensors are above the tolerance, first {first.where} {first.tensor}"
        options.notice(f"{where}: it differs by {first.ratio:.1e} of its standard deviation, and {comparison.tolerance:.1e} is allowed")
        raise typer.Exit(1)


def show(comparison: Comparison) -> None:
    """Print the table."""
    from sdic_runtime.cli.reports import decibels, scientific, table

    typer.echo(f"{comparison.backend}\nagainst {comparison.against}\n")
    rows = []
    for item in comparison.differences:
        verdict = "" if item.ratio <= comparison.tolerance else "above the tolerance"
        numbers = scientific(item.largest), scientific(item.ratio), decibels(item.psnr), f"{item.cosine:.7f}"
        rows.append((item.where, item.tensor, *numbers, verdict))
    typer.echo(table(("where", "tensor", "largest", "over std", "PSNR dB", "cosine", ""), rows, left=2))
    typer.echo(f"\ntolerance {comparison.tolerance:.1e} of each tensor's standard deviation: {'passed' if comparison.passed else 'failed'}")
