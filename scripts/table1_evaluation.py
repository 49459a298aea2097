"""Table 1 of packed checkpoints: one row after the other, each kept, so that a run goes on where it was stopped; and a sheet."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import table1_checkpoints as checkpoints
import table1_sheet
import wall_time
from table1_checkpoints import BASE, DIRECTIONS, JUDGE, READER, ROOT

LABELS = {  # file -> row, in the order of the table
    "e4e": "e4e", "psp": "pSp", "restyle-psp": "ReStyle (pSp)", "restyle-e4e": "ReStyle (e4e)", "hyperstyle": "HyperStyle", "hfgi": "HFGI",
    "fs": "FS", "clcae": "CLCAE", "sfe": "StyleFeatureEditor", "sdic": "SDIC",
}  # fmt: skip
LONGER = "SDIC, trained longer"  # the embedded model
KEY, ROW = "key.txt", "evaluation.json"
PIVOT = "e4e"  # the row whose generator PTI tunes, around its codes


def labelled(paths: list[Path]) -> dict[str, Path]:
    """Row -> checkpoint: first those of `LABELS`, then further seeds, then the embedded model."""
    found = {path.stem: path for path in paths}
    names = [*(name for name in LABELS if name in found), *(name for name in found if name not in LABELS)]
    return {**{LABELS.get(name, name): found[name] for name in names}, LONGER: BASE}


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
    """Unpack, draw photos that no training saw, measure every model, print the table, and draw the sheet; the exit code."""
    out = Path(options.out).resolve()
    models, data = labelled(checkpoints.unpack(Path(options.packed), out / "models")), out / "data"
    judge = Path(options.judge).resolve() if options.judge else beside(options, JUDGE)
    draw = ["dataset", "--out", str(data), "--size", "128", "--photo", "--count", str(options.count), "--seed", str(options.photos)]
    if code := command([*draw, "--processes", str(os.cpu_count() or 1)], out / "site"):
        return code
    judges = [word for name in ("--identity", "--perceptual", "--reader") for word in (name, str(judge))]
    common = ["--data", str(data), "--data-seed", str(options.photos), *judges, "--directions", str(DIRECTIONS)]
    common += ["--no-baseline", "--device", options.device, "--batch", str(options.batch), "--threads", "1"]
    jobs = {label: Job(path.stem, (f"{label}={path}",), (path, judge), options.count) for label, path in models.items()}
    jobs |= tuning_jobs(options, models, judge) if options.pti else {}
    failed = [label for label, job in jobs.items() if not measured(job, common, out)]
    rows = {label: json.loads((out / "rows" / job.name / ROW).read_text()) for label, job in jobs.items() if label not in failed}
    text = table({label: row_of(row) for label, row in rows.items()})
    (out / "table1.md").write_text(text + "\n")
    (out / "table1.json").write_text(json.dumps(rows, indent=1))
    print(text)
    if options.sheet:
        shown = {label: path for label, path in models.items() if label not in failed}
        print(drawn(shown, data, options, judge, out / "table1.jpg"))
    for label in failed:
        print(f"{label} failed", file=sys.stderr)
    return 2 if failed else 0


def beside(options: argparse.Namespace, name: str) -> Path:
    """A file that lies beside the packed checkpoints, or in their archives, which are open."""
    places = [Path(options.packed) / name, Path(options.out) / "models/packed" / name]
    return next((place for place in places if place.exists()), places[0]).resolve()


def tuning_jobs(options: argparse.Namespace, models: Mapping[str, Path], judge: Path) -> dict[str, Job]:
    """The row of PTI from e4e's code on the first photos, at the release's rate and for all its steps, and those of SDIC and of what PTI
    starts from on the same photos. The network of PTI's loss is that of the trainings, not the judge."""
    count, reader, pivot = min(options.pti, options.count), beside(options, READER), models[PIVOT]
    if not reader.exists():
        raise SystemExit(f"PTI's loss needs {reader}, a portrait reader that is not the judge; `pack --reader` packs it")
    words = ("--tune", f"PTI={pivot}", "--tune-count", str(count), "--tune-perceptual", str(reader), "--tune-set", "stop=0")
    jobs = {f"PTI, {count} photos": Job(f"pti-{count}", words, (pivot, judge, reader), count)}
    same = {label: models[label] for label in (PIVOT, LABELS["sdic"], LONGER) if label in models and count < options.count}
    return jobs | {
        f"{label}, those {count}": Job(f"{path.stem}-{count}", (f"{label}={path}",), (path, judge), count) for label, path in same.items()
    }


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


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """As Markdown."""
    from sdic_train.evaluation.evaluate import ORDER, markdown

    places = {"PSNR": 2, "L2": 4}
    texts = {label: {name: f"{value:.{places.get(name, 3)}f}" for name, value in row.items()} for label, row in rows.items()}
    return markdown(texts, "method", ORDER)


def drawn(models: Mapping[str, Path], data: Path, options: argparse.Namespace, judge: Path, path: Path) -> Path:
    """The sheet of photos from all over the set."""
    from sdic_runtime.sheets import save_picture
    from sdic_train.data.datasets import open_pictures

    photos = open_pictures(data, table1_sheet.SIZE, True, options.photos).pictures[: options.count]
    chosen = photos[:: max(1, len(photos) // options.sheet)][: options.sheet]
    return save_picture(table1_sheet.sheet(models, chosen, judge, DIRECTIONS / f"{options.edit}.safetensors"), path)
