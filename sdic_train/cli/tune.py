"""`sdic-train tune`: pivotal tuning, a generator made for one person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdic_runtime.cli.options import Debug
from sdic_train.cli import options as shared


def run(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Aligned pictures of one person.", show_default=False)],
    model: Annotated[
        Path, typer.Option("--model", metavar="FILE", help="Checkpoint with generator and encoder of any method.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Checkpoint to write, .safetensors.", show_default=False)],
    others: Annotated[
        list[Path] | None, typer.Option("--with", metavar="FILE", help="Further file that belongs to the model; may be repeated.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="What the checkpoint is of, where it does not say.")] = None,
    pivot: Annotated[
        Path | None, typer.Option("--pivot", metavar="FILE", help="Saved inversion of the pictures, whose codes are tuned around.")
    ] = None,
    domain: shared.DomainOption = None,
    perceptual: shared.PerceptualOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps per picture at most.")] = 350,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one option of the recipe, such as locality=0.1.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    threads: shared.ThreadsOption = 0,
    debug: Debug = False,
) -> None:
    """Tune a generator to pictures of one person.

    The generator learns to give the pictures from the codes that the encoder finds for them (PTI), and edits as before.
    `sdic-export build` makes the person's own bundle of what is written.

    \b
    Example:
      sdic-train tune me.png --model e4e_ffhq_encode.pt --perceptual alexnet.pth,alex.pth --out me.safetensors
      sdic-export build me.safetensors --out engines/me
    """
    from sdic_runtime.progress import progress
    from sdic_train.losses.networks import perceptual_network
    from sdic_train.threads import use_threads
    from sdic_train.trainers.compute import Compute
    from sdic_train.trainers.tuning import TuningRecipe
    from sdic_train.tune import TuneOptions, tune

    use_threads(threads)
    recipe = shared.changed(TuningRecipe(), changes)
    place = Compute(1, device).device
    options = TuneOptions(pictures, model, out, others or (), method, pivot, shared.domain_of(model, domain), steps, recipe)
    tuning = tune(options, perceptual_network(perceptual) if recipe.perceptual else None, place)
    last = first = None
    for last in progress(tuning, "tuning", steps * len(pictures), "step"):
        first = first or last
    if first is not None and last is not None:
        typer.echo(f"l2 {first.l2:.4f} -> {last.l2:.4f}, perceptual {first.perceptual:.4f} -> {last.perceptual:.4f}", err=True)
    typer.echo(out)
