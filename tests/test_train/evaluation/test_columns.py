"""The columns that the paper's table lacks, MS-SSIM and FID, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_methods as small
import torch
from onnx import TensorProto, helper, save

from sdic_train.cli.app import main
from sdic_train.data.datasets import open_portraits
from sdic_train.evaluation.evaluate import ORDER
from sdic_train.evaluation.fid import frechet_distance, open_features
from sdic_train.evaluation.measures import ms_ssim
from sdic_train.evaluation.models import Evaluated
from sdic_train.pipelines import Weights, pipeline_of


def inception(path: Path) -> Path:
    """The means of the channels, of pictures of 0 to 255."""
    taken = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, "H", "W"])
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])
    nodes = [helper.make_node("GlobalAveragePool", ["picture"], ["mean"]), helper.make_node("Flatten", ["mean"], ["features"])]
    graph = helper.make_graph(nodes, "inception", [taken], [given])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_fid_and_ms_ssim_join_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, data, side = small.write_small(tmp_path / "hfgi.pt", "hfgi"), tmp_path / "data", small.LARGER.working
    words = ["--size", str(side), "--count", "3", "--processes", "1", "--seed", "900000", "--photo"]
    assert main(["dataset", "--out", str(data), *words]) == 0
    network = inception(tmp_path / "inception.onnx")
    base = ["evaluate", str(checkpoint), "--data", str(data), "--no-baseline", "--runs", "1", "--threads", "1"]
    capsys.readouterr()
    assert main([*base, "--inception", str(network), "--out", str(tmp_path / "out")]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert head == "| method | SSIM | PSNR | L2 | Time (s) | MS-SSIM | FID |"
    row = json.loads((tmp_path / "out/evaluation.json").read_text())["inversion"]["HFGI"]
    assert [column for column in ORDER if column in row] == ["SSIM", "PSNR", "L2", "seconds", "MS-SSIM", "FID"]

    pictures = open_portraits(data, side, photo=True, seed=900_000).pictures
    code, model = Weights(checkpoint).read()
    with pipeline_of(code, model, checkpoint) as pipeline:
        shown = Evaluated(pipeline, side)
        inverted, target = shown.picture(shown.invert(shown.image(pictures))), shown.target(pictures)
    features = open_features(network)
    assert row["FID"] == pytest.approx(frechet_distance(features(inverted), features(target)), rel=1e-3)
    assert row["MS-SSIM"] == pytest.approx(float(ms_ssim(inverted, target).mean()), abs=1e-4)
    assert np.isfinite(list(row.values())).all() and torch.isfinite(inverted).all()
    assert main([*base, "--inception", str(tmp_path / "none.onnx")]) == 2
    assert "there is no file" in capsys.readouterr().err
