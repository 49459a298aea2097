"""`sdic-train directions`: make edit directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer, echo

from sdic_runtime.cli.options import Debug
from sdic_runtime.errors import ArgumentError

app = Typer(no_args_is_help=True, rich_markup_mode=None, help="Make edit directions: interfacegan, ganspace, sefa.")

ModelOption = Annotated[Path, Option("--model", metavar="FILE", help="Checkpoint with the generator.", show_default=False)]
FolderOption = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Folder for the direction files.", show_default=False)]
SeedOption = Annotated[int, Option("--seed", min=0, help="Seed of the sampled codes.")]


@app.command("interfacegan")
def interfacegan(
    model: ModelOption,
    reader: Annotated[Path, Option(metavar="FILE", help="Portrait reader that labels the samples.", show_default=False)],
    out: FolderOption,
    attributes: Annotated[str, Option(help="Portrait attributes, with commas between.")] = "smile,age,glasses",
    samples: Annotated[int, Option(min=1, help="Codes to sample.")] = 4000,
    margin: Annotated[float, Option(help="Share of an attribute's range around its threshold that counts as unsure.")] = 0.1,
    disentangle: Annotated[bool, Option("--disentangle/--plain", help="Take the other attributes' directions out of each.")] = True,
    seed: SeedOption = 0,
    debug: Debug = False,
) -> None:
    """Linear SVMs on codes that a reader labels (InterFaceGAN).

    \b
    Example:
      sdic-train directions interfacegan --model runs/sdic/model.safetensors --reader runs/reader/model.safetensors --out runs/directions
    """
    import numpy as np

    from sdic_runtime.directions import save_direction
    from sdic_runtime.progress import progress
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.losses.networks import open_reader
    from sdic_train.portraits.portraits import ATTRIBUTES, PARAMETERS
    from sdic_train.trainers.latent_directions import Boundary, boundary, labelled_codes

    names = [name.strip() for name in attributes.split(",")]
    if unknown := [name for name in names if name not in ATTRIBUTES]:
        raise ArgumentError(f'"{unknown[0]}" is no attribute of a portrait; use some of {", ".join(ATTRIBUTES)}')
    batches = labelled_codes(load_generator(model), open_reader(reader), samples, seed)
    found = list(progress(batches, "samples", total=-(-samples // 16), unit="batch"))
    codes, values = (np.concatenate(part) for part in zip(*found, strict=True))
    places = {entry.name: (index, entry) for index, entry in enumerate(PARAMETERS)}

    def made(name: str, against: np.ndarray | None) -> Boundary:
        index, entry = places[name]
        return boundary(codes, values[:, index], entry.threshold or 0.0, name, margin * (entry.high - entry.low), against)

    plain = {name: made(name, None) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        others = [plain[other].direction.vector[0] for other in names if other != name]
        result = made(name, np.stack(others)) if disentangle and others else plain[name]
        save_direction(out / f"{name}.safetensors", result.direction)
        echo(f"{name}: accuracy {result.accuracy:.3f}, the sides are {result.separation:.2f} apart")


@app.command("ganspace")
def ganspace(
    model: ModelOption,
    out: FolderOption,
    components: Annotated[int, Option(min=1, help="Components to keep.")] = 80,
    samples: Annotated[int, Option(min=1, help="Codes to sample.")] = 100_000,
    seed: SeedOption = 0,
    debug: Debug = False,
) -> None:
    """Principal components of the mapped codes (GANSpace)."""
    from sdic_runtime.directions import save_direction
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.trainers import latent_directions

    basis = latent_directions.ganspace(load_generator(model), components, samples, seed)
    out.mkdir(parents=True, exist_ok=True)
    save_direction(out / "ganspace.safetensors", basis)
    share = (basis.std[:10] ** 2).sum() / (basis.std**2).sum()
    echo(f"{out / 'ganspace.safetensors'}: {components} components, the first ten hold {share:.0%} of their variance")


@app.command("sefa")
def sefa(
    model: ModelOption,
    out: FolderOption,
    first: Annotated[int, Option(help="First style row.")] = 0,
    end: Annotated[int, Option(help="Row behind the last one.")] = 4,
    count: Annotated[int, Option(min=1, help="Directions to keep.")] = 5,
    debug: Debug = False,
) -> None:
    """Directions that the modulations amplify most (SeFa)."""
    from sdic_runtime.directions import save_direction
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.trainers import latent_directions

    found = latent_directions.sefa(load_generator(model), first, end, count)
    out.mkdir(parents=True, exist_ok=True)
    for direction in found:
        save_direction(out / f"{direction.name}.safetensors", direction)
        echo(out / f"{direction.name}.safetensors")
