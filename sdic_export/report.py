"""What `sdic-export` says: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdic_export.build import BuildReport, StageReport
    from sdic_export.half.check import StageProof
    from sdic_export.inspect import StageContents
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
    """One stage is exported and proven."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    arranged = f", CPU graph {stage.cpu.ratio:.1e} ({stage.cpu.tensor})" if stage.cpu is not None else ""
    typer.echo(
        f"{clear}{stage.stage:18} {stage.precision}  {stage.seconds:6.1f} s  {stage.bytes / MEGA:8.1f} MB  "
        f"worst difference {stage.worst.ratio:.1e} of a standard deviation ({stage.worst.tensor}){arranged}",
        err=True,
    )


def show_half_stage(proof: StageProof, seconds: float, size: int) -> None:
    """One stage is written and proven in half precision."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    largest = proof.largest
    typer.echo(
        f"{clear}{proof.stage:18} {proof.precision}  {seconds:6.1f} s  {size / MEGA:8.1f} MB  PSNR {proof.psnr:.1f} dB against fp32, "
        f"largest activation {largest.largest:.0f} ({largest.layer})",
        err=True,
    )


def show_build(result: BuildReport) -> None:
    """What a build made, in a few lines on standard error."""
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    for item in result.rounding:
        if item.tensor == "picture":
            typer.echo(
                f"{clear}rounding the weights to float16 moves the inverted picture by {item.largest:.1e} at most, PSNR {item.psnr:.1f} dB",
                err=True,
            )
    if result.half is not None:
        picture = result.half.picture
        typer.echo(f"{clear}{result.half.precision} end to end: PSNR {picture.psnr:.1f} dB against fp32 ({picture.tensor})", err=True)
    total = sum(entry.bytes for entry in result.manifest.files.values())
    directions = ", ".join(result.manifest.directions) or "none"
    typer.echo(
        f"{clear}{len(result.stages)} stages proven against PyTorch in {result.seconds:.0f} s; {len(result.manifest.files)} files, "
        f"{total / MEGA:.1f} MB; directions: {directions}",
        err=True,
    )


def show_verification(result: Verification, as_json: bool) -> None:
    """The table of every check, worst or failed ones marked, and the conclusion."""
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
            "" if check.passed else "<-- too large",
        )
        for check in result.checks
    ]
    _table(rows)
    worst = result.worst
    if result.failures:
        first = result.failures[0]
        typer.echo(
            f"failed: {len(result.failures)} of {len(result.checks)} tensors are off by more than {first.tolerance:.1e} of a deviation, "
            f'the first is "{first.difference.tensor}" of {first.difference.where} ({first.difference.ratio:.1e})'
        )
    else:
        typer.echo(
            f"passed: the largest difference is {worst.difference.ratio:.1e} of a standard deviation, {worst.tolerance:.1e} is allowed"
        )


def show_contents(bundle: Bundle, contents: Sequence[StageContents], as_json: bool) -> None:
    """What `sdic-export inspect` prints."""
    from sdic_runtime.bundle.bundle import manifest_to_dict

    if as_json:
        typer.echo(json.dumps({"manifest": manifest_to_dict(bundle.manifest), "stages": [item.as_dict() for item in contents]}, indent=1))
        return
    manifest, sizes = bundle.manifest, bundle.sizes
    typer.echo(
        f"{manifest.name}: {manifest.method}, {manifest.domain}, {sizes.resolution} px from {sizes.working} px, "
        f"{sizes.rows} rows of {sizes.style_width}, {sizes.feature_channels} channels at layer 7"
    )
    typer.echo(f"licence: {manifest.licence}")
    typer.echo("made with: " + ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    typer.echo("directions: " + (", ".join(manifest.directions) or "none"))
    rows = [("stage", "precision", "MB", "parameters", "nodes", "GMAC", "opset", "sha256", "file")]
    for item in contents:
        gmac = "?" if item.gmac is None else f"{item.gmac:.2f}"
        rows.append(
            (
                item.stage,
                item.form,
                f"{item.bytes / MEGA:.1f}",
                f"{item.parameters / MEGA:.2f} M",
                str(sum(item.operations.values())),
                gmac,
                str(item.opset),
                item.sha256[0][:HASH_DIGITS],
                item.files[0],
            )
        )
        rows += [("", "", "", "", "", "", "", sha[:HASH_DIGITS], file) for sha, file in zip(item.sha256[1:], item.files[1:], strict=True)]
    _table(rows)
    for item in contents:
        typer.echo(f"{item.stage} {item.form}: " + ", ".join(f"{count} {kind}" for kind, count in item.operations.items()))


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
