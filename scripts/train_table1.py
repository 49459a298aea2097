"""Train every method of Table 1 on the demo domain, from one generator and e4e, on the same pictures in the same order, each as long.

    python scripts/train_table1.py train --state runs/table1           # resumes; two processes with one thread each
    python scripts/train_table1.py pack --state runs/table1 --judge runs/table1/judge/model.safetensors --out checkpoints
    python scripts/train_table1.py unpack --packed checkpoints --out runs/unpacked
    python scripts/train_table1.py evaluate --packed checkpoints --out runs/evaluation
    python scripts/train_table1.py train --state runs/table1 --device cuda --wall-minutes 5 --batch 16    # all at once on a GPU
    python scripts/train_table1.py train --state runs/table1 --ablations --seeds sdic=3 sdic-affine=3     # SDIC's ablations too

`train` gives the methods turns, the least far first, so that all are equally far; stop it, and the same command goes on. `pack` writes
what each method trained, in float16, without the generator and e4e that all share; `unpack` writes whole checkpoints again, for
`sdic-export build` and `sdic-train evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import table1_checkpoints as checkpoints
import table1_evaluation
import wall_time
from table1_checkpoints import BASE, DIRECTIONS, ROOT, Refused

RESULT, WALL = "model.safetensors", "wall.json"


@dataclass(frozen=True)
class Stage:
    """One command of `sdic-train`. `seconds`: of a step of four pictures in bfloat16 on one core of an EPYC with AVX-512, measured; with
    them a budget of minutes becomes a number of steps. `share`: of a method's budget."""

    name: str
    command: tuple[str, ...]
    seconds: float
    share: float = 1.0


def method(name: str, seconds: float, share: float = 1.0, *options: str) -> Stage:
    return Stage(name, ("method", name, "--generator", "{base}", "--recipe", "demo", *options), seconds, share)


ENCODER = ("encoder", "--generator", "{base}", "--from", "{base}", "--photos", "photo", "--recipe")
METHODS: dict[str, tuple[Stage, ...]] = {
    "sdic": (Stage("sdic", ("sdic", "--model", "{base}", "--recipe", "demo"), 0.77),),
    "psp": (Stage("psp", (*ENCODER, "psp-demo"), 0.28),),
    "restyle-psp": (method("restyle-psp", 0.79),),
    "restyle-e4e": (method("restyle-e4e", 0.79),),
    "hfgi": (method("hfgi", 0.55),),
    "hyperstyle": (Stage("w", (*ENCODER, "w-demo"), 0.23, 0.2), method("hyperstyle", 1.11, 0.8, "--encoder", "{runs}/w/model.safetensors")),
    "fs": (method("fs", 0.45),),
    "clcae": (method("clcae", 0.67),),
    "sfe": (
        method("sfe-inverter", 0.7, 0.6),
        method("sfe", 0.48, 0.4, "--from", "{runs}/sfe-inverter/model.safetensors", "--directions", "{directions}"),
    ),
}


def ablation(*changes: str) -> tuple[Stage, ...]:
    """SDIC's training with other options, and with the same steps."""
    (stage,) = METHODS["sdic"]
    return (replace(stage, command=(*stage.command, *(word for change in changes for word in ("--set", change)))),)


ABLATIONS = {"sdic-without-context": ablation("context=false"), "sdic-affine": ablation("fusion=affine")}
TRAINED = {**METHODS, **ABLATIONS}
PHOTOS = ("--photo", "--count")
DRAW_PHOTOS = ("dataset", "--size", "128", "--processes", "{cores}", "--out", "{data}", *PHOTOS)
DRAW = ("dataset", "--size", "128", "--processes", "1", "--out", "{data}")
READ = ("reader", "--data", "{data}", "--steps", "1250", "--threads", "1", "--out")
PREPARATION = (  # command, what it leaves
    ((*DRAW, "--count", "12000", "--seed", "0"), "data/plain_128_0_0011500.npz"),
    ((*DRAW, *PHOTOS, "12000", "--seed", "1"), "data/photo_128_1_0011500.npz"),
    ((*DRAW, *PHOTOS, "512", "--seed", "900000"), "data/photo_128_900000_0000500.npz"),
    ((*READ, "{state}/reader"), f"reader/{RESULT}"),
    ((*READ, "{state}/judge", "--set", "seed=1"), f"judge/{RESULT}"),
)


