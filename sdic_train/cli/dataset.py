"""`sdic-train dataset`: draw portraits, or prepare a folder of pictures, at the training size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from sdic_runtime.cli.options import Debug

SHOWN = 10  # files that are omitted


def run(
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="Folder of the data set.", show_default=False)],
    size: Annotated[int, Option(min=8, help="Pixels of the cached pictures.")] = 128,
    count: Annotated[int, Option(min=1, help="Portraits to draw.")] = 24_000,
    photo: Annotated[bool, Option("--photo", help="Draw photos: portraits with details that a generator never sees.")] = False,
    seed: Annotated[int, Option(min=0, help="Random seed; seeds from 900000 are reserved for evaluation.")] = 0,
    source: Annotated[Path | None, Option("--from", metavar="DIR", help="Cache the pictures of this folder instead of drawing.")] = None,
    held_out: Annotated[
        float, Option(min=0, max=1, help="Share of a folder's pictures kept for evaluation, chosen by their content's hash; 1: all.")
    ] = 0.05,
    processes: Annotated[int, Option(min=1, help="Processes that draw.")] = 2,
    debug: Debug = False,
) -> None:
    """Draw labelled portraits, or prepare a folder of pictures.

    \b
    Example:
      sdic-train dataset --out data/portraits --count 24000 --size 128
      sdic-train dataset --out data/portraits --count 12000 --size 128 --photo --seed 1
      sdic-train dataset --out data/faces --from pictures/ --size 256
      sdic-train dataset --out data/test --from celeba_test/ --size 1024 --held-out 1
    """
    from sdic_runtime.progress import progress
    from sdic_train.data.datasets import CHUNK, cache_folder, caches, draw_portraits

    if source is not None:
        dropped: dict[Path, str] = {}
        before = caches(out)
        for kept, left in progress(cache_folder(source, out, size, held_out, dropped), "pictures"):  # noqa: B007 - the last ones count
            pass
        for reason in list(dropped.values())[:SHOWN]:
            echo(f"omitted: {reason}", err=True)
        if dropped:
            echo(f"{len(dropped)} files of {source} are omitted", err=True)
        if gone := [path.name for path in before if not path.exists()]:
            echo(f"{', '.join(gone)} in {out} were of what was prepared there before, and are removed", err=True)
        echo(f"{kept} pictures for training and {left} held out in {out}")
        return
    for _ in progress(draw_portraits(out, count, size, photo, seed, processes), "portraits", total=-(-count // CHUNK), unit="chunk"):
        pass
    echo(f"{count} {'photos' if photo else 'portraits'} of {size} pixels with seed {seed} in {out}")
