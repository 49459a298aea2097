"""Table 1 of packed checkpoints: one row after the other, each kept, so that a run goes on where it was stopped; and a sheet."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import table1_checkpoints as checkpoints
import table1_sheet
import wall_time
from table1_checkpoints import BASE, DIRECTIONS, JUDGE, ROOT

LABELS = {  # file -> row, in the order of the table
    "e4e": "e4e", "psp": "pSp", "restyle-psp": "ReStyle (pSp)", "restyle-e4e": "ReStyle (e4e)", "hyperstyle": "HyperStyle", "hfgi": "HFGI",
    "fs": "FS", "clcae": "CLCAE", "sfe": "StyleFeatureEditor", "sdic": "SDIC",
}  # fmt: skip
LONGER = "SDIC, trained longer"  # the embedded model
KEY, ROW = "key.txt", "evaluation.json"


def labelled(paths: list[Path]) -> dict[str, Path]:
    """Row -> checkpoint: first those of `LABELS`, then further seeds, then the embedded model."""
    found = {path.stem: path for path in paths}
    names = [*(name for name in LABELS if name in found), *(name for name in found if name not in LABELS)]
    return {**{LABELS.get(name, name): found[name] for name in names}, LONGER: BASE}


def command(words: list[str], site: Path) -> int:
    environment = {**wall_time.environment(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "sdic_train.cli.app", *words], env=environment, cwd=ROOT, stdout=sys.stderr).returncode


def evaluate(options: argparse.Namespace) -> int:
    """Unpack, draw photos that no training saw, measure every model, print the table, and draw the sheet; the exit code."""
    out, count = Path(options.out).resolve(), str(options.count)
    models, data = labelled(checkpoints.unpack(Path(options.packed), out / "models")), out / "data"
    places = [Path(options.packed) / JUDGE, out / "models/packed" / JUDGE]  # the second: where archives were opened
    judge = Path(options.judge or next((place for place in places if place.exists()), places[0])).resolve()
    draw = ["dataset", "--out", str(data), "--size", "128", "--photo", "--count", count, "--seed", str(options.photos)]
    if code := command([*draw, "--processes", str(os.cpu_count() or 1)], out / "site"):
        return code
    judges = [word for name in ("--identity", "--perceptual", "--reader") for word in (name, str(judge))]
    common = ["--data", str(data), "--data-seed", str(options.photos), "--count", count, *judges, "--directions", str(DIRECTIONS)]
    common += ["--no-baseline", "--device", options.device, "--batch", str(options.batch), "--threads", "1"]
    failed = [label for label, path in models.items() if not measured(label, path, common, judge, out)]
    rows = {label: json.loads((out / "rows" / path.stem / ROW).read_text()) for label, path in models.items() if label not in failed}
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


def measured(label: str, path: Path, common: list[str], judge: Path, out: Path) -> bool:
    """Whether there is a row of a checkpoint; one of before is taken where nothing that it depends on is another one."""
    folder = out / "rows" / path.stem
    files = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (path, judge)]
    key = "\n".join([*files, *common])
    if (folder / ROW).exists() and (folder / KEY).exists() and (folder / KEY).read_text() == key:
        return True
    if command(["evaluate", f"{label}={path}", *common, "--out", str(folder)], out / "site"):
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
