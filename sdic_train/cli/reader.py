"""`sdic-train reader`: train the network that judges drawn portraits."""

from __future__ import annotations

from typing import Annotated

from typer import Option, echo

from sdic_train.cli import options as shared


@shared.training(steps=1400, batch=48, data_size=128)
def run(
    told: shared.Training,
    photos: shared.PhotosOption = shared.Photos.both,
    held_out: Annotated[int, Option(help="Data seed of the photos on which the reader is judged; -1 for none.")] = -1,
) -> None:
    """Train the network that judges drawn portraits.

    Its features give the demo's perceptual distance, identity and attributes.

    \b
    Example:
      sdic-train reader --data data/portraits --out runs/reader
    """
    from sdic_train.networks.portrait_reader import READING_SIZE
    from sdic_train.portraits.portraits import PARAMETERS
    from sdic_train.trainers.reader import ReaderRecipe, ReaderTrainer, explained

    recipe = shared.changed(ReaderRecipe(), told.changes)
    trainer = ReaderTrainer(recipe, told.pictures(READING_SIZE, photos), told.compute(), told.steps)
    told.run(trainer)
    if held_out >= 0 and trainer.compute.main:  # of several processes one speaks
        shares = explained(trainer.reader.cpu().eval(), shared.pictures(told.data, told.data_size, shared.Photos.photo, held_out))
        for entry, share in zip(PARAMETERS, shares, strict=True):
            echo(f"{entry.name:20} {share:.3f}")
