"""`sdic-run batch`: a folder or a list of pictures, in processes of this machine or on a Ray cluster."""

from __future__ import annotations

import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli import options


class Executor(str, Enum):
    """What runs the workers."""

    local = "local"
    ray = "ray"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|LIST", help="Folder of pictures, or text file with one path per line, - for standard input.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.", show_default=False)],
    edits: options.EditOption = None,
    pca: options.PcaOption = None,
    move: options.MoveOption = None,
    save: Annotated[bool, typer.Option("--save", help="Also write NAME.safetensors, the inversion, for fast edits later.")] = False,
    face: options.FaceOption = None,
    crop_only: options.CropOnlyOption = False,
    aligned: options.AlignedOption = False,
    paste: options.PasteOption = None,
    keep: options.KeepOption = None,
    crop: options.CropOption = False,
    ignore_profiles: options.IgnoreProfilesOption = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per CPU when omitted.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker; the CPUs are shared evenly.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that a worker computes at once.")] = 1,
    executor: Annotated[Executor, typer.Option(help="Processes of this machine, or Ray, also on a cluster.")] = Executor.local,
    gpus: Annotated[float, typer.Option(min=0.0, help="With Ray: GPUs that each worker takes, such as 1 or 0.5.")] = 0.0,
    address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="With Ray: running cluster; this machine when omitted.")] = None,
    bundle: options.BundleOption = None,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = None,
    debug: options.Debug = False,
) -> None:
    """Invert and edit any number of pictures.

    With a model of aligned faces, they are photographs: the largest face of each is edited and pasted back.
    Run again after a stop, it skips what is complete and does the rest, also pictures that changed since.
    Pictures that fail are listed with the reason in DIR/failures.csv and the exit code is 2; the others are written.

    \b
    Example:
      sdic-run batch holiday/ --out inverted --edit smile:2 --edit age:-1,smile:1
      sdic-run batch pictures.txt --out /nfs/inverted --executor ray --address auto --workers 32
    """
    from sdic_runtime.batch import job as batches
    from sdic_runtime.batch import local, ray
    from sdic_runtime.batch.inputs import tasks_of
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_runtime.cli.targets import writable_folder
    from sdic_runtime.edit_orders import parsed
    from sdic_runtime.errors import ArgumentError, PictureError
    from sdic_runtime.folders import skipped_notice
    from sdic_runtime.progress import progress, say
    from sdic_runtime.subjects import ALL, BACKGROUND

    if executor is Executor.local and (gpus or address):
        raise ArgumentError(f"--{'gpus' if gpus else 'address'} is for Ray; add --executor ray")
    opened = Bundle.open(bundle, remember=True)
    if move is not None and move not in opened.manifest.moves:
        raise ArgumentError(f'--move is "{move}"; the bundle has: {", ".join(opened.manifest.moves)}')
    orders = tuple(parsed(edits or [], pca and pca.absolute()))
    kept = [name if name == BACKGROUND else str(Path(name).absolute()) for name in keep or ()]
    wishes = options.wishes(face, crop_only, aligned, paste, kept, crop)
    if crop_only and face == ALL:
        raise ArgumentError("--crop-only with --face all writes as many files as there are faces; use: sdic-run edit")
    photographs = wishes.photographs(opened.manifest) and not crop_only
    if keep and not photographs:
        raise ArgumentError("--keep of a batch is for photographs with a model of aligned faces; omit it")
    place, profiles = bundle.resolve() if bundle else None, not ignore_profiles
    job = batches.Job(
        place, out.absolute(), backend, precision, orders, move, save, batch, wishes=wishes, photographs=photographs, profiles=profiles
    )
    job.work(opened)  # refuses edits that do not fit, and a precision that the backend does not have
    tasks, skipped = tasks_of(source, job)
    writable_folder(out)
    opened.check()
    options.notice(skipped_notice(skipped))
    options.notice(options.DEMO_NOTICE if bundle is None else "")

    chosen = partial(ray.execute, gpus=gpus, address=address) if executor is Executor.ray else local.execute
    execute, summary, start = partial(chosen, workers=workers, threads=threads), batches.Summary(), time.perf_counter()
    ran = set[str]()  # workers say the same of their backends
    for outcome in progress(batches.run(job, opened, tasks, execute, summary), "pictures", total=len(tasks)):
        for text in (*(text for text in outcome.ran if text not in ran), *outcome.notices):
            say(text, error=True)
        ran.update(outcome.ran)
    before = f", {summary.complete} were complete before" if summary.complete else ""
    typer.echo(f"{summary.done} of {len(tasks)} pictures done{before}")
    options.notice(summary.throughput(time.perf_counter() - start))
    if summary.failed:
        listed = out / batches.FAILURES
        raise PictureError(f"{summary.failed} of {len(tasks)} pictures could not be done; they are listed with the reasons in {listed}")
