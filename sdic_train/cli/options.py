"""Options that the training commands share. Only light imports at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sdic_runtime.errors import SdicError

if TYPE_CHECKING:
    from sdic_train.config import ModelConfig
    from sdic_train.data.datasets import PictureSet
    from sdic_train.trainers.engine import Engine
    from sdic_train.trainers.run import RunOptions, Trainer

Recipe = TypeVar("Recipe")


class Photos(str, Enum):
    """Which portraits to train on."""

    plain = "plain"
    photo = "photo"
    both = "both"


SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run: state, log, sheets, model.", show_default=False)
]
DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder that `sdic-train dataset` filled.", show_default=False)]
SizesOption = Annotated[str, typer.Option("--sizes", help="Sizes of the networks: faces, cars, demo, tiny, or a JSON file.")]
StepsOption = Annotated[int, typer.Option("--steps", min=1, help="Steps of the whole run.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Pictures per step, over all processes and accumulated parts.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one option of the recipe; may be given several times.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<number>.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32 or bf16: the arithmetic of the networks.")]
AccumulateOption = Annotated[int, typer.Option("--accumulate", min=1, help="Parts into which each process cuts its share of a batch.")]
SeedOption = Annotated[int, typer.Option("--data-seed", min=0, help="Which of the endless data sets.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Start again instead of resuming what is in --out.")]
MinutesOption = Annotated[
    float, typer.Option("--minutes", min=0, help="Stop after this long; the run stays resumable.", show_default=False)
]
BoardOption = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard logs.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="Processor threads; 0 leaves it to PyTorch.")]
PerceptualOption = Annotated[
    Path | None,
    typer.Option(
        "--perceptual",
        metavar="FILE[,FILE]",
        help="Weights of the perceptual distance: AlexNet and LPIPS weights with a comma between, or a portrait reader (.safetensors).",
    ),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        help="Weights of the identity network: IR-SE-50 (ArcFace), MoCo-v2 ResNet-50, or a portrait reader (.safetensors).",
    ),
]
DataSizeOption = Annotated[int, typer.Option("--data-size", min=0, help="Size of the cached pictures; the model's when left out.")]
PhotosOption = Annotated[Photos, typer.Option("--photos", help="Portraits without details, with them (photos, data seed + 1), or both.")]
SaveOption = Annotated[float, typer.Option("--save-minutes", min=0, help="Minutes between two saved states.")]


def changed(recipe: Recipe, changes: Sequence[str] | None) -> Recipe:
    """The recipe with NAME=VALUE applied, each value in the type of the recipe's own. Raises SdicError."""
    known = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe)}  # type: ignore[arg-type]
    values = {}
    for change in changes or ():
        name, sign, text = change.partition("=")
        if not sign or name not in known:
            raise SdicError(f"--set {change} names no option of this recipe; use NAME=VALUE with one of: {', '.join(known)}")
        values[name] = _value(name, text, known[name])
    return replace(recipe, **values)  # type: ignore[type-var]


def _value(name: str, text: str, example: Any) -> Any:
    if isinstance(example, bool):
        if text.lower() not in SWITCHES:
            raise SdicError(f"--set {name}={text} is not a switch; use {name}=true or {name}=false")
        return SWITCHES[text.lower()]
    if isinstance(example, str):
        return text
    try:
        value = type(example)(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "rate" and value <= 0):
        raise SdicError(f"--set {name}={text} is not a number like {example}; give one")
    return value


def named(table: dict[str, Recipe], name: str, what: str) -> Recipe:
    """table[name], or an SdicError that lists the names."""
    if name not in table:
        raise SdicError(f'there is no {what} "{name}"; the {what}s are: {", ".join(table)}')
    return table[name]


def sizes(name: str) -> ModelConfig:
    """The preset `name`, or the sizes in a JSON file of `ModelConfig.as_dict`."""
    import json

    from sdic_train.config import PRESETS, ModelConfig

    if not name.endswith(".json"):
        return named(PRESETS, name, "size preset")
    try:
        return ModelConfig.from_dict(json.loads(Path(name).read_text()))
    except (OSError, ValueError) as error:
        raise SdicError(f"the sizes cannot be read from {name}: {error}") from error


def engine(batch: int, device: str, precision: str, accumulate: int, threads: int) -> Engine:
    """The engine these options describe."""
    import torch

    from sdic_train.trainers.engine import Engine, EngineOptions

    if threads:
        torch.set_num_threads(threads)
    return Engine(EngineOptions(batch, device, precision, accumulate))


def run(trainer: Trainer, options: RunOptions) -> dict[str, float]:
    """Trains with messages on standard error."""
    from sdic_train.trainers.run import train

    return train(trainer, options, lambda text: typer.echo(text, err=True))


def pictures(folder: Path, size: int, photos: Photos, seed: int) -> PictureSet:
    """The pictures of one size in a data folder: portraits, or a folder's pictures where it was filled from one."""
    from sdic_train.data.datasets import joined, open_pictures

    if photos is not Photos.both:
        return open_pictures(folder, size, photos is Photos.photo, seed)
    plain = open_pictures(folder, size, False, seed)
    return plain if plain.values is None else joined(plain, open_pictures(folder, size, True, seed + 1))
