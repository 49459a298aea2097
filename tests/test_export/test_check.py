"""One exported stage against PyTorch: a proof that can fail, and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sdic_export.check import judged, prove_stage
from sdic_export.golden import example_direction, run_chain, smooth_pictures, stage_inputs
from sdic_runtime.errors import SdicError
from sdic_runtime.stages import STAGES
from sdic_runtime.tools.compare import Difference
from sdic_train.backend import TorchBackend
from sdic_train.networks.sdic.model import SDIC


@pytest.fixture(scope="module")
def tensors(model: SDIC) -> dict[str, np.ndarray]:
    image = smooth_pictures(64)
    return {"image": image, **run_chain(TorchBackend(model, "cpu", compiled=False), image, example_direction(model.config.sizes))}


def prove(path: Path, stage: str, model: SDIC, tensors: dict[str, np.ndarray], **changes: np.ndarray) -> Difference:
    return prove_stage([path], STAGES[stage], model.config.sizes, stage_inputs(stage, tensors), {**tensors, **changes}, 2e-4)


def test_a_sound_stage_passes(built: Any, model: SDIC, tensors: dict[str, np.ndarray]) -> None:
    worst = prove(built.folder / "onnx/fp32/dicn.onnx", "dicn", model, tensors)
    assert worst.where == "dicn" and worst.tensor in STAGES["dicn"].outputs and 0 < worst.ratio < 1e-4


def test_one_wrong_value_in_one_picture_is_found(built: Any, model: SDIC, tensors: dict[str, np.ndarray]) -> None:
    residual = tensors["residual"].copy()
    residual[0, 3, 10, 10] += 3e-3 * residual.std()
    with pytest.raises(SdicError, match=r'^"residual" of dicn is off by 3\.0e-03 of its standard deviation .* and 2\.0e-04 is allowed$'):
        prove(built.folder / "onnx/fp32/dicn.onnx", "dicn", model, tensors, residual=residual)


def test_values_that_are_not_finite_never_pass() -> None:
    for ratio in (float("nan"), float("inf")):
        with pytest.raises(SdicError, match="is off by"):
            judged([Difference("dipn", "discrepancy", ratio, ratio, 0.0, 0.0)], 1e9)


def test_wrong_names_and_shapes_are_named(built: Any, model: SDIC, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = built.folder / "onnx/fp32/dicn.onnx"
    sentence = r'the stage "dipn" was exported with discrepancy .* where the stage table has image \[.N., 3, 64, 64\]'
    with pytest.raises(SdicError, match=sentence):
        prove(path, "dipn", model, tensors)
    fixed = onnx.load(str(path))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    with pytest.raises(SdicError, match=r'the stage "dicn" was exported with discrepancy \[2, 3, 64, 64\] .* where the stage table has'):
        prove(tmp_path / "fixed.onnx", "dicn", model, tensors)


def test_a_graph_that_does_not_run_is_a_sentence(model: SDIC, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    latent, picture = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *model.config.sizes.shape(name, 1)[1:]])
        for name in ("image", "latent")
    )
    graph = helper.make_graph([helper.make_node("Nonsense", ["image"], ["latent"])], "e4e", [latent], [picture])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "e4e.onnx"))
    with pytest.raises(SdicError, match=r'^the stage "e4e" does not run on ONNX Runtime: .*Load model from .*e4e\.onnx failed') as caught:
        prove(tmp_path / "e4e.onnx", "e4e", model, tensors)
    assert "\n" not in str(caught.value)
