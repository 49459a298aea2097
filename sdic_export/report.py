"""What `sdic-export` says: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from sdic_runtime.program import SIZE_LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdic_export.build import BuildReport, StageReport
    from sdic_export.half.check import StageCheck
    from sdic_export.inspect import GraphContents
    from sdic_export.reduced import Cost
    from sdic_export.verify import Verification
    from sdic_runtime.bundle.bundle import Bundle

MEGA = 1e6
CLEAR_LINE = "\r\033[K"
HASH_DIGITS = 12


def show_step(what: str) -> None:
    """What is being done now: one line on a terminal that the next one replaces."""
    if sys.stderr.isatty():
        typer.echo(f"{CLEAR_LINE}{what} ...", err=True, nl=False)


def show_stage(stage: StageReport) -> None:
    """One stage is exported and checked."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    cpu = f", CPU-optimized {stage.cpu.ratio:.1e} ({stage.cpu.tensor})" if stage.cpu is not None else ""
    typer.echo(
        f"{clear}{stage.stage:18} {stage.precision}  {stage.seconds:6.1f} s  {stage.bytes / MEGA:8.1f} MB  "
        f"worst difference {stage.worst.ratio:.1e} of a standard deviation ({stage.worst.tensor}){cpu}",
        err=True,
    )


def show_half_stage(check: StageCheck, seconds: float, size: int) -> None:
    """One stage is written and checked in half precision."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    largest = check.largest
    typer.echo(
        f"{clear}{check.stage:18} {check.precision}  {seconds:6.1f} s  {size / MEGA:8.1f} MB  PSNR {check.psnr:.1f} dB against fp32, "
        f"largest activation {largest.largest:.0f} ({largest.layer})",
        err=True,
    )


def show_cost(cost: Cost) -> None:
    """What bfloat16 costs."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    typer.echo(
        f"{clear}bf16 on {cost.backend}: PSNR {cost.picture.psnr:.1f} dB against fp32 ({cost.picture.tensor}), "
        f"tolerance {cost.tolerance:g}",
        err=True,
    )


def show_build(result: BuildReport) -> None:
    """What a build made, in a few lines on standard error."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    if result.rounding is not None:
        moved = f"{result.rounding.largest:.1e} at most, PSNR {result.rounding.psnr:.1f} dB"
        typer.echo(f"{clear}rounding the weights to float16 moves the inverted picture by {moved}", err=True)
    if result.half is not None:
        picture = result.half.picture
        typer.echo(f"{clear}{result.half.precision} end to end: PSNR {picture.psnr:.1f} dB against fp32 ({picture.tensor})", err=True)
    total = sum(entry.bytes for entry in result.manifest.files.values())
    directions = ", ".join(result.manifest.directions) or "none"
    typer.echo(
        f"{clear}{len(result.stages)} stages checked against PyTorch in {result.seconds:.0f} s; {len(result.manifest.files)} files, "
        f"{total / MEGA:.1f} MB; directions: {directions}",
        err=True,
    )


def show_verification(result: Verification, as_json: bool, every: bool = False) -> None:
    """The table of the worst check of every stage and of all that failed, with `every` of all, and the conclusion."""
    if as_json:
        passed = not result.failures
        typer.echo(
            json.dumps(
                {
                    "bundle": result.bundle,
                    "backend": result.backend,
                    "files": result.files,
                    "passed": passed,
                    "checks": [check.as_dict() for check in result.checks],
                },
                indent=1,
            )
        )
        return
    typer.echo(f"{result.bundle}: {result.files} files as in the manifest; stages on {result.backend}")
    rows = [("against", "pictures", "stage", "tensor", "of a deviation", "PSNR dB", "")]
    rows += [
        (
            check.against,
            str(check.batch),
            check.difference.where,
            check.difference.tensor,
            f"{check.difference.ratio:.1e}",
            f"{check.difference.psnr:.1f}",
            "" if check.passed else "<-- too large" if check.difference.psnr >= check.least else f"<-- needs {check.least:.1f} dB",
        )
        for check in (result.checks if every else result.telling)
    ]
    _table(rows)
    worst = result.worst
    if result.failures:
        first = result.failures[0]
        noisy = "" if first.difference.psnr >= first.least else f", {first.difference.psnr:.1f} dB where {first.least:.1f} are needed"
        typer.echo(
            f"failed: {len(result.failures)} of {len(result.checks)} tensors are off by more than {first.tolerance:.1e} of a deviation"
            f"{' or by their decibels' if any(check.difference.psnr < check.least for check in result.failures) else ''}, "
            f'the first is "{first.difference.tensor}" of {first.difference.where} ({first.difference.ratio:.1e}{noisy})'
        )
    else:
        typer.echo(
            f"passed: the largest difference is {worst.difference.ratio:.1e} of a standard deviation, {worst.tolerance:.1e} is allowed"
        )


def show_contents(bundle: Bundle, contents: Sequence[GraphContents], as_json: bool) -> None:
    """What `sdic-export inspect` prints."""
    from sdic_export.inspect import work
    from sdic_runtime.bundle.manifest import manifest_text

    if as_json:
        manifest_data = json.loads(manifest_text(bundle.manifest))
        typer.echo(json.dumps({"manifest": manifest_data, "graphs": [item.as_dict() for item in contents]}, indent=1))
        return
    manifest, sizes = bundle.manifest, bundle.manifest.sizes
    others = "".join(f", {letter} {size}" for letter, size in sizes.items() if letter not in SIZE_LETTERS)
    shape = f"{sizes['R']} px from {sizes['S']} px, {sizes['L']} rows of {sizes['C']}{others}"
    typer.echo(f"{manifest.name}: {manifest.method}, {manifest.domain}, {shape}")
    typer.echo(f"licence: {manifest.licence}")
    typer.echo("made with: " + ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    typer.echo("directions: " + (", ".join(manifest.directions) or "none"))
    rows = [("graph", "variant", "MB", "parameters", "nodes", "GMAC", "opset", "sha256", "file")]
    for item in contents:
        rows.append(
            (
                item.graph,
                item.variant,
                f"{item.bytes / MEGA:.1f}",
                f"{item.parameters / MEGA:.2f} M",
                str(sum(item.operations.values())),
                _gmac(item.gmac),
                str(item.opset),
                item.sha256[0][:HASH_DIGITS],
                item.files[0],
            )
        )
        rows += [("", "", "", "", "", "", "", sha[:HASH_DIGITS], file) for sha, file in zip(item.sha256[1:], item.files[1:], strict=True)]
    _table(rows)
    precision = manifest.default_precision
    programs = [("program", "GMAC", "graphs and how often they run")]
    for program in manifest.programs:
        runs = [(item.graph, item.runs[program]) for item in contents if item.variant == precision and program in item.runs]
        listed = ", ".join(graph if count == 1 else f"{count} x {graph}" for graph, count in runs)
        programs.append((program, _gmac(work(contents, precision, program)), listed))
    _table(programs)
    for item in contents:
        typer.echo(f"{item.graph} {item.variant}: " + ", ".join(f"{count} {kind}" for kind, count in item.operations.items()))


def _gmac(count: float | None) -> str:
    return "?" if count is None else f"{count:.2f}"


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
