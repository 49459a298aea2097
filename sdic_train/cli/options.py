"""Options that the training commands share. Only light imports at the top."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from typer import Option, echo

from sdic_runtime.cli.options import Debug, notice
from sdic_runtime.errors import ArgumentError, CheckpointError, FileError

if TYPE_CHECKING:
    from sdic_train.config import ModelConfig
    from sdic_train.data.datasets import PictureSet
    from sdic_train.trainers.base import Trainer
    from sdic_train.trainers.compute import Compute

Recipe = TypeVar("Recipe")


class Photos(str, Enum):
    """Which portraits to train on."""

    plain = "plain"
    photo = "photo"
    both = "both"


class Domain(str, Enum):
    """Domains whose pictures are prepared in different ways."""

    faces = "faces"
    cars = "cars"


RANGES = {  # of options of recipes, whose other numbers may be any
    **dict.fromkeys(("narrow", "iterations", "body", "scales", "r1_every", "path_every", "latent_r1_every"), (1, math.inf)),
    **dict.fromkeys(("discriminator_rate", "latent_rate"), (0, math.inf)),
    "dropout": (0, 1),
    "momentum": (0, 0.999),
}
ALONE = ("minutes", "save_minutes", "tensorboard")  # options of trainings that are not filled, see `Training.until`
FILLED = ("log_steps", "graphs")  # options of those that are
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

DataOption = Annotated[Path, Option("--data", metavar="DIR", help="Folder that `sdic-train dataset` filled.", show_default=False)]
SizesOption = Annotated[str, Option("--sizes", help="Sizes of the networks: faces, cars, demo, tiny, or a JSON file.")]
ThreadsOption = Annotated[int, Option("--threads", min=0, help="CPU threads; 0: as PyTorch chooses.")]
_PERCEPTUAL = "Weights of the perceptual distance: AlexNet and LPIPS weights with a comma between, or a portrait reader (.safetensors)."
_IDENTITY = (
    "Weights of the identity network: IR-SE-50 (ArcFace), IR-101 (CurricularFace), MoCo-v2 ResNet-50, or a portrait reader (.safetensors)."
)
PerceptualOption = Annotated[Path | None, Option("--perceptual", metavar="FILE[,FILE]", help=_PERCEPTUAL)]
IdentityOption = Annotated[Path | None, Option("--identity", metavar="FILE", help=_IDENTITY)]
_DOMAIN = "What the pictures of a released file show, whatever it says: those of cars lie between black bars."
DomainOption = Annotated[Domain | None, Option("--domain", help=_DOMAIN)]
_PHOTOS = "Portraits of --data-seed without details (plain) or with them (photo), or plain ones and photos of the seed after it (both)."
PhotosOption = Annotated[Photos, Option("--photos", help=_PHOTOS)]


def changed(recipe: Recipe, changes: Sequence[str] | None) -> Recipe:
    """The recipe with NAME=VALUE applied, each value in the type of the recipe's own. Raises ArgumentError."""
    known = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe)}  # type: ignore[arg-type]
    values = {}
    for change in changes or ():
        name, sign, text = change.partition("=")
        if not sign or name not in known:
            raise ArgumentError(f"--set {change} names no option of this recipe; use NAME=VALUE with one of: {', '.join(known)}")
        values[name] = _value(name, text, known[name])
    return replace(recipe, **values)  # type: ignore[type-var]


def _value(name: str, text: str, example: Any) -> Any:
    if isinstance(example, bool):
        if text.lower() not in SWITCHES:
            raise ArgumentError(f"--set {name}={text} is not a switch; use {name}=true or {name}=false")
        return SWITCHES[text.lower()]
    if isinstance(example, str):
        return text
    try:
        value = type(example)(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "rate" and value <= 0):
        raise ArgumentError(f"--set {name}={text} is not a number like {example}; give one")
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if not low <= value <= high:
        raise ArgumentError(f"--set {name}={text} is out of range; use {low} {'or more' if high == math.inf else f'to {high}'}")
    return value


