"""`sdic-train generator`: train a StyleGAN2 generator, or grow one from a smaller size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from sdic_train.cli import options as shared


@shared.training(steps=10_000, batch=16)
def run(
    told: shared.Training,
    recipe: Annotated[str, Option(help="stylegan2, or fit-16, fit-32, fit-64, fit-128, sharpen-128: the demo's.")] = "stylegan2",
    grow: Annotated[Path | None, Option("--from", metavar="DIR", help="Run at a smaller size to start from.")] = None,
    reader: Annotated[Path | None, Option(metavar="FILE", help="Portrait reader, for the losses perceptual and attributes.")] = None,
    sizes: shared.SizesOption = "demo",
) -> None:
    """Train a StyleGAN2 generator, or grow one.

    Adversarially on any pictures, or fitted to labelled renders with an adversarial term.

    \b
    Example:
      sdic-train dataset --out data/portraits --count 24000 --size 128
      sdic-train generator --data data/portraits --recipe fit-16 --steps 1200 --out runs/g16
      sdic-train generator --data data/portraits --recipe fit-32 --from runs/g16 --steps 2000 --out runs/g32
    """
    from sdic_train.losses.networks import open_reader
    from sdic_train.trainers.generator import GeneratorTrainer
    from sdic_train.trainers.loops.run import STATE, read_state
    from sdic_train.trainers.recipes import DISCRIMINATORS, GENERATOR

    config = shared.sizes(sizes)
    chosen = shared.changed(shared.named(GENERATOR, recipe, "recipe"), told.changes)
    pictures, judge = told.pictures(config.resolution, shared.Photos.plain), open_reader(reader) if reader else None
    trainer = GeneratorTrainer(config, chosen, pictures, told.compute(), told.steps, DISCRIMINATORS.get(config.domain), judge)
    if grow is not None and not told.resumes:
        trainer.grow_from(read_state(grow / STATE, "name the folder of a run of `sdic-train generator` with --from"))
    told.run(trainer)
