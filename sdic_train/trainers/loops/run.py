"""The loop that every training command shares: resume, logs, sample sheets, progress, and files written whole."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError
from sdic_runtime.files import replacing
from sdic_runtime.progress import shown
from sdic_train.trainers.loops.held import held

if TYPE_CHECKING:
    from sdic_train.trainers.base import Trainer

LOGGER = logging.getLogger("sdic_train")
STATE, LOG, RECIPE, RESULT = "state.pt", "losses.csv", "recipe.json", "model.safetensors"
SOURCES = "sources"  # in a recipe.json: what the run learns from
OpenBoard = Callable[[Path, int], Any]
DIGEST, SHOWN = 64, 12  # digits of a sha256, and those that a sentence says


@dataclass(frozen=True)
class RunOptions:
    """A run's folder and rhythm."""

    folder: Path
    steps: int
    save_every: float = 300.0  # seconds between two saved states
    save_steps: int = 0  # steps between two saved states; 0: by time only
    log_every: int = 50
    sheet_every: float = 600.0
    resume: bool = True
    tensorboard: bool = False
    minutes: float = math.inf  # stop after this long, saved and resumable

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.minutes > 0:
            raise ArgumentError("nothing to train: --steps must be at least 1, --minutes above 0")


def train(trainer: Trainer, options: RunOptions, report: Callable[[str], None] = LOGGER.info) -> dict[str, float]:
    """Trains until `options.steps` or `options.minutes` and returns the last losses. A killed run continues from its last saved state.
    Raises FileError where another training works in the folder."""
    open_board = trainer.compute.alone(_boards) if options.tensorboard else None
    trainer.compute.wait()
    with held(options.folder, trainer.compute):
        return _train(trainer, options, report, open_board)


def _train(trainer: Trainer, options: RunOptions, report: Callable[[str], None], open_board: OpenBoard | None) -> dict[str, float]:
    folder, compute = options.folder, trainer.compute
    same_recipe(trainer, folder, options.resume)
    if options.resume and (folder / STATE).exists():
        trainer.load_state(read_state(folder / STATE))
        report(f"resumed at step {trainer.step}")
    log = compute.alone(Log, folder / LOG, trainer.losses, trainer.step)
    board = compute.alone(open_board, folder, trainer.step) if open_board else None
    compute.wait()
    start = saved = drawn = time.monotonic()
    first, losses, bar = trainer.step, dict[str, float](), _bar(trainer, options)
    try:
        while trainer.step < options.steps:
            losses = trainer.advance()
            check_finite(losses, trainer.step, folder)
            if log:
                compute.alone(log.add, trainer.step, losses)
            if board:
                for name, value in losses.items():
                    compute.alone(board.add_scalar, name, value, trainer.step)
            if bar:
                bar.update(1)
                bar.set_postfix_str(values_of(losses))
            if trainer.step % options.log_every == 0 and not bar:
                rate = (trainer.step - first) / (time.monotonic() - start)
                report(f"step {trainer.step}/{options.steps}, {values_of(losses)}, {_duration((options.steps - trainer.step) / rate)} left")
            now = time.monotonic()
            save, stop = compute.agreed(now - saved > options.save_every, now - start >= options.minutes * 60)
            if save or (options.save_steps and trainer.step % options.save_steps == 0):
                save_state(trainer, folder)
                saved = time.monotonic()
            if now - drawn > options.sheet_every:
                draw_sheet(trainer, folder)
                drawn = time.monotonic()
            if stop:
                break
    finally:
        if bar:
            bar.close()
        if board:
            compute.alone(board.close)
    save_state(trainer, folder)
    draw_sheet(trainer, folder)
    compute.alone(trainer.save, folder / RESULT)
    compute.wait()
    return losses


class Log:
    """A CSV file with one row per step. Rows behind the step that a run resumes from are dropped: they will be computed again."""

    def __init__(self, path: Path, names: tuple[str, ...], step: int) -> None:
        self.names = names
        rows = []
        if path.exists() and step:
            with path.open(newline="") as stream:
                rows = [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= step]
        with replacing(path) as temporary, temporary.open("w", newline="") as stream:
            csv.writer(stream).writerows([["step", *names], *rows])
        self.writer = csv.writer(path.open("a", newline="", buffering=1))  # a row is in the file before the state that follows it

    def add(self, step: int, losses: dict[str, float]) -> None:
        self.writer.writerow([step, *(f"{losses[name]:.9g}" if name in losses else "" for name in self.names)])


