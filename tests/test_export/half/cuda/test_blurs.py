"""Blurs inside upsampling convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import outputs
from onnx import helper, numpy_helper

from sdic_export.half.cuda.blurs import composed_kernel
from sdic_export.half.cuda.form import cuda_form


def upsampling(**changes: Any) -> onnx.ModelProto:
    """A transposed convolution with two depthwise ones behind it, whose taps are not symmetric. `changes`: of the attributes of one of
    them by "index.name", or `shared=True` where something else reads the middle."""
    rng = np.random.default_rng(0)
    attributes: list[dict[str, Any]] = [
        {"strides": [2, 2], "kernel_shape": [3, 3], "pads": [0, 0, 0, 0]},
        {"group": 5, "kernel_shape": [4, 1], "pads": [1, 0, 1, 0]},
        {"group": 5, "kernel_shape": [1, 4], "pads": [0, 1, 0, 1]},
    ]
    shared = changes.pop("shared", False)
    for key, value in changes.items():
        index, _, name = key.partition("_")
        attributes[int(index[1:])][name] = value
    shapes = [(4, 5, 3, 3), (5, 1, 4, 1), (5, 1, 1, 4)]
    weights = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{index}") for index, shape in enumerate(shapes)]
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w0"], ["a"], **attributes[0]),
        helper.make_node("Conv", ["a", "w1"], ["b"], **attributes[1]),
        helper.make_node("Conv", ["b", "w2"], ["y"], **attributes[2]),
    ]
    outputs = ["y", *(["a"] if shared else [])]
    graph = helper.make_graph(
        nodes,
        "upsampling",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4, 6, 7])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5, None, None]) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_blur_behind_an_upsampling_convolution_goes_into_it() -> None:
    model = upsampling()
    made = cuda_form(model)
    assert made is not None and [node.op_type for node in made.graph.node] == ["ConvTranspose"]
    assert [tensor.name for tensor in made.graph.initializer] == ["w0"] and len(model.graph.node) == 3
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 7)).astype(np.float32)
    (want,), (got,) = outputs(model, x=x), outputs(made, x=x)
    assert want.shape == got.shape == (2, 5, 12, 14)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"n0_strides": [1, 1]}, {"n0_pads": [1, 1, 1, 1]}, {"n1_pads": [0, 0, 0, 0]}, {"n2_pads": [0, 2, 0, 2]}, {"shared": True}]
)
def test_what_is_another_map_stays_as_it_is_and_keeps_channels_first(changes: dict[str, Any]) -> None:
    model = upsampling(**changes)
    assert cuda_form(model) is None  # the depthwise convolutions stay
    assert len(model.graph.node) == 3


def test_the_kernel_of_ones_counts_the_ways_from_pixel_to_pixel() -> None:
    kernel = composed_kernel(np.ones((1, 1, 3, 3), np.float32), np.ones((1, 4), np.float32), np.ones((1, 4), np.float32))
    ways = np.convolve(np.ones(3), np.ones(4))
    np.testing.assert_array_equal(kernel[0, 0], np.outer(ways, ways).astype(np.float32))
