"""Biases of convolutions over large features are operators of their own, also once ONNX Runtime is through with the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of, kinds, optimized
from onnx import helper

from sdic_export.half.cuda.biases import CONVOLUTIONS, LARGE
from sdic_export.half.cuda.form import CUDA_FORM, cuda_form
from sdic_export.half.precision import to_half

SIDE = 128
CHANNELS = LARGE // SIDE**2


def convolution(kind: str = "Conv", channels: int = CHANNELS) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    shape = (channels, 4, 3, 3) if kind == "Conv" else (4, channels, 3, 3)
    weights = {"a.weight": rng.standard_normal(shape).astype(np.float32), "a.bias": rng.standard_normal(channels).astype(np.float32)}
    nodes = [
        helper.make_node(kind, ["x", *weights], ["c"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c"], ["y"], "y", alpha=0.2),
    ]
    return graph_of(nodes, weights, ("N", 4, SIDE, SIDE))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_bias_of_a_large_feature_comes_behind_its_convolution(kind: str, tmp_path: Path) -> None:
    model = convolution(kind)
    made = cuda_form(model)
    assert made is not None and kinds(made) == [kind, "Sub", "LeakyRelu"]
    assert_same_numbers(model, made, batch=2)
    half = to_half(made, "dipn", "fp16", CUDA_FORM)
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    for graph in (made, half):  # ONNX Runtime would bring an Add back
        found = optimized(graph, tmp_path)
        assert [len(node.input) for node in found.graph.node if node.op_type == kind] == [2] and kinds(found).count("Sub") == 1


def test_a_bias_of_a_small_feature_stays() -> None:
    model = convolution(channels=CHANNELS - 1)
    made = cuda_form(model)
    assert made is not None and kinds(made) == kinds(model)
