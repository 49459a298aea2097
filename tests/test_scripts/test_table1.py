"""Table 1 of packed checkpoints: the order of its rows, what is measured again, what a failure leaves, and the sheet."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sdic_train.checkpoints.files import read_safetensors, write_safetensors
from sdic_train.networks.portrait_reader import PortraitReader

EDITS = {"age": {"strength": 5.0, "moved": 0.5, "others": 0.1, "identity": 0.9, "seconds": 0.25}}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    return importlib.import_module("table1_evaluation")


def options(tmp_path: Path, count: int = 2, pti: int = 0) -> argparse.Namespace:
    places = {"packed": str(tmp_path / "packed"), "out": str(tmp_path / "out"), "judge": None}
    return argparse.Namespace(**places, count=count, pti=pti, photos=950_000, device="cpu", batch=2, sheet=0, edit="smile")


def test_rows_are_measured_once_and_a_failure_leaves_the_others(
    rows: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base, metadata = read_safetensors(rows.BASE)
    own, shared = {"dipn.rgb1.0.bn.bias": base["dipn.rgb1.0.bn.bias"].float() + 1}, sorted(base.keys() - {"dipn.rgb1.0.bn.bias"})
    for name in ("sdic", "sdic-1", "psp", "sdic-affine"):
        write_safetensors(tmp_path / f"packed/{name}.safetensors", own, {**metadata, "shared": json.dumps(shared)})
    (tmp_path / "packed/judge.safetensors").write_bytes(b"judge")
    monkeypatch.setattr(rows.checkpoints, "unpack", lambda packed, out: sorted(packed.glob("[!jr]*.safetensors")))
    calls: list[str] = []

    def command(words: list[str], site: Path) -> int:
        if words[0] == "evaluate":
            label, _, path = words[1].partition("=")
            label = label if label != "--tune" else "PTI"
            calls.append(label)
            if label == "pSp" and not (tmp_path / "fixed").exists():
                return 2
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            inversion = {"ID": 0.5, "PSNR": 20.0 + len(path), "L2": 0.01, "seconds": 0.125}
            (folder / "evaluation.json").write_text(json.dumps({"inversion": {label: inversion}, "edits": {label: EDITS}}))
        return 0

    monkeypatch.setattr(rows, "command", command)
    assert rows.evaluate(options(tmp_path)) == 2
    assert "pSp failed" in capsys.readouterr().err
    assert calls == ["pSp", "SDIC", "sdic-1", "sdic-affine", rows.LONGER]
    (tmp_path / "fixed").touch()
    assert rows.evaluate(options(tmp_path)) == 0
    assert calls[5:] == ["pSp"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | ID | PSNR | L2 | Time (s) | moved | others | identity | edit (s) |"
    assert [line.split(" | ")[0][2:] for line in lines[2:] if line[:2] == "| " and line[:5] != "| ---"] == [
        *("pSp", "SDIC", rows.LONGER),
        *("method", "SDIC, seed 0", "SDIC, seed 1", "SDIC, mean", "SDIC, least to most"),
        *("method", "SDIC, seed 0", "SDIC, seed 1", "SDIC, mean", "SDIC, least to most", "SDIC with affine fusion, seed 0"),
    ]
    assert lines[2].endswith("| 0.0100 | 0.125 | 0.500 | 0.100 | 0.900 | 0.250 |")
    assert (tmp_path / "out/table1.md").read_text().splitlines() == lines
    assert rows.evaluate(options(tmp_path, count=3)) == 0 and len(calls) == 11  # of other photos
    write_safetensors(tmp_path / "packed/e4e.safetensors", own, metadata)
    with pytest.raises(rows.Refused, match="PTI's loss needs .*reader.safetensors, a portrait reader that is not the judge"):
        rows.evaluate(options(tmp_path, count=3, pti=2))
    (tmp_path / "packed/reader.safetensors").write_bytes(b"reader")
    assert rows.evaluate(options(tmp_path, count=3, pti=2)) == 0
    assert calls[11:] == ["e4e", "PTI", "e4e", "SDIC, seed 0", rows.LONGER]
    lines = (tmp_path / "out/table1.md").read_text().splitlines()
    assert [line[2:].split(" | ")[0] for line in lines[6:10]] == [
        "PTI, 2 photos",
        "e4e, those 2",
        "SDIC, seed 0, those 2",
        f"{rows.LONGER}, those 2",
    ]
    assert rows.evaluate(options(tmp_path, count=3, pti=2)) == 0 and len(calls) == 16


def test_the_first_table_has_means_and_the_others_have_seeds_and_ablations(rows: ModuleType) -> None:
    table = rows.table1_rows
    runs = {"sdic": 0.2, "sdic-2": 0.4, "sdic-1": 0.9, "sdic-affine": 0.3, "hfgi": 0.1, "mine": 0.7, "sdic-affine-1": 0.4}
    groups = table.grouped(runs)
    assert [group.label for group in groups] == ["HFGI", "SDIC", "mine", "SDIC with affine fusion"]
    assert list(groups[1].runs.items()) == [("SDIC, seed 0", "sdic"), ("SDIC, seed 1", "sdic-1"), ("SDIC, seed 2", "sdic-2")]
    found = {label: {"ID": runs[run], "PSNR": 10 * runs[run]} for group in groups for label, run in group.runs.items()}
    first, note, seeds, _, ablations = table.text(groups, found, {"more": {"ID": 0.0, "PSNR": 1.0}}).split("\n\n")
    assert first.splitlines()[2:] == [
        *("| HFGI | 0.100 | 1.00 |", "| SDIC | 0.500 | 5.00 |", "| mine | 0.700 | 7.00 |", "| more | 0.000 | 1.00 |")
    ]
    assert "SDIC (3)" in note and seeds.splitlines()[-2:] == [
        *("| SDIC, mean | 0.500 | 5.00 |", "| SDIC, least to most | 0.200 to 0.900 | 2.00 to 9.00 |")
    ]
    assert ablations.splitlines()[:7] == seeds.splitlines()
    assert ablations.splitlines()[-1] == "| SDIC with affine fusion, least to most | 0.300 to 0.400 | 3.00 to 4.00 |"
    one = table.text(table.grouped(["sdic"]), {"SDIC": {"ID": 0.5}}, {})
    assert one.splitlines()[2:] == ["| SDIC | 0.500 |"]


def test_the_sheet_has_every_method_and_an_edit_that_changes_the_picture(rows: ModuleType, tmp_path: Path) -> None:
    sheets = rows.table1_sheet
    write_safetensors(tmp_path / "judge.safetensors", PortraitReader().state_dict(), {"format": "sdic-portrait-reader"})
    photo = np.asarray(Image.open(Path(__file__).parents[2] / "examples/portrait_1.png").convert("RGB").resize((128, 128)))
    models = {"one": rows.BASE}
    sheet = np.asarray(sheets.sheet(models, photo[None], tmp_path / "judge.safetensors", rows.DIRECTIONS / "age.safetensors"))

    def cell(row: int, column: int) -> np.ndarray:
        left = sheet.shape[1] - (2 - column) * 136
        return sheet[8 + row * 136 : 136 + row * 136, left : left + 128].astype(float)

    assert np.array_equal(cell(0, 0), photo) and (cell(1, 0) == 255).all()
    assert np.abs(cell(0, 1) - photo).mean() < 12 < np.abs(cell(1, 1) - cell(0, 1)).max()