def domain_of(generator: Path, domain: Domain | None, encoder: Path | None = None) -> str | None:
    """The domain that `--domain` gives. Where it gives none, and the file is a generator alone of the size of the released cars', tells how
    its pictures are taken, unless there is an `encoder` that says it. Raises CheckpointError for a file that says another one."""
    from sdic_train.checkpoints.load import read_checkpoint
    from sdic_train.config import CARS, check_domain

    wanted = None if domain is None else domain.value
    checkpoint = read_checkpoint(generator, wanted, sure=False)
    if wanted is not None or encoder is not None:
        check_domain(generator, checkpoint.config.domain, wanted)
        return wanted
    if checkpoint.alone and checkpoint.config.resolution == CARS.resolution:
        notice(f"pictures of {generator} are taken to fill the whole square; give --domain cars where they lie between black bars")
    return None


def named(table: Mapping[str, Recipe], name: str, what: str) -> Recipe:
    """table[name], or an ArgumentError that lists the names."""
    if name not in table:
        raise ArgumentError(f'there is no {what} "{name}"; the {what}s are: {", ".join(table)}')
    return table[name]


def sizes(name: str) -> ModelConfig:
    """The preset `name`, or the sizes in a JSON file of `ModelConfig.as_dict`."""
    import json

    from sdic_train.config import PRESETS, ModelConfig

    if not name.endswith(".json"):
        return named(PRESETS, name, "size preset")
    try:
        config = ModelConfig.from_dict(json.loads(Path(name).read_text()))
    except (OSError, ValueError, TypeError, CheckpointError) as error:
        what = str(error).partition("; save the checkpoint again")[0]
        raise FileError(f'the sizes cannot be read from {name}: {what}; give JSON like the "config" of a run\'s recipe.json') from error
    config.condition  # noqa: B018  (raises where an SDIC of these sizes cannot be)
    return config


@dataclass(frozen=True)
class Training:
    """What every training command is told."""

    data: DataOption
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="Folder of the run: state, log, sheets, model.", show_default=False)]
    steps: Annotated[int, Option(min=1, help="Steps of the whole run.")]
    batch: Annotated[int, Option(min=1, help="Pictures per step, over all processes and accumulated parts.")]
    changes: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="Change one option of the recipe; may be given several times.")
    ] = None
    data_size: Annotated[int, Option(min=0, help="Size of the cached pictures; by default the model's.")] = 0
    data_seed: Annotated[int, Option(min=0, help="Random seed of the data set; those from 900000 on are for evaluation.")] = 0
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto"
    precision: Annotated[str, Option(help="fp32 or bf16: the arithmetic of the networks.")] = "fp32"
    accumulate: Annotated[int, Option(min=1, help="Parts into which each process cuts its share of a batch.")] = 1
    threads: ThreadsOption = 0
    save_minutes: Annotated[float, Option(min=0, help="Minutes between two saved states.")] = 5.0
    minutes: Annotated[float, Option(min=0, help="Stop after this long; the run stays resumable.", show_default=False)] = math.inf
    until: Annotated[
        float,
        Option(
            min=0,
            help="Fill the time until then, in seconds since 1970, with as many steps as fit; --steps is not read.",
            show_default=False,
        ),
    ] = math.inf
    log_steps: Annotated[int, Option(min=1, help="With --until: steps between two rows of the log.")] = 1
    graphs: Annotated[bool, Option("--graphs", help="With --until, on a GPU: record a step's kernels once and repeat them.")] = False
    restart: Annotated[bool, Option("--restart", help="Start again instead of resuming what is in --out.")] = False
    tensorboard: Annotated[bool, Option("--tensorboard", help="Also write TensorBoard logs.")] = False
    debug: Debug = False

    def __post_init__(self) -> None:
        filled = math.isfinite(self.until)
        unread = {name for name in (ALONE if filled else FILLED) if getattr(self, name) != getattr(Training, name)}
        if unread:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unread))
            raise ArgumentError(f"{given} {'is not read with' if filled else 'is read only with'} --until; omit it")

    @property
    def resumes(self) -> bool:
        """Whether there is a run to continue."""
        from sdic_train.trainers.loops.run import STATE

        return not self.restart and (self.out / STATE).exists()

    def compute(self) -> Compute:
        """Where and how the steps are computed."""
        from sdic_train.threads import use_threads
        from sdic_train.trainers.compute import Compute

        use_threads(self.threads)
        return Compute(self.batch, self.device, self.precision, self.accumulate)

    def pictures(self, size: int, photos: Photos) -> PictureSet:
        """The pictures to train on, of `--data-size` or of `size`. Raises ArgumentError for those that are kept for evaluation."""
        check_training_seed("--data-seed", self.data_seed, self.data_seed + (photos is Photos.both))
        return pictures(self.data, self.data_size or size, photos, self.data_seed)

    def run(self, trainer: Trainer) -> None:
        """Trains with messages on standard error, and prints the run's folder; of several processes one speaks."""
        from sdic_train.trainers.loops.fill import FillOptions, fill
        from sdic_train.trainers.loops.run import RunOptions, train

        if self.graphs and not trainer.recorded:
            raise ArgumentError(f"--graphs records the steps of encoders and methods, not those of a {trainer.kind}; omit it")
        speaks = trainer.compute.main
        resume = not self.restart

        def say(text: str) -> None:
            if speaks:
                echo(text, err=True)

        if math.isfinite(self.until):
            fill(trainer, FillOptions(self.out, self.until, self.log_steps, self.graphs, resume), say)
        else:
            save = self.save_minutes * 60
            train(trainer, RunOptions(self.out, self.steps, save, resume=resume, tensorboard=self.tensorboard, minutes=self.minutes), say)
        if remark := trainer.remark():
            say(remark)
        if speaks:
            echo(self.out)