@dataclass(frozen=True)
class Run:
    """A method or an ablation, with a seed."""

    options: argparse.Namespace
    method: str
    seed: int

    @property
    def name(self) -> str:
        return self.method + (f"-{self.seed}" if self.seed else "")

    @property
    def folder(self) -> Path:
        return Path(self.options.state) / "runs" / self.name

    def steps(self, stage: Stage) -> int:
        return max(1, round(self.options.minutes * 60 * stage.share / stage.seconds))

    def waiting(self) -> Stage | None:
        """The stage that is not finished yet."""
        return next((stage for stage in TRAINED[self.method] if done(self.folder / stage.name) < self.steps(stage)), None)

    def progress(self) -> float:
        """The share of the budget that is behind it."""
        return sum(stage.share * done(self.folder / stage.name) / self.steps(stage) for stage in TRAINED[self.method])

    def result(self) -> Path:
        return self.folder / TRAINED[self.method][-1].name / RESULT

    def words(self, stage: Stage) -> list[str]:
        """The command of a stage, without how long it takes."""
        state, options = Path(self.options.state), self.options
        reader = options.reader or f"{state}/reader/{RESULT}"
        judges = ("--perceptual", reader, "--identity", reader)
        common = ("--data", f"{state}/data", "--data-seed", "1", "--batch", str(options.batch), "--precision", "bf16", "--threads", "1")
        own = ("--set", f"seed={self.seed}", "--out", str(self.folder / stage.name), "--device", options.device)
        changes = [word for change in options.set for word in ("--set", change.rpartition(":")[2]) if fits(change, self.method, stage)]
        places = {"base": BASE, "runs": self.folder, "directions": DIRECTIONS}
        return [*(part.format(**places) for part in stage.command), *judges, *common, *changes, *own]

    def train(self, stage: Stage, lock: int) -> None:
        """One slice of a stage; the CPU time that it took is added to the state's account."""
        state, folder = Path(self.options.state), self.folder / stage.name
        long = ("--steps", str(self.steps(stage)), "--minutes", str(self.options.slice), "--save-minutes", "3")
        spent = call([*self.words(stage), *long], state, lock)
        account = state / "cpu_seconds.json"
        seconds = json.loads(account.read_text()) if account.exists() else {}
        key = f"{self.name}/{stage.name}"
        seconds[key] = round(seconds.get(key, 0.0) + spent)
        account.write_text(json.dumps(seconds, indent=1))
        print(f"{key}: {done(folder)} of {self.steps(stage)} steps, {seconds[key]} s of CPU time so far", flush=True)


def fits(change: str, method: str, stage: Stage) -> bool:
    """Whether a change [WHERE:]NAME=VALUE is for this stage of a method; WHERE is a method, a stage or METHOD/STAGE."""
    where, sign, _ = change.rpartition(":")
    return not sign or where in (method, stage.name, f"{method}/{stage.name}")


def check_changes(runs: Sequence[Run], changes: Sequence[str]) -> None:
    """Raises Refused where a result was trained with another value of an option than `changes` now say."""
    for run, stage in [(each, stage) for each in runs for stage in TRAINED[each.method]]:
        folder = run.folder / stage.name
        told = folder / "recipe.json"
        recipe = json.loads(told.read_text()) if told.exists() and (folder / RESULT).exists() else {}
        wanted = dict(change.rpartition(":")[2].partition("=")[::2] for change in changes if fits(change, run.method, stage))
        for name, value in wanted.items():
            if name != "seed" and name in recipe and not same(recipe[name], value):  # --seeds says the seed
                raise Refused(f"{folder} was trained with {name}={json.dumps(recipe[name])}, not {value}; name another --state")


