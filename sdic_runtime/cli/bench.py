"""`sdic-run bench`: how fast backends are, side by side in one run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdic_runtime.cli import options

if TYPE_CHECKING:
    from sdic_runtime.tools.bench import Plan

MEBIBYTE = 1 << 20


def run(
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundle", metavar="DIR", help="Bundle folder, repeated to compare methods; the embedded demo bundle when omitted."),
    ] = None,
    backends: Annotated[
        list[str] | None, typer.Option("--backend", help="Backend to measure; repeat to compare. Options: torch:compile=true.")
    ] = None,
    batches: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Pictures per call; repeat it for several sizes.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured calls for each number.")] = 10,
    warm_up: Annotated[int, typer.Option(min=0, help="Calls before the measured ones.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Times that all backends are measured in turn, for machines whose speed drifts.")] = 1,
    rows: Annotated[
        list[int] | None, typer.Option("--row", min=1, help="Also edits of the style rows from this one on; repeat it for several.")
    ] = None,
    precision: options.PrecisionOption = None,
    checkpoint: options.CheckpointOption = None,
    json_file: options.JsonOption = None,
    debug: options.Debug = False,
) -> None:
    """Measure how fast backends are.

    Load time, first call, inversion, edit of an inversion, every stage, and peak memory, also of a GPU. Each backend runs
    in a process of its own, once in every round. Ratios say how many times as fast as the first backend with the same
    bundle.

    \b
    Example:
      sdic-run bench --bundle engines/ffhq1024 --bundle engines/hfgi --backend torch-plain --backend onnxruntime
    """
    from sdic_runtime.cli.reports import check_report, report
    from sdic_runtime.errors import ArgumentError, SdicError
    from sdic_runtime.progress import progress
    from sdic_runtime.tools.bench import Plan, measure_apart, pooled

    options.check_checkpoint(backends or ["auto"], checkpoint)
    check_report(json_file)
    if checkpoint is not None and len(bundles or ()) > 1:
        raise ArgumentError(f"--checkpoint is the weights of one bundle, and {len(bundles or ())} are named; measure its bundle alone")
    options.notice("" if bundles else options.DEMO_NOTICE)
    weights = None if checkpoint is None else str(checkpoint)
    folders: list[str | None] = [str(path) for path in bundles or ()] or [None]
    sizes, pairs = tuple(batches or (1,)), product(folders, backends or ["auto"])
    _check_rows(bundles or [None], rows or ())
    plans = [Plan(folder, backend, precision, weights, sizes, runs, warm_up, tuple(rows or ())) for folder, backend in pairs]
    found: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(plans))}
    failed = False
    for index in progress([*found] * rounds, "backends", unit="backend"):
        if index not in found:
            continue
        try:
            found[index].append(measure_apart(plans[index]))
        except SdicError as error:
            failed = True
            del found[index]
            options.notice(f"error: {plans[index].backend}{_where(plans[index], folders)}: {error}")
    for index, (first, *_) in found.items():
        for text in first["notices"]:
            options.notice(f"{plans[index].backend}{_where(plans[index], folders)}: {text}")
    measured = [{**pooled(results), "path": plans[index].bundle} for index, results in found.items()]
    if measured:
        report({"measured": measured}, json_file, lambda: show(measured))
    if failed:
        raise typer.Exit(2)


def _where(plan: Plan, folders: Sequence[str | None]) -> str:
    """The bundle of a measurement, where there are several."""
    return f" with {plan.bundle}" if len(folders) > 1 else ""


def _check_rows(bundles: Sequence[Path | None], rows: Sequence[int]) -> None:
    """Raise ArgumentError for a style row that one of the bundles does not have."""
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.errors import ArgumentError

    for path in bundles if rows else ():
        bundle = Bundle.open(path)
        if (row := max(rows)) >= (count := bundle.manifest.sizes["L"]):
            raise ArgumentError(f"--row is {row}, and the style rows of {bundle.path} are 0 to {count - 1}; name one of them")


def show(measured: Sequence[dict[str, Any]]) -> None:
    """Print three tables: whole calls, stages, and what each process cost. The bundle is a column where there are several."""
    from sdic_runtime.cli.reports import table
    from sdic_runtime.tools.bench import called

    calls, stages, costs = [], [], []
    several = len({result["path"] for result in measured}) > 1
    heading = ("bundle",) * several
    on_gpu = any(result["gpu_memory_bytes"] for result in measured)
    for result in measured:
        who = (result["bundle"],) * several + (result["backend"],)
        first = next(other for other in measured if other["path"] == result["path"])
        for batch in result["batches"]:
            size = batch["batch"]
            for what in called(batch):
                faster = ratio(first, size, what, batch[what]["p50"])
                speed = f"{batch[what]['pictures_per_second']:.2f}", f"{faster:.2f}x"
                calls.append((*who, str(size), what, *milliseconds(batch[what]), *speed))
            stages += [(*who, str(size), stage, *milliseconds(timing)) for stage, timing in batch["stages"].items()]
        seconds = (f"{result[name]:.2f}" for name in ("load_seconds", "first_call_seconds"))
        memory = mebibytes(result["peak_memory_bytes"], "unknown"), *(mebibytes(result["gpu_memory_bytes"], "-"),) * on_gpu
        costs.append((*who, *seconds, *memory, result["description"]))
    left = 3 + several
    typer.echo(table((*heading, "backend", "batch", "what", "p50 ms", "p90 ms", "p99 ms", "pictures/s", "ratio"), calls, left=left))
    typer.echo("\n" + table((*heading, "backend", "batch", "stage of an inversion", "p50 ms", "p90 ms", "p99 ms"), stages, left=left))
    memories = "peak MiB", *("GPU MiB",) * on_gpu
    typer.echo("\n" + table((*heading, "backend", "load s", "first call s", *memories, "what ran"), costs, left=1 + several))


def mebibytes(count: int | None, otherwise: str) -> str:
    """Bytes as whole MiB; `otherwise` where there are none."""
    return f"{count / MEBIBYTE:.0f}" if count else otherwise


def milliseconds(timing: dict[str, float]) -> list[str]:
    """The percentiles of one timing."""
    return [f"{timing[name] * 1000:.1f}" for name in ("p50", "p90", "p99")]


def ratio(first: dict[str, Any], size: int, what: str, p50: float) -> float:
    """How many times as fast as the first backend at the same batch size."""
    return next(batch[what]["p50"] for batch in first["batches"] if batch["batch"] == size) / p50
