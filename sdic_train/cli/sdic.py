"""`sdic-train sdic`: train DIPN and DICN on a frozen generator and encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from sdic_train.cli import options as shared


@shared.training(steps=100_000, batch=2)
def run(
    told: shared.Training,
    model: Annotated[Path, Option(metavar="FILE", help="Checkpoint with generator and encoder (e4e or SDIC).", show_default=False)],
    recipe: Annotated[
        str, Option(help="paper, released (the released code's departures), demo, or demo-longer (continues from --model).")
    ] = "paper",
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    photos: shared.PhotosOption = shared.Photos.photo,
) -> None:
    """Train DIPN and DICN on an encoder and a generator.

    They predict the discrepancy of an inversion and compensate for it (Eq. 7 to 9).

    \b
    Example:
      sdic-train sdic --model encoder.safetensors --data data --data-seed 1 --recipe demo --steps 3000 \\
        --perceptual reader.safetensors --identity reader.safetensors --out runs/sdic
    """
    from sdic_train.losses.networks import identity_network, perceptual_network
    from sdic_train.trainers.methods.sdic import SdicTrainer
    from sdic_train.trainers.recipes import SDIC
    from sdic_train.trainers.start import with_kept_compensation, with_new_compensation

    chosen = shared.changed(shared.named(SDIC, recipe, "recipe"), told.changes)
    if chosen.keep:
        network = with_kept_compensation(model, chosen.fusion)
    else:
        network = with_new_compensation(model, chosen.seed, chosen.silent_start, chosen.fusion)
    pictures, judges = told.pictures(network.config.working, photos), (perceptual_network(perceptual), identity_network(identity))
    told.run(SdicTrainer(network, chosen, pictures, told.compute(), told.steps, *judges))
