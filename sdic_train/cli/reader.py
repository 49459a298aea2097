"""`sdic-train reader`: train the network that judges drawn portraits."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug
from sdic_train.cli import options as shared

NAME = "reader"


def run(
    data: shared.DataOption,
    out: shared.OutOption,
    steps: shared.StepsOption = 1400,
    batch: shared.BatchOption = 48,
    changes: shared.SetOption = None,
    data_size: shared.DataSizeOption = 128,
    photos: shared.PhotosOption = shared.Photos.both,
    data_seed: shared.SeedOption = 0,
    held_out: Annotated[int, typer.Option("--held-out", help="Data seed of the photos on which the reader is judged; -1 for none.")] = -1,
    device: shared.DeviceOption = "auto",
    precision: shared.PrecisionOption = "fp32",
    threads: shared.ThreadsOption = 0,
    save_minutes: shared.SaveOption = 5.0,
    minutes: shared.MinutesOption = math.inf,
    restart: shared.RestartOption = False,
    debug: Debug = False,
) -> None:
    """Train a portrait reader, which judges the demo: its perceptual distance, identity, and attributes.

    \b
    Example:
      sdic-train reader --data data/portraits --out runs/reader
    """
    from sdic_train.portraits.portraits import PARAMETERS
    from sdic_train.trainers.reader import ReaderRecipe, ReaderTrainer, explained
    from sdic_train.trainers.run import RunOptions

    recipe = shared.changed(ReaderRecipe(), changes)
    trainer = ReaderTrainer(
        recipe, shared.pictures(data, data_size, photos, data_seed), shared.engine(batch, device, precision, 1, threads), steps
    )
    shared.run(trainer, RunOptions(out, steps, save_minutes * 60, resume=not restart, minutes=minutes))
    if held_out >= 0:
        shares = explained(trainer.reader.cpu().eval(), shared.pictures(data, data_size, shared.Photos.photo, held_out))
        for entry, share in zip(PARAMETERS, shares, strict=True):
            typer.echo(f"{entry.name:20} {share:.3f}")
    typer.echo(out)
