"""`sdic-train encoder`: train an e4e or pSp encoder, or that of HyperStyle, on a frozen generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from sdic_train.cli import options as shared


@shared.training(steps=200_000, batch=8)
def run(
    told: shared.Training,
    generator: Annotated[Path, Option(metavar="FILE", help="Checkpoint with the generator.", show_default=False)],
    recipe: Annotated[
        str, Option(help="e4e, psp, psp-released, w (one row, for HyperStyle); the demo's: code, picture, psp-demo, w-demo.")
    ] = "e4e",
    start: Annotated[Path | None, Option("--from", metavar="FILE", help="Checkpoint with an encoder to start from.")] = None,
    domain: shared.DomainOption = None,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    photos: shared.PhotosOption = shared.Photos.both,
) -> None:
    """Train an encoder: pictures to latent codes in W+.

    \b
    Example:
      sdic-train encoder --generator runs/g128/model.safetensors --data data/portraits --recipe code --steps 5000 --out runs/encoder
    """
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.losses.networks import identity_network, perceptual_network
    from sdic_train.trainers.encoder import EncoderTrainer
    from sdic_train.trainers.recipes import ENCODER

    chosen = shared.changed(shared.named(ENCODER, recipe, "recipe"), told.changes)
    network = load_generator(generator, shared.domain_of(generator, domain))
    pictures, judges = told.pictures(network.config.working, photos), (perceptual_network(perceptual), identity_network(identity))
    trainer = EncoderTrainer(network, chosen, pictures, told.compute(), told.steps, *judges)
    trainer.mean_of(generator)
    if start is not None and not told.resumes:
        trainer.start_from(start)
    told.run(trainer)
