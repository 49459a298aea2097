"""`sdic-run compare` with several bundles: sheet, table, JSON, and what fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdic_runtime import sheets
from sdic_runtime.errors import CheckpointError
from sdic_runtime.pictures import prepare
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.tools import compare_bundles as comparing
from sdic_runtime.tools import judges
from sdic_runtime.tools.scores import judged, scores

BACKEND = ("--backend", "onnxruntime:threads=1")
DEMO = Path(comparing.__file__).parents[1] / "bundle/demo"


@pytest.fixture
def bundles(tiny_bundle: Path) -> tuple[Any, ...]:
    """Of two sizes: 64 and 128."""
    return "--bundle", tiny_bundle, "--bundle", DEMO, *BACKEND, "--runs", 1


def cells(lines: list[str]) -> dict[str, dict[str, str]]:
    """The table that was printed: first cell -> heading -> cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_bundles_of_different_sizes_are_judged_at_the_smaller(run: Any, photos: Path, tiny_bundle: Path, bundles: tuple[Any, ...]) -> None:
    picture = photos / "a.png"
    code, lines, errors = run("compare", picture, *bundles, "--edit", "smile:2", "--edit", "age", "--json", "n.json")
    assert code == 0 and errors == ""
    table, data = cells(lines), json.loads(Path("n.json").read_text())
    assert (
        list(table) == ["tiny", "demo"] and data["width"] == 64 and "Judged at 64 pixels. Seconds: the median of 1 calls" in "".join(lines)
    )
    assert lines[-2:] == [str(Path("a.compared.png").resolve()), "n.json"]
    for entry, folder in zip(data["bundles"], (tiny_bundle, DEMO), strict=True):
        with Pipeline.load(folder, backend="onnxruntime", threads=1) as pipeline:
            pixels = pipeline.invert(picture).pixels
            target = prepare(picture, {**pipeline.sizes, "S": 64}, pipeline.model.visible_rows)
            want = scores(judged(pixels, pipeline.sizes, pipeline.model.visible_rows, 64), target)
        assert entry["scores"] == pytest.approx(want, rel=1e-4) and entry["problems"] == [] and entry["edits"] == ["smile+2", "age+1"]
        assert len(entry["seconds"]["inversion"]) == len(entry["seconds"]["edit"]) == 1 and entry["median_seconds"]["edit"] > 0
        row = table[entry["label"]]
        assert row["SSIM"] == f"{want['SSIM']:.4g}" and row["PSNR"] == f"{want['PSNR']:.4g}" and row["method"] == "sdic"
    assert "failed" not in table["tiny"] and table["demo"]["pixels"] == "128"
    sheet = Image.open("a.compared.png")
    assert sheet.width > 3 * (128 + sheets.GAP) and sheet.height > 3 * (128 + sheets.GAP)


def test_a_bundle_that_fails_says_why_in_its_row_and_the_others_are_shown(
    run: Any, photos: Path, make_bundle: Callable[..., Path], bundles: tuple[Any, ...]
) -> None:
    damaged = make_bundle("damaged")
    (damaged / "onnx/fp32/dicn.onnx").write_bytes(b"nothing")
    words = ("compare", photos / "a.png", *bundles, "--bundle", damaged, "--bundle", "nowhere", "--edit", "glasses:2", "--out", "s.png")
    code, lines, errors = run(*words)
    assert code == 2 and Path("s.png").exists() and "Traceback" not in errors
    table = cells(lines)
    assert table["demo"]["failed"] == "" and table["demo"]["edit s"] != "-"
    assert table["tiny"]["failed"].startswith('glasses+2: there is no direction "glasses"') and table["tiny"]["SSIM"] != "-"
    assert "is damaged: it has 7 bytes instead of" in table["damaged"]["failed"] and table["damaged"]["SSIM"] == "-"
    assert table["nowhere"]["failed"].startswith("there is no bundle at nowhere; build it with") and table["nowhere"]["method"] == "-"
    assert [line.split(":")[1].strip() for line in errors.splitlines()] == ["tiny", "damaged", "nowhere"]


def test_where_nothing_opens_there_is_no_sheet(run: Any, photos: Path) -> None:
    code, lines, errors = run("compare", photos / "a.png", "--bundle", "here", "--bundle", "there", "--json", "-")
    data = json.loads("\n".join(lines))
    assert code == 2 and data["sheet"] is None and not list(Path.cwd().glob("*.png")) and errors.count("\n") == 2


def test_named_networks_add_their_columns(
    run: Any, photos: Path, bundles: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(weights: Path) -> Any:
        if weights.name != "weights":
            raise CheckpointError(f"{weights} is unknown")
        return lambda picture, target: np.abs(picture - target).mean((1, 2, 3))

    entries = [SimpleNamespace(name=name, load=lambda: load) for name in judges.COLUMNS]
    monkeypatch.setattr(judges, "entry_points", lambda group: entries if group == judges.GROUP else [])
    words = ("compare", photos / "a.png", *bundles, "--perceptual", "weights")
    code, lines, _ = run(*words, "--identity", "weights")
    row = cells(lines)["demo"]
    assert code == 0 and row["ID"] == row["LPIPS"] and 0 < float(row["ID"]) < 2
    assert run(*words, "--identity", "others")[0::2] == (2, "error: others is unknown\n")
    monkeypatch.setattr(judges, "entry_points", lambda group: [])
    error = 'error: --perceptual needs the package "torch"; install it with: pip install "sdic-toolkit[train]"\n'
    assert run(*words)[0::2] == (2, error)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--tolerance", 1),
            "--tolerance compares backends on one bundle, and this call compares several bundles; omit it, or give one --b",
        ),
        (("--against", "torch"), "--against compares backends on one bundle, and this call compares several bundles"),
        (("--edit", "smile:x"), 'the strength of "smile" is'),
        (("--runs", 0), "Invalid value for '--runs'"),
    ],
)
def test_bad_options(run: Any, photos: Path, bundles: tuple[Any, ...], words: tuple[Any, ...], sentence: str) -> None:
    code, lines, errors = run("compare", photos / "a.png", *bundles[:4], *words)
    assert code == 2 and lines == [] and sentence in errors and errors.count("\n") == 1


def test_options_of_bundles_are_refused_for_one(run: Any, photos: Path, tiny_bundle: Path) -> None:
    base = ("compare", photos / "a.png", "--bundle", tiny_bundle, *BACKEND, "--against", "onnxruntime")
    code, _, errors = run(*base, "--runs", 2)
    assert code == 2 and "--runs compares several bundles, and this call compares backends on one bundle; omit it, or give two" in errors
    code, _, errors = run(*base, "--edit", "smile", "--edit", "age")
    assert code == 2 and "two backends are compared on one edit, and --edit is given 2 times; give it once" in errors


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a/x", tmp_path / "b/x", tmp_path / "y"]
    assert comparing.labels(paths) == [str(paths[0]), str(paths[1]), "y"]


def test_the_first_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, costs = [0.0], iter([100.0, 1.0, 2.0, 6.0])
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def call() -> None:
        clock[0] += next(costs)

    outcome = comparing.Outcome("x", Path("x"))
    outcome.seconds["inversion"] = comparing.measured(call, 3)
    assert outcome.seconds["inversion"] == [1, 2, 6] and outcome.median("inversion") == 2 and outcome.median("edit") is None
