"""`sdic-train generator`: train a StyleGAN2 generator, or grow one from a smaller size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug
from sdic_train.cli import options as shared

NAME = "generator"


def run(
    data: shared.DataOption,
    out: shared.OutOption,
    recipe: Annotated[
        str, typer.Option("--recipe", help="stylegan2, or fit-16, fit-32, fit-64, fit-128, sharpen-128: the demo's.")
    ] = "stylegan2",
    grow: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="Run at a smaller size to start from.")] = None,
    reader: Annotated[
        Path | None, typer.Option("--reader", metavar="FILE", help="Portrait reader, for the losses perceptual and attributes.")
    ] = None,
    sizes: shared.SizesOption = "demo",
    steps: shared.StepsOption = 10_000,
    batch: shared.BatchOption = 16,
    changes: shared.SetOption = None,
    data_size: shared.DataSizeOption = 0,
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
    """Train a generator: adversarially on any pictures, or fitted to labelled renders with an adversarial term.

    \b
    Example:
      sdic-train dataset --out data/portraits --count 24000 --size 128
      sdic-train generator --data data/portraits --recipe fit-16 --steps 1200 --out runs/g16
      sdic-train generator --data data/portraits --recipe fit-32 --from runs/g16 --steps 2000 --out runs/g32
    """
    from sdic_train.losses.networks import open_reader
    from sdic_train.trainers.generator import GeneratorTrainer
    from sdic_train.trainers.recipes import DISCRIMINATORS, GENERATOR
    from sdic_train.trainers.run import STATE, RunOptions, read_state

    config = shared.sizes(sizes)
    chosen = shared.changed(shared.named(GENERATOR, recipe, "recipe"), changes)
    pictures = shared.pictures(data, data_size or config.resolution, shared.Photos.plain, data_seed)
    engine = shared.engine(batch, device, precision, accumulate, threads)
    trainer = GeneratorTrainer(
        config, chosen, pictures, engine, steps, DISCRIMINATORS.get(config.domain), open_reader(reader) if reader else None
    )
    if grow is not None and (restart or not (out / STATE).exists()):
        trainer.grow_from(read_state(grow / STATE))
    shared.run(trainer, RunOptions(out, steps, save_minutes * 60, resume=not restart, tensorboard=tensorboard, minutes=minutes))
    typer.echo(out)
