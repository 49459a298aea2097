"""`sdic-train encoder`: train an e4e encoder on a frozen generator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug
from sdic_train.cli import options as shared

NAME = "encoder"


def run(
    generator: Annotated[Path, typer.Option("--generator", metavar="FILE", help="Checkpoint with the generator.", show_default=False)],
    data: shared.DataOption,
    out: shared.OutOption,
    recipe: Annotated[str, typer.Option("--recipe", help="e4e, code (regression of known codes) or picture: the demo's two.")] = "e4e",
    start: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Checkpoint with an encoder to start from.")] = None,
    steps: shared.StepsOption = 200_000,
    batch: shared.BatchOption = 8,
    changes: shared.SetOption = None,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    data_size: shared.DataSizeOption = 0,
    photos: shared.PhotosOption = shared.Photos.both,
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
    """Train an encoder: pictures to latent codes in W+.

    \b
    Example:
      sdic-train encoder --generator runs/g128/model.safetensors --data data/portraits --recipe code --steps 5000 --out runs/encoder
    """
    from sdic_train.checkpoints.load import load_encoder, load_generator
    from sdic_train.losses.networks import identity_network, perceptual_network
    from sdic_train.trainers.encoder import EncoderTrainer
    from sdic_train.trainers.recipes import ENCODER
    from sdic_train.trainers.run import STATE, RunOptions

    chosen = shared.changed(shared.named(ENCODER, recipe, "recipe"), changes)
    network = load_generator(generator)
    pictures = shared.pictures(data, data_size or network.config.working, photos, data_seed)
    engine = shared.engine(batch, device, precision, accumulate, threads)
    trainer = EncoderTrainer(network, chosen, pictures, engine, steps, perceptual_network(perceptual), identity_network(identity))
    if start is not None and (restart or not (out / STATE).exists()):
        trainer.start_from(load_encoder(start)[0])
    shared.run(trainer, RunOptions(out, steps, save_minutes * 60, resume=not restart, tensorboard=tensorboard, minutes=minutes))
    typer.echo(out)
