"""One exported stage against PyTorch: a check that can fail, and says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from sdic_export.check import check_stage, judged
from sdic_export.golden import Example, example_direction, run_all, smooth_pictures
from sdic_export.half.check import StageCheck, judge_chain
from sdic_runtime.errors import BackendError, BundleError
from sdic_runtime.tools.compare import Difference
from sdic_train.backend import TorchBackend
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

METHOD = method_of(METHODS["sdic"], TINY)


@pytest.fixture(scope="module")
def examples(model: SDIC) -> Mapping[str, Example]:
    return run_all(TorchBackend(METHOD, model), smooth_pictures(64), example_direction(METHOD.sizes)).examples


def check(path: Path, stage: str, example: Example) -> Difference:
    return check_stage([path], stage, METHOD.stages[stage].outputs, METHOD, example, 2e-4)


def test_a_sound_stage_passes(built: Any, examples: Mapping[str, Example]) -> None:
    worst = check(built.folder / "onnx/fp32/dicn.onnx", "dicn", examples["dicn"])
    assert worst.where == "dicn" and worst.tensor in METHOD.stages["dicn"].outputs and 0 < worst.ratio < 1e-4


def test_one_wrong_value_in_one_picture_is_found(built: Any, examples: Mapping[str, Example]) -> None:
    example = examples["dicn"]
    residual = example.outputs["residual"].copy()
    residual[0, 3, 10, 10] += 3e-3 * residual.std()
    with pytest.raises(BundleError, match=r'^"residual" of dicn is off by 3\.0e-03 of its standard deviation .* and 2\.0e-04 is allowed$'):
        check(built.folder / "onnx/fp32/dicn.onnx", "dicn", replace(example, outputs={**example.outputs, "residual": residual}))


def test_values_that_are_not_finite_never_pass() -> None:
    for ratio in (float("nan"), float("inf")):
        with pytest.raises(BundleError, match="is off by"):
            judged([Difference("dipn", "discrepancy", ratio, ratio, 0.0, 0.0)], 1e9)
        sound = Difference("dipn", "discrepancy", 0.0, 0.0, 90.0, 1.0)
        with pytest.raises(BundleError, match="is off by"):
            judged([sound, Difference("dipn", "discrepancy", ratio, ratio, 0.0, 0.0), sound], 1e9)


def test_decibels_that_are_no_number_never_pass() -> None:
    sound, off = Difference("dicn", "residual", 0.0, 0.0, 90.0, 1.0), Difference("dicn", "residual", 0.0, 0.0, float("nan"), 1.0)
    for found in ((sound, off, sound), (off, sound)):
        with pytest.raises(BundleError, match="has nan dB"):
            judge_chain(found)
        assert math.isnan(StageCheck("dicn", "fp16", found, ()).psnr)


def test_wrong_names_and_shapes_are_named(built: Any, examples: Mapping[str, Example], tmp_path: Path) -> None:
    path = built.folder / "onnx/fp32/dicn.onnx"
    sentence = r'the stage "dipn" was exported with discrepancy .* where the stage table has image \[.N., 3, 64, 64\]'
    with pytest.raises(BundleError, match=sentence):
        check(path, "dipn", examples["dipn"])
    fixed = onnx.load(str(path))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    with pytest.raises(BundleError, match=r'the stage "dicn" was exported with discrepancy \[2, 3, 64, 64\] .* where the stage table has'):
        check(tmp_path / "fixed.onnx", "dicn", examples["dicn"])


def test_a_graph_that_does_not_run_is_a_sentence(examples: Mapping[str, Example], tmp_path: Path) -> None:
    latent, picture = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *METHOD.shape(name, 1)[1:]]) for name in ("image", "latent")
    )
    graph = helper.make_graph([helper.make_node("Nonsense", ["image"], ["latent"])], "e4e", [latent], [picture])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "e4e.onnx"))
    with pytest.raises(
        BackendError, match=r'^the stage "e4e" does not run on ONNX Runtime: .*Load model from .*e4e\.onnx failed'
    ) as caught:
        check(tmp_path / "e4e.onnx", "e4e", examples["e4e"])
    assert "\n" not in str(caught.value)
