"""`sdic-train directions`: make edit directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer, echo

from sdic_runtime.cli.options import Debug
from sdic_runtime.errors import ArgumentError
from sdic_train.cli import options as shared

app = Typer(no_args_is_help=True, rich_markup_mode=None, help="Make edit directions: interfacegan, steer, ganspace, sefa.")

ModelOption = Annotated[Path, Option("--model", metavar="FILE", help="Checkpoint with the generator.", show_default=False)]
FolderOption = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Folder for the direction files.", show_default=False)]
SeedOption = Annotated[int, Option("--seed", min=0, help="Seed of the sampled codes.")]


@app.command("interfacegan")
def interfacegan(
    model: Annotated[Path, Option("--model", metavar="FILE|BUNDLE", help="Checkpoint; or a bundle, for labels.", show_default=False)],
    out: FolderOption,
    labels: Annotated[
        Path | None, Option(metavar="CSV", help="Your own labels: lines picture,value; more columns, more attributes.")
    ] = None,
    pictures: Annotated[Path | None, Option(metavar="DIR", help="Folder of the labelled pictures; that of the labels if omitted.")] = None,
    space: Annotated[str, Option(help="Of labelled codes: w, one offset for all rows, or w+, one for each (wants more labels).")] = "w",
    reader: Annotated[Path | None, Option(metavar="FILE", help="Portrait reader that labels samples, in place of labels.")] = None,
    attributes: Annotated[str | None, Option(help="Attributes, with commas between; of a reader smile,age,glasses if omitted.")] = None,
    samples: Annotated[int, Option(min=1, help="Codes to sample.")] = 4000,
    margin: Annotated[float, Option(help="Share of an attribute's range around its threshold that counts as unsure.")] = 0.1,
    backend: Annotated[str, Option(help="Backend for a bundle.")] = "auto",
    disentangle: Annotated[bool, Option("--disentangle/--plain", help="Take the other attributes' directions out of each.")] = True,
    omit_rare: Annotated[bool, Option("--omit-rare", help="Of a reader: omit attributes with too few samples on one side.")] = False,
    seed: SeedOption = 0,
    debug: Debug = False,
) -> None:
    """Linear SVMs on labelled codes (InterFaceGAN).

    The labels are your own for your own pictures, aligned as the model's are, or what a reader says of samples.

    \b
    Examples:
      sdic-train directions interfacegan --model engines/mine --labels labels.csv --out directions
      sdic-train directions interfacegan --model runs/sdic/model.safetensors --reader runs/reader/model.safetensors --out runs/directions
    """
    if (labels is None) == (reader is None):
        raise ArgumentError("give either --labels, a CSV file of picture,value, or --reader, a network that labels samples")
    from sdic_runtime.cli.targets import writable_folder

    writable_folder(out)
    if labels is not None:
        _from_labels(model, labels, pictures, attributes, space, margin, disentangle, seed, backend, out)
        return
    assert reader is not None
    _from_reader(model, reader, attributes or "smile,age,glasses", samples, margin, disentangle, omit_rare, seed, out)


def _from_labels(
    model: Path,
    labels: Path,
    pictures: Path | None,
    attributes: str | None,
    space: str,
    margin: float,
    disentangle: bool,
    seed: int,
    backend: str,
    out: Path,
) -> None:
    """Directions of labelled pictures, and how far the model follows them."""
    from dataclasses import replace

    import numpy as np

    from sdic_runtime.directions import save_direction
    from sdic_runtime.progress import progress, say
    from sdic_train.data.labels import read_labels
    from sdic_train.directions import labelled
    from sdic_train.directions.latent import Boundary, boundary

    given = read_labels(labels, pictures, None if attributes is None or "," in attributes else attributes.strip())
    if given.missing:
        say(given.missing_notice, error=True)
    names = [name.strip() for name in attributes.split(",")] if attributes else given.attributes
    if unknown := [name for name in names if name not in given.attributes]:
        raise ArgumentError(f'"{unknown[0]}" is no column of {labels}; it has {", ".join(given.attributes)}')
    coder = labelled.open_coder(model, backend)
    batches = progress(labelled.codes_of(coder, given.pictures), "pictures", total=-(-len(given.pictures) // 8), unit="batch")
    codes = np.concatenate(list(batches))
    points = labelled.flat(codes, space)

    def made(name: str, against: np.ndarray | None) -> Boundary:
        column = given.values[:, given.attributes.index(name)]
        known = np.isfinite(column)
        width = float(np.ptp(column[known])) if known.any() else 0.0
        unsure = margin * width if len(np.unique(column[known])) > 2 else 0.0
        return boundary(points[known], column[known], given.threshold(name), name, unsure, against, seed)

    plain = {name: made(name, None) for name in names}
    for name in names:
        others = [plain[other].direction.vector[0] for other in names if other != name]
        result = made(name, np.stack(others)) if disentangle and others else plain[name]
        result = result if space == "w" else labelled.as_rows(result, codes.shape[1])
        reach = labelled.measure_reach(coder, result, given.pictures, space)
        low, high = reach.strength_range
        how = "measured: to there the model finds the edit again" if reach.measured else "guessed: the model does not find the edit again"
        method = f"{result.direction.method}; useful strengths {how}"
        save_direction(out / f"{name}.safetensors", replace(result.direction, method=method, strength_range=reach.strength_range))
        sides = f"accuracy {result.accuracy:.3f}, the sides are {result.separation:.2f} apart"
        echo(f"{name}: {sides}, useful strengths {low:g} to {high:g} ({how.partition(':')[0]})")


def _from_reader(
    model: Path, reader: Path, attributes: str, samples: int, margin: float, disentangle: bool, omit_rare: bool, seed: int, out: Path
) -> None:
    """Directions of sampled codes that a reader labels."""
    import numpy as np

    from sdic_runtime.directions import save_direction
    from sdic_runtime.progress import progress, say
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.directions.latent import Boundary, boundary, calibrated, labelled_codes, labels_of
    from sdic_train.losses.networks import open_reader
    from sdic_train.portraits.portraits import ATTRIBUTES, PARAMETERS

    names = [name.strip() for name in attributes.split(",")]
    if unknown := [name for name in names if name not in ATTRIBUTES]:
        raise ArgumentError(f'"{unknown[0]}" is no attribute of a portrait; use some of {", ".join(ATTRIBUTES)}')
    generator, read = load_generator(model), open_reader(reader)
    batches = labelled_codes(generator, read, samples, seed)
    found = list(progress(batches, "samples", total=-(-samples // 16), unit="batch"))
    codes, values = (np.concatenate(part) for part in zip(*found, strict=True))
    places = {entry.name: (index, entry) for index, entry in enumerate(PARAMETERS)}

    def made(name: str, against: np.ndarray | None) -> Boundary:
        index, entry = places[name]
        return boundary(codes, values[:, index], entry.threshold or 0.0, name, margin * (entry.high - entry.low), against)

    plain: dict[str, Boundary] = {}
    for name in names:
        try:
            plain[name] = made(name, None)
        except ArgumentError as error:
            if not omit_rare or (name == names[-1] and not plain):
                raise
            say(f"omitted: {error}", error=True)
    for name in plain:
        others = [plain[other].direction.vector[0] for other in plain if other != name]
        result, (index, entry) = made(name, np.stack(others)) if disentangle and others else plain[name], places[name]
        labels = lambda some, index=index: labels_of(generator, read, some)[:, index]  # noqa: E731 - of one attribute
        result = calibrated(result, codes, values[:, index], entry.threshold or 0.0, entry.span, labels)
        save_direction(out / f"{name}.safetensors", result.direction)
        echo(f"{name}: accuracy {result.accuracy:.3f}, the sides are {result.separation:.2f} apart")


@app.command("steer")
def steer(
    model: Annotated[Path, Option("--model", metavar="FILE", help="Checkpoint of SDIC, e4e or pSp.", show_default=False)],
    out: FolderOption,
    pairs: Annotated[Path | None, Option(metavar="CSV", help="Your own pairs: lines before,after or before,after,amount.")] = None,
    name: Annotated[str | None, Option(help="What the direction of --pairs is called; as the file if omitted.")] = None,
    attributes: Annotated[str | None, Option(help="Attributes of drawn portraits, with commas between, in place of --pairs.")] = None,
    count: Annotated[int, Option(min=1, help="Pairs of portraits to draw for an attribute; in half as many more it stays.")] = 300,
    reader: Annotated[Path | None, Option(metavar="FILE", help="Portrait reader that says how far drawn attributes move.")] = None,
    perceptual: shared.PerceptualOption = None,
    steps: Annotated[int, Option(min=1, help="Steps of training.")] = 400,
    batch: Annotated[int, Option(min=1, help="Pairs per step.")] = 4,
    changes: Annotated[list[str] | None, Option("--set", metavar="NAME=VALUE", help="Change an option of the recipe: rate=0.01.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    precision: Annotated[str, Option(help="fp32 or bf16: the arithmetic of the networks.")] = "fp32",
    threads: shared.ThreadsOption = 0,
    seed: SeedOption = 1,
    debug: Debug = False,
) -> None:
    """Directions trained on pairs of pictures, before and after.

    The edit of the first picture, inverted and compensated, is to be the second one, so that nothing else is moved.

    \b
    Examples:
      sdic-train directions steer --model SDIC_ffhq.pt --pairs smiles.csv --perceptual alexnet.pth,alex.pth --out directions
      sdic-train directions steer --model demo.safetensors --attributes smile,age --perceptual reader.safetensors --out directions
    """
    if (pairs is None) == (attributes is None):
        raise ArgumentError("give either --pairs, a CSV file of before,after, or --attributes, which are drawn")
    if reader is not None and attributes is None:
        raise ArgumentError("--reader reads drawn portraits; omit it, or use --attributes in place of --pairs")
    from sdic_runtime.cli.targets import writable_folder
    from sdic_train.cli.steering import Plan, steer_drawn, steer_pairs
    from sdic_train.directions.steered import SteeringRecipe
    from sdic_train.losses.networks import open_reader, perceptual_network
    from sdic_train.threads import use_threads
    from sdic_train.trainers.compute import Compute

    writable_folder(out)
    use_threads(threads)
    recipe = shared.changed(SteeringRecipe(seed=seed), changes)
    plan = Plan(model, out, steps, recipe, Compute(batch, device, precision), perceptual_network(perceptual) if recipe.perceptual else None)
    if pairs is not None:
        steer_pairs(plan, pairs, name or pairs.stem)
    else:
        steer_drawn(plan, str(attributes).split(","), count, seed, open_reader(reader) if reader else None)


@app.command("ganspace")
def ganspace(
    model: ModelOption,
    out: FolderOption,
    components: Annotated[int, Option(min=1, help="Components to keep.")] = 80,
    samples: Annotated[int, Option(min=1, help="Codes to sample.")] = 100_000,
    seed: SeedOption = 0,
    debug: Debug = False,
) -> None:
    """Principal components of the mapped codes (GANSpace).

    \b
    Example:
      sdic-train directions ganspace --model SDIC_ffhq.pt --out directions
    """
    from sdic_runtime.cli.targets import writable_folder
    from sdic_runtime.directions import save_direction
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.directions import latent

    writable_folder(out)
    basis = latent.ganspace(load_generator(model), components, samples, seed)
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
    """Directions that the modulations amplify most (SeFa).

    \b
    Example:
      sdic-train directions sefa --model SDIC_ffhq.pt --first 4 --end 8 --out directions
    """
    from sdic_runtime.cli.targets import writable_folder
    from sdic_runtime.directions import save_direction
    from sdic_train.checkpoints.load import load_generator
    from sdic_train.directions import latent

    writable_folder(out)
    found = latent.sefa(load_generator(model), first, end, count)
    for direction in found:
        save_direction(out / f"{direction.name}.safetensors", direction)
        echo(out / f"{direction.name}.safetensors")