def read_log(path: Path) -> dict[str, list[float]]:
    """The columns of a run's log; steps without a value are omitted from that column."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows if row[name]] for name in (rows[0] if rows else {})}


def read_state(path: Path, otherwise: str = "delete it to start again, or restore it") -> dict[str, Any]:
    """A state that `train` saved. Raises FileError for a damaged file, which says what to do `otherwise`."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise FileError(f"the saved state {path} cannot be read ({kind}); {otherwise}") from error


def save_state(trainer: Trainer, folder: Path) -> None:
    """Save what `train` goes on from. Raises FileError, in all processes."""
    trainer.compute.alone(_save_state, trainer, folder / STATE)
    trainer.compute.wait()


def _save_state(trainer: Trainer, path: Path) -> None:
    import torch

    with replacing(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(trainer.state(), stream)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides a full disk behind an error of its own
                raise error.__context__ from None
            raise


def draw_sheet(trainer: Trainer, folder: Path) -> None:
    """Draw the trainer's sheet, if it has one. What goes wrong is raised when the processes meet next, see `Compute.alone`."""
    trainer.compute.alone(_draw_sheet, trainer, folder / f"sheet_{trainer.step:07d}.png")


def _draw_sheet(trainer: Trainer, path: Path) -> None:
    if (sheet := trainer.sheet()) is not None:
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")


def same_recipe(trainer: Trainer, folder: Path, resume: bool, apart: tuple[str, ...] = ()) -> None:
    """Refuses to resume a run with other options than it was started with, those named in `apart` left aside. More steps are no other
    options where the rates do not depend on how many there are. An option that the run does not say, because there was none then, had its
    default. What a run learns from is compared where both say it, see `sources`."""
    recipe, path = json.loads(json.dumps(trainer.describe())), folder / RECIPE
    sources = recipe.pop(SOURCES, {})
    if resume and path.exists() and (folder / STATE).exists():
        defaults = {entry.name: entry.default for entry in fields(trainer.recipe)}
        before = {**defaults, **json.loads(path.read_text())}
        read = before.pop(SOURCES, {})
        if before.get("steps", 0) < trainer.steps:
            if not recipe.get("decay"):
                apart = (*apart, "steps")
            elif "steps" not in apart:
                raise ArgumentError(
                    f"{folder} holds a run of {before.get('steps')} steps (now {trainer.steps}), and its rates fall towards their end; "
                    "start another run in another --out, or --restart"
                )
        both = [(name, before.get(name), recipe.get(name)) for name in sorted({*before, *recipe} - {*apart})]
        both += [(name, read[name], value) for name, value in sources.items() if name in read]
        if other := next(((name, old, new) for name, old, new in both if old != new), None):
            name, old, new = other
            raise ArgumentError(
                f"{folder} holds a run with another {name} ({short(old)}, now {short(new)}); "
                "give the same options, another --out, or --restart"
            )
        sources = {**read, **sources}
    trainer.compute.alone(_write_recipe, path, {**recipe, **({SOURCES: sources} if sources else {})}, resume)


def _write_recipe(path: Path, recipe: dict[str, Any], resume: bool) -> None:
    if not resume:  # a state is never there with the recipe of another run
        path.with_name(STATE).unlink(missing_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1))


def short(value: Any) -> Any:
    """What a sentence says of a value: of a digest its first digits."""
    return value[:SHOWN] if isinstance(value, str) and len(value) == DIGEST else value


def check_finite(losses: dict[str, float], step: int, folder: Path) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise ArgumentError(
                f'the loss "{name}" became {value} at step {step}; begin again with a smaller rate (--set rate=...), '
                f"in another folder than {folder} or with --restart"
            )


def _bar(trainer: Trainer, options: RunOptions) -> Any:
    if not (trainer.compute.main and shown()):
        return None
    from tqdm import tqdm

    return tqdm(total=options.steps, initial=trainer.step, unit="step", desc=options.folder.name)


def _boards() -> OpenBoard:
    """What opens TensorBoard logs in a run's folder, from a step on: what a killed run wrote behind that step is dropped."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train", "--tensorboard") from error
    return lambda folder, step: SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def values_of(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in losses.items())


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
