"""One picture through bundles of two methods, and the same two as a table: checkpoints and bundles have the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_methods as small
from PIL import Image
from small_bundles import small_bundle

from sdic_runtime.cli.app import main as run
from sdic_train.cli.app import main as train


@pytest.fixture(scope="module")
def psp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory, "psp")


def test_two_methods_are_compared_on_one_picture(psp: Path, built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "face.png"
    Image.fromarray((np.random.default_rng(0).random((200, 150, 3)) * 255).astype(np.uint8)).save(picture)
    np.save(tmp_path / "d.npy", np.random.default_rng(1).normal(0, 0.3, (1, small.SMALL.style_width)).astype(np.float32))
    words = ["--backend", "onnxruntime:threads=1", "--runs", "1", "--edit", f"{tmp_path / 'd.npy'}:2", "--out", str(tmp_path)]
    assert run(["compare", str(picture), "--bundle", str(psp), "--bundle", str(built.folder), *words, "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(entry["method"], entry["sizes"]["S"]) for entry in data["bundles"]] == [("psp", 128), ("sdic", 64)] and data["width"] == 64
    assert all(entry["edits"] == ["d+2"] and set(entry["scores"]) == {"SSIM", "PSNR", "L2"} for entry in data["bundles"])
    sheet = np.asarray(Image.open(data["sheet"]))
    assert sheet.shape[0] > 2 * 128 and np.ptp(sheet[150:250, -120:].astype(int)) > 50  # an edit in the second row


def test_bundle_and_checkpoint_of_one_method_have_the_same_row(psp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert train(["dataset", "--out", str(data), "--size", "128", "--count", "2", "--processes", "1", "--seed", "900000", "--photo"]) == 0
    words = ["evaluate", f"bundle={psp}", str(psp.parent / "small.pt"), "--data", str(data), "--runs", "1", "--out", str(tmp_path)]
    words += ["--with", str(psp.parent / "generator.pt")]
    assert train([*words, "--backend", "onnxruntime:threads=1", "--baseline"]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())["inversion"]
    assert list(found) == ["bundle", "pSp"]
    for column in ("SSIM", "PSNR", "L2"):
        assert found["bundle"][column] == pytest.approx(found["pSp"][column], rel=1e-4)
