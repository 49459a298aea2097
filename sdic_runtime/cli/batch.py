"""`sdic-run batch`: a folder or a list of pictures, on one machine or a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_runtime.cli.options import BackendOption, BundleOption, Debug, Eq6, Eq6Option, PrecisionOption

if TYPE_CHECKING:
    from sdic_runtime.batch.job import Summary

NAME = "batch"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|LIST", help="Folder of pictures, or text file with one path per line.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.", show_default=False)],
    edits: Annotated[
        list[str] | None,
        typer.Option("--edit", metavar="NAME:STRENGTH", help="Also write this edit; several at once with commas. May be repeated."),
    ] = None,
    eq6: Eq6Option = Eq6.paper,
    save: Annotated[bool, typer.Option("--save", help="Also write NAME.safetensors, the inversion, for fast edits later.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes; one per CPU when left out.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of each worker; the CPUs are shared evenly.")] = None,
    gpus: Annotated[float, typer.Option("--gpus", min=0.0, help="GPUs that each worker takes, such as 1 or 0.5.")] = 0.0,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Pictures that a worker computes at once; 1 when left out.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Running Ray cluster; this machine alone when left out.")
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    debug: Debug = False,
) -> None:
    """Invert and edit any number of pictures on Ray.

    Started again after a stop, it leaves alone what is complete and does the rest, also pictures that changed since.
    Pictures that fail are listed with the reason in DIR/failures.csv and the exit code is 2; the others are written.

    \b
    Example:
      sdic-run batch holiday/ --out inverted --edit smile:2 --edit age:-1,smile:1
      sdic-run batch pictures.txt --out /shared/inverted --address auto --workers 32
    """
    from sdic_runtime.backends.options import parse_backend
    from sdic_runtime.batch import job as batches
    from sdic_runtime.batch.inputs import tasks_of
    from sdic_runtime.batch.ray import Cluster, execute
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.cli.options import DEMO_NOTICE, notice
    from sdic_runtime.cli.outputs import writable_folder
    from sdic_runtime.progress import progress

    opened = Bundle.open(bundle)
    name, options = parse_backend(backend)
    if precision is not None:
        opened.precision(precision)
    orders = tuple(dict.fromkeys(batches.EditOrder.parse(text, opened) for text in edits or []))
    job = batches.Job(
        bundle=bundle.resolve() if bundle else None, out=out.absolute(), backend=name, options=options, precision=precision, edits=orders,
        eq6=eq6.value, save=save, batch=batch or 1,
    )  # fmt: skip
    tasks = tasks_of(source, job)
    writable_folder(out)
    opened.check()
    if bundle is None:
        notice(DEMO_NOTICE)
    cluster, summary = Cluster(address, workers, threads, gpus), batches.Summary()
    outcomes = batches.run(job, opened, tasks, lambda work, waiting: execute(work, waiting, cluster), summary)
    for _ in progress(outcomes, "pictures", total=len(tasks)):
        pass
    conclude(summary, len(tasks), out / batches.FAILURES)


def conclude(summary: Summary, total: int, failures: Path) -> None:
    """Print how the run ended. Raises SdicError when a picture failed."""
    from sdic_runtime.errors import SdicError

    before = f", {summary.complete} were complete before" if summary.complete else ""
    typer.echo(f"{summary.done} of {total} pictures done{before}")
    if summary.failed:
        raise SdicError(f"{summary.failed} of {total} pictures could not be done; they are listed with the reasons in {failures}")
