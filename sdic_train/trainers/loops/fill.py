"""The loop of a training that fills a given time: its number of steps, and with it the fall of its rates, follows from its pace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import ArgumentError
from sdic_runtime.files import replacing
from sdic_train.trainers.loops.graphs import Graphs
from sdic_train.trainers.loops.held import held
from sdic_train.trainers.loops.pace import UNKNOWN, Pace
from sdic_train.trainers.loops.run import (
    LOG,
    LOGGER,
    RESULT,
    STATE,
    Log,
    check_finite,
    draw_sheet,
    read_state,
    same_recipe,
    save_state,
    values_of,
)

if TYPE_CHECKING:
    from sdic_train.trainers.base import Trainer

PACE = "pace.json"


@dataclass(frozen=True)
class FillOptions:
    """`until`: seconds since 1970. `read_every`: steps between two rows of the log; in the others nobody waits for the device. `graphs`:
    record steps on a GPU."""

    folder: Path
    until: float
    read_every: int = 1
    graphs: bool = False
    resume: bool = True


def fill(trainer: Trainer, options: FillOptions, report: Callable[[str], None] = LOGGER.info) -> dict[str, float]:
    """Trains until shortly before `options.until`, writes the result, and returns the last losses that were read.

    How many steps that are is measured in the first seconds and again at every tenth of the time; the folder's pace.json says it. The
    result is also written at every measurement, so that one is there whenever the process is ended. Raises ArgumentError, also where the
    time is over before the first step of a run, and FileError where another training works in the folder.
    """
    if trainer.compute.processes > 1:
        raise ArgumentError("--until is for one process; give --steps for several")
    folder, pace = options.folder, Pace(options.until)
    if pace.over and not (options.resume and (folder / STATE).exists()):
        raise ArgumentError(f"--until {options.until:.0f} is over ({pace.start:.0f} now), with no time for a step; give a later time")
    with held(folder, trainer.compute):
        return _fill(trainer, options, pace, report)


def _fill(trainer: Trainer, options: FillOptions, pace: Pace, report: Callable[[str], None]) -> dict[str, float]:
    folder = options.folder
    same_recipe(trainer, folder, options.resume, apart=("steps",))
    if options.resume and (folder / STATE).exists():
        trainer.load_state(read_state(folder / STATE))
        report(f"resumed at step {trainer.step}")
    if options.graphs:
        trainer.graphs = Graphs(trainer.weights(), report, trainer.one_off)
    pace.first, trainer.steps = trainer.step, UNKNOWN
    log, losses = Log(folder / LOG, trainer.losses, trainer.step), dict[str, float]()
    while trainer.step < trainer.steps and not (trainer.step and pace.over):
        read = (trainer.step + 1) % options.read_every == 0
        if found := trainer.advance() if read else trainer.advance(read=False):
            losses = found
            check_finite(losses, trainer.step, folder)
            log.add(trainer.step, losses)
        if pace.due(trainer.step):
            trainer.compute.synchronize()
            trainer.steps = pace.plan(trainer.step, trainer.once)
            if pace.plans:
                trainer.save(folder / RESULT)
                report(f"step {trainer.step} of {trainer.steps}, {pace.plans[-1].seconds_per_step:.3f} s a step, {values_of(losses)}")
    trainer.compute.synchronize()
    trainer.steps = trainer.step
    trainer.save(folder / RESULT)
    _tell(trainer, pace, folder, losses)
    same_recipe(trainer, folder, options.resume, apart=("steps",))
    save_state(trainer, folder)
    draw_sheet(trainer, folder)
    return losses


def _tell(trainer: Trainer, pace: Pace, folder: Path, losses: dict[str, float]) -> None:
    """Write down what the run was."""
    compute = trainer.compute
    told: dict[str, Any] = {
        **pace.describe(trainer.step),
        "batch": compute.batch,
        "precision": compute.precision,
        "device": compute.name,
        "losses": losses,
    }
    with replacing(folder / PACE) as temporary:
        temporary.write_text(json.dumps(told, indent=1))
