"""`sdic-export directions`: what a bundle can be edited along, added and removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer, echo

from sdic_runtime.cli.options import Debug, JsonOption
from sdic_runtime.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdic_runtime.bundle.manifest import Manifest
    from sdic_runtime.directions import AnyDirection

app = Typer(no_args_is_help=True, rich_markup_mode=None, help="Add, list and remove the directions of a bundle.")

BundleArgument = Annotated[Path, Argument(metavar="BUNDLE", help="Bundle folder.", show_default=False)]
RangeOption = Annotated[tuple[float, float] | None, Option("--range", metavar="LOW HIGH", help="Useful strengths, for sweeps and sliders.")]
LicenceOption = Annotated[str, Option("--licence", metavar="TEXT", help="What you know of the licence.")]
ReplaceOption = Annotated[bool, Option("--replace", help="Replace a direction of the same name.")]


@app.command("add")
def add(
    bundle: BundleArgument,
    files: Annotated[list[Path], Argument(metavar="FILE...", help="Files, or folders of them.", show_default=False)],
    name: Annotated[str | None, Option("--name", help="Name of a single direction; that of its file when omitted.")] = None,
    useful: RangeOption = None,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    debug: Debug = False,
) -> None:
    """Add directions from files.

    Reads InterFaceGAN's .pt and .npy, GANSpace's .pt and .npz, the boundaries of the Feature-Style encoder, offsets in style space, and our
    own .safetensors. Each must fit the model.

    \b
    Example:
      sdic-export directions add engines/ffhq1024 smile.pt --range -2.5 2.5
    """
    from sdic_export.directions.files import read_directions

    def make(manifest: Manifest) -> Mapping[str, AnyDirection]:
        found = read_directions(files, manifest.sizes, manifest.domain, renamed=name is not None)
        if name is not None and len(found) != 1:
            raise ArgumentError(f"--name names one direction, and there are {len(found)}; add them one by one")
        return {name or known: direction for known, direction in found.items()}

    _add(bundle, make, useful, licence, replace)


@app.command("list")
def show(bundle: BundleArgument, json_file: JsonOption = None, debug: Debug = False) -> None:
    """List the directions of a bundle, as `sdic-run directions` does.

    \b
    Example:
      sdic-export directions list engines/ffhq1024
    """
    from sdic_runtime.cli.directions import run

    run(bundle, json_file)


@app.command("remove")
def remove(
    bundle: BundleArgument,
    names: Annotated[list[str], Argument(metavar="NAME...", help="Directions of the bundle.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Remove directions from a bundle.

    \b
    Example:
      sdic-export directions remove engines/ffhq1024 smile
    """
    from sdic_export.directions.bundle import remove_directions

    remove_directions(bundle, names)


@app.command("sefa")
def sefa(
    bundle: BundleArgument,
    count: Annotated[int, Option("--count", min=1, help="Directions to add.")] = 5,
    rows: Annotated[tuple[int, int], Option("--rows", metavar="FIRST END", help="Style rows that they move, END not included.")] = (0, 4),
    checkpoint: Annotated[
        Path | None, Option("--checkpoint", metavar="FILE", help="The model's weights; those the bundle was built from when omitted.")
    ] = None,
    useful: RangeOption = None,
    replace: ReplaceOption = False,
    debug: Debug = False,
) -> None:
    """Add the directions that the generator amplifies most (SeFa).

    They are computed from its weights alone, and called sefa_FIRST_END_0, sefa_FIRST_END_1, ...

    \b
    Example:
      sdic-export directions sefa engines/ffhq1024 --rows 0 4 --count 5
    """
    from sdic_runtime.bundle.bundle import Bundle
    from sdic_train.backend import recorded_checkpoint, recorded_others
    from sdic_train.directions import latent
    from sdic_train.methods import code_of

    opened = Bundle.open(bundle)
    path = checkpoint or recorded_checkpoint(opened)
    model = code_of(opened.manifest).read(path, opened.manifest.domain, recorded_others(opened))
    found = latent.sefa(model.generator, *rows, count)  # type: ignore[arg-type]
    _add(bundle, lambda manifest: {direction.name: direction for direction in found}, useful, "", replace)


