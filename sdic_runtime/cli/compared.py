"""What `sdic-run compare` does with several bundles: the sheet, the table, and the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sdic_runtime.cli import options
from sdic_runtime.tools.compare_bundles import Outcome, Plan, compare_bundles, judging_width

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdic_runtime.subjects import Wishes

CELL = 512  # pixels: how high a picture of the sheet is at most
INVERSION = "inversion"


@dataclass(frozen=True)
class Order:
    """What was asked for. `networks`: name of a judge -> its weights."""

    source: Path
    bundles: Sequence[Path]
    edits: Sequence[str]
    pca: Path | None
    backend: str
    precision: str | None
    runs: int
    networks: Mapping[str, Path | None]
    wishes: Wishes


def compare_and_report(order: Order, out: Path | None, json_file: Path | None) -> None:
    """Run every bundle, write the sheet, print the table. Raises SdicError for what is wrong with the call, and Exit(2) where a bundle
    failed."""
    from sdic_runtime.cli.inputs import compared_picture, existing
    from sdic_runtime.cli.reports import report
    from sdic_runtime.cli.targets import targets
    from sdic_runtime.edit_orders import parsed
    from sdic_runtime.folders import COMPARED
    from sdic_runtime.progress import progress
    from sdic_runtime.sheets import save_picture
    from sdic_runtime.tools.judges import COLUMNS, load_judge

    (target,) = targets([existing(order.source)], out)
    edits = parsed(order.edits, order.pca)
    picture = compared_picture(order.source, order.bundles, order.wishes)  # once, and refused before any bundle is opened
    judges = {COLUMNS[name]: load_judge(name, weights) for name, weights in order.networks.items() if weights is not None}
    plan, width = Plan(picture, edits, order.backend, order.precision, order.runs, judges), judging_width(order.bundles)
    outcomes = list(progress(compare_bundles(order.bundles, plan, width), "bundles", total=len(order.bundles), unit="bundle"))
    data = {"picture": str(order.source), "width": width, "runs": order.runs, "bundles": [outcome.as_dict() for outcome in outcomes]}
    sheet = save_picture(_sheet(outcomes, plan), target.main(COMPARED)) if any(outcome.inversion for outcome in outcomes) else None
    report(data | {"sheet": str(sheet) if sheet else None}, json_file, lambda: show(outcomes, plan, width, sheet))
    for outcome in outcomes:
        for text in outcome.notices:
            options.notice(f"{outcome.label}: {text}")
        for problem in outcome.problems:
            options.notice(f"error: {outcome.label}: {problem}")
    if any(outcome.problems for outcome in outcomes):
        raise typer.Exit(2)


def show(outcomes: Sequence[Outcome], plan: Plan, width: int, sheet: Path | None) -> None:
    """Print the table, how it was measured, and where the sheet is."""
    from sdic_runtime.cli.reports import markdown

    columns = ("SSIM", "PSNR", "L2", *plan.judges)
    timed = ("inversion", *(("edit",) if plan.orders else ()))
    rows = []
    for outcome in outcomes:
        numbers = [f"{outcome.scores[name]:.4g}" if name in outcome.scores else "-" for name in columns]
        times = [f"{median:.3f}" if (median := outcome.median(what)) is not None else "-" for what in timed]
        size = str(outcome.sizes["R"]) if outcome.sizes else "-"
        rows.append((outcome.label, outcome.method or "-", size, *numbers, *times, "; ".join(outcome.problems)))
    headings = ("bundle", "method", "pixels", *columns, *(f"{what} s" for what in timed), "failed")
    wide = len(headings) if any(outcome.problems for outcome in outcomes) else len(headings) - 1
    typer.echo(markdown(headings[:wide], [row[:wide] for row in rows]))
    ran = "; ".join(dict.fromkeys(outcome.description for outcome in outcomes if outcome.description))
    if ran:
        typer.echo(f"\nJudged at {width} pixels. Seconds: the median of {plan.runs} calls with one picture, after a first one; {ran}.")
    if sheet is not None:
        typer.echo(sheet)


def _sheet(outcomes: Sequence[Outcome], plan: Plan) -> Image:
    """Columns: the input and every bundle with an inversion. Rows: the inversions, and each edit; white where an edit failed."""
    from PIL import Image

    from sdic_runtime.sheets import sheet

    shown = [outcome for outcome in outcomes if outcome.inversion is not None]
    firsts: list[Image.Image] = [outcome.inversion for outcome in shown if outcome.inversion is not None]
    blank = Image.new("RGB", firsts[0].size, "white")
    rows = [[plan.picture, *firsts]]
    names = [order.label for order in plan.orders if any(order.label in outcome.edits for outcome in shown)]
    rows += [[blank, *(outcome.edits.get(name, blank) for outcome in shown)] for name in names]
    height = min(CELL, max(picture.height for picture in firsts))
    return sheet(rows, ["input", *(outcome.label for outcome in shown)], height, [INVERSION, *names])