def same(value: Any, text: str) -> bool:
    """Whether `text` of NAME=VALUE says the `value` of a recipe."""
    from sdic_train.cli.options import SWITCHES

    if isinstance(value, bool):
        return SWITCHES.get(text.lower()) is value
    try:
        return bool(float(text) == value)
    except ValueError:
        return text == value


def done(folder: Path) -> int:
    """The steps of a run whose result lies there."""
    log = folder / "losses.csv"
    if not (log.exists() and (folder / RESULT).exists()):
        return 0
    last = log.read_text().rsplit("\n", 2)[-2].split(",")[0]
    return int(last) if last.isdigit() else 0


CHILDREN: list[subprocess.Popen[bytes]] = []
WALL_RUNS: list[str] = []  # that are trained side by side now


def call(arguments: list[str], state: Path, lock: int) -> float:
    """Run `sdic-train` with one thread, and return the CPU seconds that it took. The child holds the state's lock too."""
    environment = {**wall_time.environment(state / "site"), "OMP_NUM_THREADS": "1"}
    with (state / "train.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "sdic_train.cli.app", *arguments], stdout=log, stderr=log, env=environment, cwd=ROOT, pass_fds=[lock]
        )
        CHILDREN.append(child)
        _, status, used = os.wait4(child.pid, 0)  # of this child alone: another one may end meanwhile
        child.returncode = code = os.waitstatus_to_exitcode(status)
    CHILDREN.remove(child)
    if code:
        raise SystemExit(f"`sdic-train {' '.join(arguments)}` ended with {code}; see {state}/train.log")
    return used.ru_utime + used.ru_stime


def train(options: argparse.Namespace) -> None:
    """Prepare what is missing, then give the runs that are least far their turns until all are finished."""
    state, runs = Path(options.state).resolve(), runs_of(options)
    options.state, options.reader = str(state), options.reader and str(Path(options.reader).resolve())
    check_file(options.reader, "--reader")
    checkpoints.made(state, "--state")
    if options.wall_minutes:
        with wall_time.locked(state) as lock:
            return train_side_by_side(options, state, lock)
    check_changes(runs, options.set)
    with wall_time.locked(state) as lock:
        for command, made in PREPARATION:
            if not ((state / made).exists() or (options.reader and made.startswith("reader"))):
                print(f"preparing {made}", flush=True)
                call([part.format(data=state / "data", state=state) for part in command], state, lock)
        processes = options.processes or 2
        with ThreadPoolExecutor(processes) as pool:
            while waiting := sorted((run for run in runs if run.waiting()), key=Run.progress)[:processes]:
                for job in [pool.submit(run.train, run.waiting(), lock) for run in waiting]:
                    job.result()
    print("all are trained")


def train_side_by_side(options: argparse.Namespace, state: Path, lock: int) -> None:
    """All runs at once, or as many as `--processes` says one group after the other, so that all is over after `--wall-minutes`."""
    start, runs = time.time(), runs_of(options)
    WALL_RUNS.extend(run.name for run in runs)
    until = start + 60 * options.wall_minutes
    size = options.processes or len(runs)
    groups = [runs[index : index + size] for index in range(0, len(runs), size)]
    results: dict[str, Any] = {}
    with wall_time.shared_gpu(state, options.mps) as extra:
        for number, group in enumerate(groups):
            now = time.time()
            end = now + (until - now) / (len(groups) - number)
            specs = [spec_of(run, end) for run in group]
            folders = [run.folder for run in group]
            results |= wall_time.run_all(specs, folders, lambda: draw(options, state, lock), CHILDREN, state / "site", extra, lock)
    told = {name: getattr(options, name) for name in ("wall_minutes", "batch", "device", "pictures", "set", "mps", "graphs")}
    (state / WALL).write_text(json.dumps({**told, "processes": size, "seconds": round(time.time() - start, 1), "runs": results}, indent=1))
    well = sum(about["well"] for about in results.values())
    print(f"{well} of {len(results)} runs went well, {time.time() - start:.0f} s", flush=True)
    if well < len(results):
        raise SystemExit(2)