@app.command("channels")
def channels(
    bundle: BundleArgument,
    name: Annotated[str, Argument(metavar="NAME", help="Name of the new direction.", show_default=False)],
    parts: Annotated[list[str], Argument(metavar="LAYER/CHANNEL[:AMOUNT]...", help="Style channels.", show_default=False)],
    statistics: Annotated[
        Path | None, Option("--std", metavar="FILE", help="StyleCLIP's S_mean_std: amounts are then in standard deviations.")
    ] = None,
    useful: RangeOption = None,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    debug: Debug = False,
) -> None:
    """Add an edit of style channels (StyleSpace).

    Needs a bundle built with --style-space. Layers are counted as StyleSpace does, RGB layers too.

    \b
    Example:
      sdic-export directions channels engines/ffhq1024 white_hair 11/286:-1 --range 0 20
    """
    from sdic_export.directions.style_channels import channel_direction

    _add(bundle, lambda manifest: {name: channel_direction(manifest.style_layers, parts, name, statistics)}, useful, licence, replace)


@app.command("styleclip")
def styleclip(
    bundle: BundleArgument,
    name: Annotated[str, Argument(metavar="NAME", help="Name of the new direction.", show_default=False)],
    arrays: Annotated[Path, Option("--arrays", metavar="DIR", help="Folder with fs3.npy and S_mean_std.", show_default=False)],
    target: Annotated[str, Option("--target", metavar="TEXT", help="What the edit should give.")] = "",
    neutral: Annotated[str, Option("--neutral", metavar="TEXT", help="What the picture shows now.")] = "a face",
    clip: Annotated[Path | None, Option("--clip", metavar="DIR", help="Folder with text_model.onnx and tokenizer.json of CLIP.")] = None,
    embeddings: Annotated[
        Path | None, Option("--embeddings", metavar="FILE", help="In place of --clip: .npy [2, D], embeddings of target and neutral text.")
    ] = None,
    beta: Annotated[float, Option("--beta", min=0.0, help="Relevance below which a style stays; smaller changes more.")] = 0.15,
    useful: RangeOption = None,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    debug: Debug = False,
) -> None:
    """Add an edit by words (StyleCLIP's global directions).

    Needs a bundle built with --style-space, the arrays of its generator, and CLIP's text encoder (ViT-B/32) or embeddings that it gave.

    \b
    Example:
      sdic-export directions styleclip engines/ffhq1024 bob --target "a face with a bob cut" --arrays ffhq/ --clip clip-vit-base-patch32/
    """
    from sdic_export.directions import styleclip as words

    if (clip is None) == (embeddings is None):
        raise ArgumentError("give either --clip, the folder of CLIP's text encoder, or --embeddings, a file that it made")
    if clip is not None and not target:
        raise ArgumentError("give the words of the edit with --target")

    def make(manifest: Manifest) -> Mapping[str, AnyDirection]:
        relevance = words.read_relevance(arrays / words.ARRAYS)
        deviations = words.read_deviations(arrays / words.STATISTICS, manifest.style_layers)
        if embeddings is not None:
            change, said = words.read_embeddings(embeddings), embeddings.name
        else:
            assert clip is not None
            change = words.text_change(clip, target, neutral, words.read_templates(arrays / words.TEMPLATES))
            said = f'"{neutral}" to "{target}"'
        return {name: words.global_direction(relevance, deviations, change, beta, name, f"StyleCLIP: {said}, beta {beta:g}")}

    _add(bundle, make, useful, licence, replace)


def _add(
    bundle: Path, make: Callable[[Manifest], Mapping[str, AnyDirection]], useful: tuple[float, float] | None, licence: str, replacing: bool
) -> None:
    """Add what `make` gives, with what the user said of it, and print the files."""
    from dataclasses import replace

    from sdic_export.directions.bundle import add_directions
    from sdic_runtime.edits import Pca, check_number

    if useful is not None and not check_number(useful[0], "--range") < check_number(useful[1], "--range"):
        raise ArgumentError(f"--range is {useful[0]:g} {useful[1]:g}; give the lower end first")

    def made(manifest: Manifest) -> Mapping[str, AnyDirection]:
        given = {name: replace(direction, name=name) for name, direction in make(manifest).items()}
        if useful is not None and any(isinstance(direction, Pca) for direction in given.values()):
            raise ArgumentError("--range is for directions; the components of a PCA basis have no range of their own")
        said = ({} if useful is None else {"strength_range": useful}) | ({"licence": licence} if licence else {})
        return {name: replace(direction, **said) for name, direction in given.items()}  # type: ignore[arg-type]

    for file in add_directions(bundle, made, replacing):
        echo(bundle / file)
