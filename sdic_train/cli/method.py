"""`sdic-train method`: train what a method of the paper's Table 1 adds to a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from sdic_runtime.errors import ArgumentError
from sdic_train.cli import options as shared

ELSEWHERE = {"sdic": "sdic", "e4e": "encoder --recipe e4e", "psp": "encoder --recipe psp"}


@shared.training(steps=100_000, batch=8)
def run(
    told: shared.Training,
    method: Annotated[
        str,
        Argument(
            help="restyle-psp, restyle-e4e, hfgi, hyperstyle, fs, clcae, sfe-inverter (phase 1 of StyleFeatureEditor) or sfe (phase 2).",
            show_default=False,
        ),
    ],
    generator: Annotated[Path, Option(metavar="FILE", help="Checkpoint with the generator.", show_default=False)],
    encoder: Annotated[
        Path | None, Option(metavar="FILE", help="Checkpoint with the encoder that the method starts from; by default the generator's.")
    ] = None,
    recipe: Annotated[str, Option(help="paper, released (the released code's departures) or demo.")] = "paper",
    backbone: Annotated[
        Path | None, Option(metavar="FILE", help="Face or ImageNet network that a body starts from: IR-SE-50, IR-50 or ResNet-34.")
    ] = None,
    start: Annotated[
        Path | None, Option("--from", metavar="FILE", help="Result of another run to go on from; sfe: of sfe-inverter.")
    ] = None,
    directions: Annotated[Path | None, Option(metavar="DIR", help="Directions of the edits that sfe learns from.")] = None,
    domain: shared.DomainOption = None,
    perceptual: shared.PerceptualOption = None,
    identity: shared.IdentityOption = None,
    photos: shared.PhotosOption = shared.Photos.photo,
) -> None:
    """Train any other inversion method.

    What is not the method's stays frozen. e4e and pSp are trained with `encoder`, SDIC with `sdic`.

    \b
    Example:
      sdic-train method hfgi --generator encoder.safetensors --data data --data-seed 1 --recipe demo \\
        --perceptual reader.safetensors --identity reader.safetensors --out runs/hfgi
    """
    from sdic_train.losses.networks import identity_network, perceptual_network
    from sdic_train.trainers.methods.trainings import TRAININGS, Sources, new_model
    from sdic_train.trainers.recipes import DISCRIMINATORS, METHOD

    if method in ELSEWHERE:
        raise ArgumentError(f'the method "{method}" has a command of its own; use `sdic-train {ELSEWHERE[method]}`')
    training = shared.named(TRAININGS, method, "method")
    chosen = shared.changed(shared.named(METHOD[method], recipe, "recipe"), told.changes)
    if start is None and training.starts_from:
        raise ArgumentError(f'the method "{method}" is a second phase; name the result of the first with --from')
    model = new_model(method, Sources(generator, encoder, backbone, start, shared.domain_of(generator, domain, encoder)), chosen)
    options: dict[str, Any] = {"directions": _directions(directions)} if training.edits else {}
    if training.contested:
        options["channels"] = DISCRIMINATORS.get(model.config.domain)
    pictures, judges = told.pictures(model.config.working, photos), (perceptual_network(perceptual), identity_network(identity))
    told.run(training.trainer(model, chosen, pictures, told.compute(), told.steps, *judges, **options))


def _directions(folder: Path | None) -> list[Any]:
    from sdic_runtime.directions import load_directions
    from sdic_runtime.edits import Direction

    found = load_directions(folder).values() if folder else ()
    return [direction for direction in found if isinstance(direction, Direction)]