@dataclass(frozen=True)
class Told(Training):
    """With the options of the command's own, by the names under which they are given."""

    given: Mapping[str, Any] = field(default_factory=dict)

    def run(self, trainer: Trainer) -> None:
        from sdic_train.trainers.loops.sources import sources_of

        trainer.sources = sources_of(self.given, self.data_seed, trainer.pictures)
        super().run(trainer)


def training(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of `Training` with these defaults, behind its own; its first argument is then the `Training`."""

    def extended(command: Callable[..., None]) -> Callable[..., None]:
        hints, entries = get_type_hints(Training, include_extras=True), fields(Training)
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        added, names = [], {entry.name: _given_as(entry) for entry in own}
        for entry in entries:
            default = defaults.get(entry.name, Parameter.empty if entry.default is MISSING else entry.default)
            added.append(Parameter(entry.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[entry.name]))

        def run(**values: Any) -> None:
            shared = {entry.name: values.pop(entry.name) for entry in entries}
            command(Told(**shared, given={names[name]: value for name, value in values.items()}), **values)

        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature([*(entry.replace(kind=Parameter.KEYWORD_ONLY) for entry in own), *added])  # type: ignore[attr-defined]
        return run

    return extended


def _given_as(parameter: Parameter) -> str:
    """What a command's option is called on the command line."""
    declared = parameter.annotation.__metadata__[0].param_decls or (f"--{parameter.name.replace('_', '-')}",)
    return str(declared[0])


def check_training_seed(option: str, seed: int, last: int | None = None) -> None:
    """Raise ArgumentError where the seed that `option` gives, or the `last` one that is taken then, is of what is never trained on."""
    from sdic_train.data.datasets import HELD_OUT_SEED

    if max(seed, last or 0) >= HELD_OUT_SEED:
        raise ArgumentError(
            f"{option} {seed} takes pictures that are kept for evaluation (seeds from {HELD_OUT_SEED} on); train on those of a smaller seed"
        )


def pictures(folder: Path, size: int, photos: Photos, seed: int) -> PictureSet:
    """The pictures of one size in a data folder: portraits, or a folder's pictures where it was filled from one."""
    from sdic_train.data.datasets import joined, open_pictures

    if photos is not Photos.both:
        return open_pictures(folder, size, photos is Photos.photo, seed)
    plain = open_pictures(folder, size, False, seed)
    return plain if plain.values is None else joined(plain, open_pictures(folder, size, True, seed + 1))