def spec_of(run: Run, until: float) -> wall_time.Spec:
    more = ["--restart", "--log-steps", str(run.options.log_steps), *(["--graphs"] if run.options.graphs else [])]
    stages = [([*run.words(stage), *more], stage.share) for stage in TRAINED[run.method]]
    return wall_time.Spec(
        run.name, stages, TRAINED[run.method][-1].name, until, run.options.device, f"{run.options.state}/go", str(run.folder / "ready")
    )


def draw(options: argparse.Namespace, state: Path, lock: int) -> None:
    """The pictures, and a reader where none is given."""
    last = (options.pictures - 1) // 500 * 500
    jobs = [((*DRAW_PHOTOS, str(options.pictures), "--seed", "1"), f"data/photo_128_1_{last:07d}.npz")]
    if not options.reader:
        jobs += [entry for entry in PREPARATION if "plain" in entry[1] or entry[1].startswith("reader")]
    for command, made in jobs:
        if command[0] == "dataset" or not (state / made).exists():  # fewer pictures may be there than are wanted now
            begin = time.time()
            words = [part.format(data=state / "data", state=state, cores=os.cpu_count() or 1) for part in command]
            call(words, state, lock)
            print(f"{made}: {time.time() - begin:.0f} s", flush=True)


def runs_of(options: argparse.Namespace) -> list[Run]:
    """Raises Refused for --seeds that are wrong."""
    seeds = {}
    for entry in options.seeds:
        name, _, count = entry.partition("=")
        if not count.isdecimal() or not int(count):
            raise Refused(f"--seeds {entry} is not METHOD=COUNT with a COUNT from 1; give for example sdic=3")
        seeds[name] = int(count)
    names = options.only or (TRAINED if options.ablations else METHODS)
    if other := seeds.keys() - {*names}:
        raise Refused(f"--seeds has {', '.join(sorted(other))}, which is not among {', '.join(names)}; name one of these")
    return [Run(options, name, seed) for name in names for seed in range(seeds.get(name, 1))]


def check_file(path: str | None, option: str) -> None:
    """Raises Refused where an option names no file."""
    if path and not Path(path).is_file():
        raise Refused(f"{option} {path} is no file; name a trained portrait reader")


def pack(options: argparse.Namespace) -> None:
    """Write what every run with a result trained."""
    check_file(options.judge, "--judge")
    check_file(options.reader, "--reader")
    runs, state = runs_of(options), Path(options.state)
    results = {run.name: run.result() for run in runs if run.result().exists()}
    if not results:
        raise Refused(f"--state {state} holds no result of {', '.join(run.name for run in runs)}; name the folder that `train` filled")
    stages = [(run, stage.name) for run in runs for stage in TRAINED[run.method]]
    others = {f"{run.name}.{stage}.csv": run.folder / stage / "losses.csv" for run, stage in stages} | {WALL: state / WALL}
    if options.judge:
        others[checkpoints.JUDGE] = Path(options.judge)
    if options.reader:
        others[checkpoints.READER] = Path(options.reader)
    checkpoints.pack(results, {name: path for name, path in others.items() if path.exists()}, Path(options.out), options.single)
    for run in runs:
        if run.name not in results:
            print(f"{run.name} has no result yet")


def unpack(options: argparse.Namespace) -> None:
    """Write the whole checkpoints, and that of e4e; also of what `pack --single` wrote."""
    for path in checkpoints.unpack(Path(options.packed), Path(options.out)):
        print(path)


