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
    for name in ("sdic", "sdic-1", "psp"):
        write_safetensors(tmp_path / f"packed/{name}.safetensors", own, {**metadata, "shared": json.dumps(shared)})
    (tmp_path / "packed/judge.safetensors").write_bytes(b"judge")
    monkeypatch.setattr(rows.checkpoints, "unpack", lambda packed, out: sorted(packed.glob("[!jr]*.safetensors")))
    calls: list[str] = []

    def command(words: list[str], site: Path) -> int:
        if words[0] == "evaluate":
            label, _, path = words[1].partition("=")
            label = label if label != "--tune" else "PTI"
            calls.append(label)
            if label == "pSp" and not (tmp_path / "mended").exists():
                return 2
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            inversion = {"ID": 0.5, "PSNR": 20.0 + len(path), "L2": 0.01, "seconds": 0.125}
            (folder / "evaluation.json").write_text(json.dumps({"inversion": {label: inversion}, "edits": {label: EDITS}}))
        return 0

    monkeypatch.setattr(rows, "command", command)
    assert rows.evaluate(options(tmp_path)) == 2
    assert "pSp failed" in capsys.readouterr().err
    assert calls == ["pSp", "SDIC", "sdic-1", rows.LONGER]
    (tmp_path / "mended").touch()
    assert rows.evaluate(options(tmp_path)) == 0
    assert calls[4:] == ["pSp"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | ID | PSNR | L2 | Time (s) | moved | others | identity | edit (s) |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| pSp", "| SDIC", "| sdic-1", f"| {rows.LONGER}"]
    assert lines[2].endswith("| 0.0100 | 0.125 | 0.500 | 0.100 | 0.900 | 0.250 |")
    assert (tmp_path / "out/table1.md").read_text().splitlines() == lines
    assert rows.evaluate(options(tmp_path, count=3)) == 0 and len(calls) == 9  # of other photos
    write_safetensors(tmp_path / "packed/e4e.safetensors", own, metadata)
    with pytest.raises(SystemExit, match="PTI's loss needs .*reader.safetensors, a portrait reader that is not the judge"):
        rows.evaluate(options(tmp_path, count=3, pti=2))
    (tmp_path / "packed/reader.safetensors").write_bytes(b"reader")
    assert rows.evaluate(options(tmp_path, count=3, pti=2)) == 0
    assert calls[9:] == ["e4e", "PTI", "e4e", "SDIC", rows.LONGER]
    lines = capsys.readouterr().out.splitlines()
    assert [line[2:].split(" | ")[0] for line in lines[-4:]] == [
        "PTI, 2 photos",
        "e4e, those 2",
        "SDIC, those 2",
        f"{rows.LONGER}, those 2",
    ]
    assert rows.evaluate(options(tmp_path, count=3, pti=2)) == 0 and len(calls) == 14


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
