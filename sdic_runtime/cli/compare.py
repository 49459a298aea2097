"""`sdic-run compare`: two backends on one bundle, stage by stage, or several bundles on one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.subjects import Wishes
    from sdic_runtime.tools.compare import Comparison

BUNDLES_HELP = "Bundle folder; the embedded demo bundle when omitted. Repeat it to compare bundles instead of backends."
EDIT_HELP = "Edit to compare, for several bundles as often as you like; of one bundle the first direction when omitted."
RUNS = 3
ONE, SEVERAL = "compares backends on one bundle", "compares several bundles"


def run(
    picture: Annotated[Path, typer.Argument(metavar="IMG", help="The picture that all invert.", show_default=False)],
    bundles: Annotated[list[Path] | None, typer.Option("--bundle", metavar="DIR", help=BUNDLES_HELP)] = None,
    edits: Annotated[list[str] | None, typer.Option("--edit", metavar="NAME[:STRENGTH]", help=EDIT_HELP)] = None,
    pca: options.PcaOption = None,
    face: options.FaceOption = None,
    aligned: options.AlignedOption = False,
    backend: Annotated[
        str | None, typer.Option(help="The backend examined (onnxruntime), or of all bundles (auto).", show_default=False)
    ] = None,
    precision: options.PrecisionOption = None,
    against: Annotated[str | None, typer.Option(help="The backend that is taken as right; torch when omitted.", show_default=False)] = None,
    against_precision: Annotated[str | None, typer.Option(help="Precision of --against; the bundle's default when omitted.")] = None,
    swap: Annotated[str | None, typer.Option(metavar="STAGE", help="Run only this stage on --backend, all others on --against.")] = None,
    checkpoint: options.CheckpointOption = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest difference / standard deviation that passes; else the bundle's.")] = None,
    out: options.OutOption = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Measured calls for each time; 3 when omitted.", show_default=False)] = None,
    identity: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the identity network: adds the column ID.")] = None,
    perceptual: Annotated[
        Path | None, typer.Option(metavar="FILE[,FILE]", help="Weights of AlexNet and LPIPS, or a portrait reader: adds LPIPS.")
    ] = None,
    json_file: options.JsonOption = None,
    debug: options.Debug = False,
) -> None:
    """Compare two backends, or bundles.

    With one bundle: how far apart two backends are on one picture. Each stage is given the same inputs on both, those of
    --against; then the whole inversion and one edit are compared. The exit code is 1 when a difference exceeds the
    tolerance.

    With several: one sheet, NAME.compared.png, of the input, each bundle's inversion and edits, and one Markdown table of
    how close and how fast each is. A bundle that fails says why in its row, and the exit code is 2.

    \b
    Example:
      sdic-run compare portrait.png --backend tensorrt --against torch --swap dicn
      sdic-run compare portrait.png --bundle engines/hfgi --bundle engines/sdic --edit smile:2
    """
    from sdic_runtime.cli.reports import check_report

    one = {
        "--against": against, "--against-precision": against_precision, "--swap": swap, "--checkpoint": checkpoint, "--tolerance": tolerance
    }  # fmt: skip
    wishes = options.wishes(face, aligned=aligned)
    several = {"--out": out, "--runs": runs, "--identity": identity, "--perceptual": perceptual}
    if len(bundles or ()) > 1:
        _refuse(one, ONE, SEVERAL)
        check_report(json_file)
        from sdic_runtime.cli.compared import Order, compare_and_report

        networks = {"identity": identity, "perceptual": perceptual}
        order = Order(picture, bundles or [], edits or [], pca, backend or "auto", precision, runs or RUNS, networks, wishes)
        return compare_and_report(order, out, json_file)
    _refuse(several, SEVERAL, ONE)
    check_report(json_file)
    wanted = {
        "swap": swap,
        "precision": precision,
        "against_precision": against_precision,
        "checkpoint": checkpoint,
        "tolerance": tolerance,
    }
    _backends(bundles[0] if bundles else None, picture, backend or "onnxruntime", against or "torch", edits, pca, wishes, wanted, json_file)


def _refuse(values: Mapping[str, object], what: str, here: str) -> None:
    """Raise ArgumentError for an option of the other comparison."""
    from sdic_runtime.errors import ArgumentError

    given = next((name for name, value in values.items() if value is not None), None)
    if given is not None:
        number = "one --bundle" if what == ONE else "two --bundle or more"
        raise ArgumentError(f"{given} {what}, and this call {here}; omit it, or give {number}")


def _backends(
    bundle: Path | None,
    picture: Path,
    backend: str,
    against: str,
    edits: Sequence[str] | None,
    pca: Path | None,
    wishes: Wishes,
    wanted: Mapping[str, Any],
    json_file: Path | None,
) -> None:
    """Two backends on one bundle."""
    from sdic_runtime.cli.inputs import compared_picture
    from sdic_runtime.cli.reports import report
    from sdic_runtime.edit_orders import EditOrder
    from sdic_runtime.errors import ArgumentError
    from sdic_runtime.tools.compare import compare_backends

    if len(edits or ()) > 1:
        raise ArgumentError(f"two backends are compared on one edit, and --edit is given {len(edits or ())} times; give it once")
    options.check_checkpoint([backend, against], wanted["checkpoint"])
    options.notice(options.DEMO_NOTICE if bundle is None else "")
    order = EditOrder.parse(edits[0], pca) if edits else None
    taken = compared_picture(picture, [bundle], wishes)
    comparison = compare_backends(bundle, taken, backend, against, order=order, **wanted)
    report(comparison.as_dict(), json_file, lambda: show(comparison))
    if not comparison.passed:
        first = comparison.excessive[0]
        where = f"{len(comparison.excessive)} tensors are above the tolerance, first {first.where} {first.tensor}"
        options.notice(f"{where}: it differs by {first.ratio:.1e} of its standard deviation, and {comparison.tolerance:.1e} is allowed")
        raise typer.Exit(1)


def show(comparison: Comparison) -> None:
    """Print the table of two backends."""
    from sdic_runtime.cli.reports import decibels, scientific, table

    typer.echo(f"{comparison.backend}\nagainst {comparison.against}\n")
    rows = []
    for item in comparison.differences:
        verdict = "" if item.ratio <= comparison.tolerance else "above the tolerance"
        numbers = scientific(item.largest), scientific(item.ratio), decibels(item.psnr), f"{item.cosine:.7f}"
        rows.append((item.where, item.tensor, *numbers, verdict))
    typer.echo(table(("where", "tensor", "largest", "over std", "PSNR dB", "cosine", ""), rows, left=2))
    typer.echo(f"\ntolerance {comparison.tolerance:.1e} of each tensor's standard deviation: {'passed' if comparison.passed else 'failed'}")