def evaluate(options: argparse.Namespace) -> None:
    """Print the table of what `pack` wrote, and draw a sheet; what is measured already is kept."""
    raise SystemExit(table1_evaluation.evaluate(options))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work in (("train", train), ("pack", pack), ("unpack", unpack), ("evaluate", evaluate)):
        command = commands.add_parser(name, help=work.__doc__)
        command.set_defaults(work=work, refuse=command.error)
        if name in ("train", "pack"):
            command.add_argument("--state", required=True, help="folder of the runs")
            command.add_argument("--minutes", type=float, default=40.0, help="budget of a method, on one core")
            command.add_argument("--only", nargs="*", choices=TRAINED, help="these methods and ablations alone")
            command.add_argument("--ablations", action="store_true", help="SDIC's ablations too")
            command.add_argument("--seeds", nargs="*", default=[], metavar="METHOD=COUNT", help="so many seeds of a method or an ablation")
        if name == "train":
            command.add_argument("--processes", type=int, help="runs at the same time; 2, with --wall-minutes all")
            command.add_argument("--batch", type=int, default=4, help="pictures of a step")
            command.add_argument("--device", default="cpu", help="cpu or cuda")
            command.add_argument("--reader", help="trained portrait reader for the losses; without it one is trained")
            command.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="[WHERE:]NAME=VALUE",
                help="change an option of the recipes; WHERE: METHOD, STAGE or METHOD/STAGE",
            )
            command.add_argument("--wall-minutes", type=float, help="all runs side by side, and all is over after so many minutes")
            command.add_argument("--pictures", type=int, default=12000, help="photos to draw; with --wall-minutes")
            command.add_argument("--log-steps", type=int, default=10, help="steps between two rows of a log; with --wall-minutes")
            command.add_argument("--graphs", action="store_true", help="steps as CUDA graphs; with --wall-minutes")
            command.add_argument("--mps", action="store_true", help="a GPU's processes compute at the same time; with --wall-minutes")
            command.add_argument("--slice", type=float, default=10.0, help="minutes after which another run has its turn")
        else:
            command.add_argument("--out", required=True, help="folder to write to")
        if name == "pack":
            command.add_argument("--judge", help="portrait reader for `evaluate`, which is packed too")
            command.add_argument("--reader", help="portrait reader of the losses, for `evaluate --pti`, which is packed too")
            command.add_argument("--single", action="store_true", help="a few archives of at most 15 MB in place of all files")
        if name in ("unpack", "evaluate"):
            command.add_argument("--packed", required=True, help="folder that `pack` wrote")
        if name == "evaluate":
            command.add_argument("--judge", help="portrait reader that took no part in training; by default judge.safetensors in --packed")
            command.add_argument("--count", type=int, default=64, help="photos")
            command.add_argument("--photos", type=int, default=950_000, help="seed of the photos; no training sees those from 900000 on")
            command.add_argument("--pti", type=int, default=0, help="also PTI from e4e's codes, on so many photos; about a minute each")
            command.add_argument("--sheet", type=int, default=6, help="photos on the sheet; 0: none")
            command.add_argument("--edit", default="glasses", help="direction that the sheet shows")
            command.add_argument("--device", default="cpu", help="cpu or cuda")
            command.add_argument("--batch", type=int, default=8, help="photos computed at once")
    options = parser.parse_args(words)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    sys.path.insert(0, str(ROOT))
    try:
        options.work(options)
    except Refused as refused:
        options.refuse(str(refused))


def stop(number: int, frame: object) -> None:
    """End the children too; each has saved its state less than four minutes ago."""
    for child in list(CHILDREN):
        child.terminate()
    if WALL_RUNS:
        raise SystemExit(128 + number)  # what was begun is ended on the way
    print(f"stopped by signal {number}; the same command goes on", flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
