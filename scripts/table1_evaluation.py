"""Table 1 of packed checkpoints: one row after the other, each kept, so that a run goes on where it was stopped; and a sheet."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import table1_checkpoints as checkpoints
import table1_rows
import table1_sheet
import wall_time
from table1_checkpoints import BASE, DIRECTIONS, JUDGE, READER, ROOT, Refused

SDIC, LONGER = table1_rows.LABELS["sdic"], "SDIC, trained longer"  # the latter is the embedded model
KEY, ROW = "key.txt", "evaluation.json"
PIVOT = "e4e"  # the row whose generator PTI tunes, around its codes


def command(words: list[str], site: Path) -> int:
    environment = {**wall_time.environment(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "sdic_train.cli.app", *words], env=environment, cwd=ROOT, stdout=sys.stderr).returncode


@dataclass(frozen=True)
class Job:
    """A row to measure: its folder's name, the words that name its model, the files that it depends on, and how many photos."""

    name: str
    words: tuple[str, ...]
    files: tuple[Path, ...]
    count: int


def evaluate(options: argparse.Namespace) -> int:
    """Unpack, draw photos that no training saw, measure every model, print the table, and draw the sheet; the exit code. Raises
    Refused."""
    out = checkpoints.made(Path(options.out).resolve(), "--out")
    if options.sheet and not edit_of(options).exists():
        raise Refused(f"there is no direction {edit_of(options)}; name one of that folder with --edit")
    paths, data = {path.stem: path for path in checkpoints.unpack(Path(options.packed), out / "models")}, out / "data"
    judge = Path(options.judge).resolve() if options.judge else beside(options, JUDGE)
    if not judge.is_file():
        raise Refused(f"there is no portrait reader {judge}; name one with --judge, or pack it with `pack --judge`")
    draw = ["dataset", "--out", str(data), "--size", "128", "--photo", "--count", str(options.count), "--seed", str(options.photos)]
    if code := command([*draw, "--processes", str(os.cpu_count() or 1)], out / "site"):
        return code
    judges = [word for name in ("--identity", "--perceptual", "--reader") for word in (name, str(judge))]
    common = ["--data", str(data), "--data-seed", str(options.photos), *judges, "--directions", str(DIRECTIONS)]
    common += ["--no-baseline", "--device", options.device, "--batch", str(options.batch), "--threads", "1"]
    groups = table1_rows.grouped(paths)
    runs = {label: run for each in groups for label, run in each.runs.items()}
    firsts = {(label := next(iter(each.runs))): paths[runs[label]] for each in groups if not each.ablation} | {LONGER: BASE}
    jobs = {label: job_of(table1_rows.LABELS.get(run, run), paths[run], judge, options.count) for label, run in runs.items()}
    jobs[LONGER] = job_of(LONGER, BASE, judge, options.count)
    jobs |= tuning_jobs(options, firsts, judge) if options.pti else {}
    failed = [label for label, job in jobs.items() if not measured(job, common, out)]
    rows = {label: json.loads((out / "rows" / job.name / ROW).read_text()) for label, job in jobs.items() if label not in failed}
    found = {label: row_of(row) for label, row in rows.items()}
    left = [each for group in groups if (each := group.having(found)).runs]
    text = table1_rows.text(left, found, {label: row for label, row in found.items() if label not in runs})
    (out / "table1.md").write_text(text + "\n")
    (out / "table1.json").write_text(json.dumps(rows, indent=1))
    print(text)
    if options.sheet:
        shown = {label: path for label, path in firsts.items() if label not in failed}
        print(drawn(shown, data, options, judge, out / "table1.jpg"))
    for label in failed:
        print(f"{label} failed", file=sys.stderr)
    return 2 if failed else 0


def edit_of(options: argparse.Namespace) -> Path:
    """The direction that the sheet shows."""
    return DIRECTIONS / f"{options.edit}.safetensors"


def job_of(name: str, path: Path, judge: Path, count: int) -> Job:
    """A row of one checkpoint; `name` is its name in the evaluation's files."""
    return Job(path.stem, (f"{name}={path}",), (path, judge), count)


def beside(options: argparse.Namespace, name: str) -> Path:
    """A file that lies beside the packed checkpoints, or in their archives, which are open."""
    places = [Path(options.packed) / name, Path(options.out) / "models/packed" / name]
    return next((place for place in places if place.exists()), places[0]).resolve()


def tuning_jobs(options: argparse.Namespace, models: Mapping[str, Path], judge: Path) -> dict[str, Job]:
    """The row of PTI from e4e's code on the first photos, at the release's rate and for all its steps, and those of SDIC and of what PTI
    starts from on the same photos. The network of PTI's loss is that of the trainings, not the judge."""
    count, reader, pivot = min(options.pti, options.count), beside(options, READER), models[PIVOT]
    if not reader.exists():
        raise Refused(f"PTI's loss needs {reader}, a portrait reader that is not the judge; `pack --reader` packs it")
    words = ("--tune", f"PTI={pivot}", "--tune-count", str(count), "--tune-perceptual", str(reader), "--tune-set", "stop=0")
    jobs = {f"PTI, {count} photos": Job(f"pti-{count}", words, (pivot, judge, reader), count)}
    labels = [label for label in models if label.partition(", seed")[0] in (PIVOT, SDIC, LONGER) and count < options.count]
    for label in labels:
        job = job_of(label, models[label], judge, count)
        jobs[f"{label}, those {count}"] = replace(job, name=f"{job.name}-{count}")
    return jobs


def measured(job: Job, common: list[str], out: Path) -> bool:
    """Whether there is a row of a job; one of before is taken where nothing that it depends on is another one."""
    folder, words = out / "rows" / job.name, [*job.words, *common, "--count", str(job.count)]
    key = "\n".join([*(hashlib.sha256(each.read_bytes()).hexdigest() for each in job.files), *words])
    if (folder / ROW).exists() and (folder / KEY).exists() and (folder / KEY).read_text() == key:
        return True
    if command(["evaluate", *words, "--out", str(folder)], out / "site"):
        return False
    (folder / KEY).write_text(key)
    return True


def row_of(measurement: Mapping[str, Any]) -> dict[str, float]:
    """The row of one model's evaluation.json."""
    from sdic_train.evaluation.evaluate import mean_edit

    (inversion,), (edits,) = measurement["inversion"].values(), measurement["edits"].values()
    return {**inversion, **mean_edit(edits)}


def drawn(models: Mapping[str, Path], data: Path, options: argparse.Namespace, judge: Path, path: Path) -> Path:
    """The sheet of photos from all over the set."""
    from sdic_runtime.sheets import save_picture
    from sdic_train.data.datasets import open_pictures

    photos = open_pictures(data, table1_sheet.SIZE, True, options.photos).pictures[: options.count]
    chosen = photos[:: max(1, len(photos) // options.sheet)][: options.sheet]
    return save_picture(table1_sheet.sheet(models, chosen, judge, edit_of(options)), path)
