"""`sdic-train sdic`: train DIPN and DICN on a frozen generator and encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug
from sdic_train.cli import options as shared

NAME = "sdic"


def run(
    model: Annotated[
        Path, typer.Option("--model", metavar="FILE", help="Checkpoint with generator and encoder (e4e or SDIC).", show_default=False)
    ],
    data: shared.DataOption,
    out: shared.OutOption,
    recipe: Annotated[
        str, typer.Option("--recipe", help="paper, released (the released code's departures), demo, or demo-longer (goes on from --model).")
    ] = "paper",
    steps: shared.StepsOption = 100_000,
    batch: shared.BatchOption = 2,
    changes: shared.SetOption = None,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    data_size: shared.DataSizeOption = 0,
    photos: shared.PhotosOption = shared.Photos.photo,
    data_seed: shared.SeedOption = 0,
    device: shared.DeviceOption = "auto",
    precision: shared.PrecisionOption = "fp32",
    accumulate: shared.AccumulateOption = 1,
    threads: shared.ThreadsOption = 0,
    save_minutes: shared.SaveOption = 5.0,
    minutes: shared.MinutesOption = math.inf,
    restart: shared.RestartOption = False,
    tensorboard: shared.BoardOption = False,
    debug: Debug = False,
) -> None:
    """Train SDIC: predict the discrepancy of an inversion and compensate for it (Eq. 7 to 9).

    \b
    Example:
      sdic-train sdic --model runs/encoder/model.safetensors --data data/portraits --data-seed 1 --recipe demo --steps 3000 --out runs/sdic
    """
    from sdic_train.losses.networks import identity_network, perceptual_network
    from sdic_train.trainers.recipes import SDIC
    from sdic_train.trainers.run import RunOptions
    from sdic_train.trainers.sdic import SdicTrainer
    from sdic_train.trainers.start import with_kept_compensation, with_new_compensation

    chosen = shared.changed(shared.named(SDIC, recipe, "recipe"), changes)
    if chosen.keep:
        network = with_kept_compensation(model, chosen.fusion)
    else:
        network = with_new_compensation(model, chosen.seed, chosen.silent_start, chosen.fusion)
    pictures = shared.pictures(data, data_size or network.config.working, photos, data_seed)
    engine = shared.engine(batch, device, precision, accumulate, threads)
    trainer = SdicTrainer(network, chosen, pictures, engine, steps, perceptual_network(perceptual), identity_network(identity))
    shared.run(trainer, RunOptions(out, steps, save_minutes * 60, resume=not restart, tensorboard=tensorboard, minutes=minutes))
    typer.echo(out)
