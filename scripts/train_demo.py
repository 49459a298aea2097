"""Train a demo model from nothing, in stages that each fit a few minutes of a GPU on a machine that keeps nothing.

    python scripts/train_demo.py --list                                           # the stages in their order, and what there is of them
    python scripts/train_demo.py --stage begin --state runs/demo --device cuda    # one stage; then the next
    python scripts/train_demo.py --stage all --state runs/demo --rehearse         # all of them with tiny networks on a CPU

A stage reads what those before it left in --state, and leaves a few files there, or in --out: `STAGE.json` and parts of an archive of at
most 15 MB. It draws its pictures itself. Its trainings fill --minutes. What a stage that was stopped had finished is kept; the same
command goes on with the rest. --more trains a finished stage on, and a stage is made anew when one before it has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import demo_sheets
import demo_state
import wall_time
from demo_stages import FITS, HELD_OUT, RESULT, Stage, Task, stages
from gpu_check import environment, product

ROOT, STATE, PACE = wall_time.ROOT, "state.pt", "pace.json"
KEPT = (PACE, "losses.csv", "recipe.json", "sheet_*.png")  # of every finished training
PACKING, PACKING_SHARE = 15.0, 0.1  # seconds, or the share of the time, that are kept for packing
WATCH = 1.0  # seconds between two looks for a training that has ended
THREADS = 4  # of one training, at most


@dataclass(frozen=True)
class Demo:
    """A call: which model, where, and on what. `locks`: that of the folder of the work, which children hold too."""

    options: argparse.Namespace
    locks: tuple[int, ...] = ()

    @property
    def work(self) -> Path:
        return Path(self.options.work).resolve()

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def out(self) -> Path:
        return Path(self.options.out or self.options.state).resolve()

    @property
    def places(self) -> list[Path]:
        """Where files of the state lie; the last counts most."""
        return list(dict.fromkeys((Path(self.options.state).resolve(), self.out)))

    def chain(self, task: Task) -> tuple[Task, ...]:
        return next(chain for stage in stages(self.options.size) for chain in stage.chains if task in chain)

    def folder(self, task: Task) -> Path:
        """Of a training's run, in that of its chain."""
        return self.runs / self.chain(task)[-1].name / task.name

    def made(self, name: str) -> str:
        """What the last training of a chain made."""
        return str(self.runs / name / name / RESULT)

    def model_sizes(self) -> dict[str, Any]:
        """The sizes of the networks, as `--sizes` reads them. The other networks read 128 pixels of a picture of 256."""
        from sdic_train.config import DEMO, TINY

        base, size = (TINY if self.options.rehearse else DEMO), self.options.size
        channels = {**base.channels, **{edge: max(8, base.channels[128] // 2) for edge in (256,) if edge <= size}}
        config = replace(base, resolution=size, channels=channels)
        return replace(config, discrepancy=replace(config.discrepancy, shift_rows=config.rows)).as_dict()

    def words(self, task: Task, more: bool, chains: int) -> list[str]:
        """The command of a training without the time that it fills."""
        options = self.options
        places = {each.name: str(self.folder(each)) for stage in stages(options.size) for each in stage.tasks}
        start = places[task.name if more else task.start] if task.start else ""
        own = [word.format(**places, start=start, sizes=self.work / "sizes.json") for word in task.words]
        threads = 1 if options.rehearse else max(1, min(THREADS, (os.cpu_count() or 1) // chains))
        rehearsed = options.rehearse or options.device == "cpu"
        how = ("--batch", "4" if options.rehearse else str(task.batch), "--precision", "fp32" if rehearsed else "bf16")
        where = ("--data", str(self.data), "--data-size", str(options.size), "--device", options.device, "--out", places[task.name])
        record = ["--graphs"] if task.graphs and options.device != "cpu" else []
        return [*own, *how, *where, "--threads", str(threads), "--log-steps", "1" if options.rehearse else "10", "--restart", *record]

    def draw(self, kinds: Sequence[tuple[str, int]]) -> None:
        """Draw the pictures that are not there yet."""
        options = self.options
        for kind, seed in kinds:
            count = options.evaluated if seed == HELD_OUT[1] else options.pictures // (1 if kind == "plain" else 2)
            photo = ["--photo"] if kind == "photo" else []
            words = ("--out", str(self.data), "--size", str(options.size), "--count", str(max(8, count)), "--seed", str(seed), *photo)
            begin = time.time()
            self.call("sdic_train", "dataset", *words, "--processes", str(os.cpu_count() or 1))
            print(f"{count} pictures, {kind}: {time.time() - begin:.0f} s", flush=True)

    def call(self, package: str, *words: str) -> None:
        """Run a command of the product, and end all where it fails."""
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / "log.txt"
        with path.open("ab") as log:
            code = subprocess.run(
                product(package, *words), env=environment(self.work / "site"), cwd=ROOT, stdout=log, stderr=log, pass_fds=self.locks
            ).returncode
        if code:
            end = "\n".join(path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-8:])
            raise SystemExit(f"`{package} {' '.join(words)}` ended with {code}; the end of {path}:\n{end}")

    def finished(self, task: Task) -> bool:
        """A training writes its pace behind its result, and its state last of all. Of a chain the last state alone is kept, see `contents`:
        where a training behind this one is over, this one is too."""
        if not (self.folder(task) / PACE).is_file():
            return False
        behind = self.chain(task)[self.chain(task).index(task) + 1 :]
        return not task.grows or (self.folder(task) / STATE).is_file() or any((self.folder(each) / PACE).is_file() for each in behind)


def fetch(demo: Demo, stage: Stage) -> dict[str, str]:
    """Unpack what the stages before `stage` left; their digests. Ends all where one is not complete."""
    digests: dict[str, str] = {}
    for name in stage.needs:
        found = demo_state.Left.read(name, demo.places)
        if found is None or not found[0].complete:
            raise SystemExit(f'the stage "{name}" is not finished in {demo.options.state}; run it first: --stage {name}')
        left, folder = found
        if changed := [before for before, digest in left.made_from.items() if digests.get(before) != digest]:
            raise SystemExit(f'the stage "{name}" was made from another "{changed[0]}"; run it again: --stage {name}')
        demo_state.unpack(left, [folder, *demo.places], demo.runs)
        digests[name] = left.digest
    return digests


def resume(demo: Demo, stage: Stage, made_from: dict[str, str]) -> bool:
    """Unpack what this stage left before, unless it is of another origin; whether it was complete."""
    for task in stage.tasks:
        (demo.folder(task) / PACE).unlink(missing_ok=True)  # the state alone says what is finished
    found = demo_state.Left.read(stage.name, demo.places)
    if found is None:
        return False
    left, folder = found
    if left.made_from != made_from:
        print(f'the stage "{stage.name}" is made anew: what it was made from has changed', flush=True)
        return False
    demo_state.unpack(left, [folder, *demo.places], demo.runs)
    return left.complete


def contents(demo: Demo, stage: Stage) -> dict[str, bytes]:
    """What a stage leaves: name below the runs -> bytes. Of a chain the weights of the last training that is finished."""
    found = {path: path.read_bytes() for path in (demo.runs / stage.name).glob("*.*")} if stage.work else {}
    for chain in stage.chains:
        done = [task for task in chain if demo.finished(task)]
        for task in done:
            folder = demo.folder(task)
            found |= {path: path.read_bytes() for pattern in KEPT for path in folder.glob(pattern)}
            if task is done[-1]:
                found[folder / RESULT] = demo_state.small_weights(folder / RESULT)
                if task.grows:
                    found[folder / STATE] = demo_state.small_state(folder / STATE)
    return {str(path.relative_to(demo.runs)): content for path, content in found.items()}


def leave(demo: Demo, stage: Stage, made_from: dict[str, str]) -> demo_state.Left:
    """Write what is finished of a stage where it is kept."""
    done = [task.name for task in stage.tasks if demo.finished(task)]
    left = demo_state.Left(stage.name, done, len(done) == len(stage.tasks), made_from)
    return demo_state.pack(demo.out, left, contents(demo, stage))


@contextmanager
def kept(demo: Demo, stage: Stage, made_from: dict[str, str]) -> Iterator[None]:
    """Whenever a training of the stage ends, what it made is written where it is kept."""
    over, seen = threading.Event(), [sum(map(demo.finished, stage.tasks))]

    def watch() -> None:
        while not over.wait(WATCH):
            if (count := sum(map(demo.finished, stage.tasks))) != seen[0]:
                leave(demo, stage, made_from)
                seen[0] = count

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if sum(map(demo.finished, stage.tasks)) != seen[0]:
            leave(demo, stage, made_from)


def train(demo: Demo, stage: Stage, made_from: dict[str, str], begin: float) -> None:
    """The trainings of a stage that are not finished; with --more the last ones go on from what they made."""
    options, seconds = demo.options, 60 * demo.options.minutes
    if options.more:
        chains = [(chain[-1],) for chain in stage.chains if chain[-1].more]
        for (task,) in chains:
            (demo.folder(task) / PACE).unlink()
    else:
        chains = [chain for chain in (tuple(task for task in chain if not demo.finished(task)) for chain in stage.chains) if chain]
    until, specs = begin + seconds - min(PACKING, PACKING_SHARE * seconds), []
    for chain in chains:
        folder = demo.runs / chain[-1].name
        trainings = [(demo.words(task, options.more, len(chains)), task.share) for task in chain]
        specs.append(
            wall_time.Spec(folder.name, trainings, folder.name, until, options.device, str(demo.work / "go"), str(folder / "ready"))
        )
    folders = [demo.runs / spec.name for spec in specs]
    with wall_time.shared_gpu(demo.work, options.device != "cpu" and len(specs) > 1) as extra:
        wall_time.run_all(specs, folders, lambda: demo.draw(stage.pictures), [], demo.work / "site", extra, *demo.locks)


def make_directions(demo: Demo) -> None:
    """Of all attributes, and principal components."""
    from sdic_train.portraits.portraits import ATTRIBUTES

    options, out = demo.options, str(demo.runs / "directions")
    model = ("--model", demo.made("sdic_edits"), "--out", out)
    network = demo.made("reader")
    how = ("--attributes", ",".join(ATTRIBUTES), "--count", str(options.pairs), "--steps", "4" if options.rehearse else "400")
    where = ("--device", options.device, "--precision", "bf16", "--reader", network, "--perceptual", network)
    demo.call("sdic_train", "directions", "steer", *model, *how, *where)
    samples = ("--components", "10", "--samples", "500") if options.rehearse else ("--components", "40", "--samples", "20000")
    demo.call("sdic_train", "directions", "ganspace", *model, *samples)


def evaluate(demo: Demo) -> None:
    """The tables of inversions and edits, judged by the network that took no part."""
    options, directions, out = demo.options, demo.runs / "directions", demo.runs / "evaluation"
    demo.draw((HELD_OUT,))
    judges = [word for name in ("--identity", "--perceptual") for word in (name, demo.made("judge"))]
    edits = ("--directions", str(directions), "--reader", demo.made("judge")) if len(list(directions.glob("*.safetensors"))) > 1 else ()
    where = ("--data", str(demo.data), "--data-size", str(options.size), "--device", options.device, "--out", str(out))
    count = ("--count", str(options.evaluated), "--runs", "1" if options.rehearse else "10")
    demo.call("sdic_train", "evaluate", demo.made("sdic_edits"), *where, *judges, *edits, *count)
    for path in sorted(out.glob("evaluation.*")):
        demo.out.mkdir(parents=True, exist_ok=True)
        demo_state.replace(demo.out / path.name, path.read_bytes())
    print((out / "evaluation.md").read_text(encoding="utf-8"), flush=True)


def build(demo: Demo) -> None:
    """The bundle with weights stored in half precision, and sheets of its edits."""
    bundle = demo.out / "bundle"
    directions = ("--directions", str(demo.runs / "directions"))
    stored = ("--weights", "float16", "--name", "portraits", "--force")
    demo.call("sdic_export", "build", demo.made("sdic_edits"), "--out", str(bundle), *directions, *stored)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    print(f"{bundle}: {size / 1e6:.1f} MB", flush=True)
    demo.draw((HELD_OUT,))
    pictures = demo_sheets.photos(demo.data, demo.options.size, demo_sheets.ENDS)
    print("\n".join(map(str, demo_sheets.draw(bundle, pictures, demo.out / "sheets"))), flush=True)


WORKS: dict[str, Callable[[Demo], None]] = {"directions": make_directions, "evaluation": evaluate, "bundle": build}


def run(demo: Demo, stage: Stage) -> bool:
    """Run one stage; whether it is complete now."""
    begin = time.time()
    made_from = fetch(demo, stage)
    complete = resume(demo, stage, made_from)
    more = demo.options.more and any(chain[-1].more for chain in stage.chains)
    if more and not complete:
        raise SystemExit(f'the stage "{stage.name}" is not finished, so there is nothing to train on; run it without --more')
    if complete and not more:
        print(f'the stage "{stage.name}" is finished already', flush=True)
        return True
    demo.work.mkdir(parents=True, exist_ok=True)
    (demo.work / "sizes.json").write_text(json.dumps(demo.model_sizes(), indent=1))
    if stage.work:
        WORKS[stage.name](demo)
    elif more:
        train(demo, stage, made_from, begin)
        if not all(map(demo.finished, stage.tasks)):
            print("the trainings did not end; the state is what it was", flush=True)
            return False
    else:
        with kept(demo, stage, made_from):
            train(demo, stage, made_from, begin)
    left = leave(demo, stage, made_from)
    size = sum(part.size for part in left.parts) / 1e6
    missing = [task.name for task in stage.tasks if task.name not in left.finished]
    print(f'"{stage.name}": {time.time() - begin:.0f} s, {size:.1f} MB in {len(left.parts)} parts in {demo.out}', flush=True)
    print("\n".join([f"not finished: {name}" for name in missing] or ["complete"]), flush=True)
    return left.complete


def overview(demo: Demo) -> str:
    """The stages and what there is of them."""
    lines = []
    for stage in stages(demo.options.size):
        found = demo_state.Left.read(stage.name, demo.places)
        told = (
            "not begun" if found is None else "complete" if found[0].complete else f"finished: {', '.join(found[0].finished) or 'nothing'}"
        )
        trained = "; ".join(" > ".join(task.name for task in chain) for chain in stage.chains)
        lines.append(f"{stage.name:12} {told:24} {trained}".rstrip())
    return "\n".join(lines)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; those that --rehearse makes small, unless they are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=[*(stage.name for stage in stages(128)), "all"], help="what to run")
    parser.add_argument("--list", action="store_true", help="print the stages, and run nothing")
    parser.add_argument("--state", default="runs/demo", help="folder with what the stages before left")
    parser.add_argument("--out", help="folder for what this stage leaves; --state when omitted")
    parser.add_argument("--work", default="build/demo", help="folder for pictures and runs, which need not be kept")
    parser.add_argument("--size", type=int, choices=sorted(FITS), default=128, help="pixels of the model's pictures")
    parser.add_argument("--minutes", type=float, help="time that a stage of trainings fills; 8")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--more", action="store_true", help="train a finished stage on")
    parser.add_argument("--pictures", type=int, help="portraits to draw, and half as many photos; 24000")
    parser.add_argument("--pairs", type=int, help="pairs of photos from which a direction is made; 300")
    parser.add_argument("--evaluated", type=int, help="held-out photos; 256")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, few pictures, 0.4 minutes for a stage of trainings")
    options = parser.parse_args(words)
    if not (options.stage or options.list):
        parser.error("name a --stage, or give --list")
    usual = {"minutes": (8.0, 0.4), "pictures": (24_000, 64), "pairs": (300, 6), "evaluated": (256, 8)}
    for name, values in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.rehearse])
    return options


def stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # what runs is ended, and what is finished is kept, on the way


def main(words: Sequence[str] | None = None) -> int:
    """Run, or list; 0 when all that ran is complete."""
    options = parsed(words)
    sys.path.insert(0, str(ROOT))
    if options.list:
        print(overview(Demo(options)))
        return 0
    before, whole = signal.signal(signal.SIGTERM, stop), Path(options.work)
    whole.mkdir(parents=True, exist_ok=True)
    try:
        with wall_time.locked(whole) as lock:
            for stage in stages(options.size):
                if options.stage in (stage.name, "all"):
                    work = whole / stage.name if options.rehearse else whole  # as on a bare machine
                    if not run(Demo(argparse.Namespace(**{**vars(options), "work": str(work)}), (lock,)), stage):
                        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
