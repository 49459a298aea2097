"""Graphs for CUDA as a whole: the demo's stages, and which graphs get channels last."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of
from onnx import helper

from sdic_export.half.cuda.form import CUDA_FORM, cuda_form
from sdic_export.half.precision import to_half
from sdic_runtime.bundle.bundle import Bundle

STAGES = ("e4e", "generator_head", "generator_preview", "generator_tail", "dipn", "dicn")


def stage_of_demo(stage: str) -> onnx.ModelProto:
    return onnx.load(str(Bundle.open().path / f"onnx/fp32/{stage}.onnx"))


@pytest.mark.parametrize("stage", STAGES)
def test_stages_of_the_demo_keep_their_numbers(stage: str) -> None:
    model = stage_of_demo(stage)
    before = model.SerializeToString()
    made = cuda_form(model)
    assert made is not None and model.SerializeToString() == before
    assert_same_numbers(model, made)


@pytest.mark.parametrize("stage", ["e4e", "generator_head", "generator_preview", "generator_tail"])
def test_stages_of_the_demo_have_fewer_operators(stage: str) -> None:
    model = stage_of_demo(stage)
    made = cuda_form(model)
    assert made is not None
    weights = {tensor.name for tensor in made.graph.initializer}
    running = [node for node in made.graph.node if not weights.issuperset(node.input)]  # the others are constants of the session
    running = [node for node in running if node.op_type != "Transpose" or node.attribute[0].ints != [0, 3, 1, 2]]  # cancel, see test_styles
    assert len(running) <= 0.85 * len(model.graph.node)


def test_styles_stay_float32_and_are_cast_once() -> None:
    model = cuda_form(stage_of_demo("generator_tail"))
    assert model is not None
    made = to_half(model, "generator_tail", "fp16", CUDA_FORM)
    casts = [node for node in made.graph.node if node.op_type == "Cast"]
    weights = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert [kind for name, kind in weights.items() if "batched_styles" in name and name.endswith(("weight", "energy"))] == [1, 1, 1]
    assert sum("batched_styles" in name for node in casts for name in node.input) == 3  # styles, demodulations, matrices


@pytest.mark.parametrize(
    ("kind", "attributes", "shape"),
    [("Conv", {"group": 8, "kernel_shape": [3, 3]}, (8, 1, 3, 3)), ("ConvTranspose", {"group": 4, "kernel_shape": [3, 3]}, (8, 2, 3, 3))],
)
def test_many_groups_keep_channels_first(kind: str, attributes: dict[str, object], shape: tuple[int, ...]) -> None:
    weights = {"w": np.ones(shape, np.float32)}
    assert cuda_form(graph_of([helper.make_node(kind, ["x", "w"], ["y"], **attributes)], weights, ("N", 8, 6, 6))) is None


def test_a_volume_that_cannot_be_rearranged_keeps_channels_first() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3, 3])]
    assert cuda_form(graph_of(nodes, {"w": np.ones((2, 3, 3, 3, 3), np.float32)}, ("N", 3, 6, 6, 6))) is None
