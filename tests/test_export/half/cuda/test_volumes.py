"""Convolutions over volumes as convolutions over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of, kinds
from onnx import helper

from sdic_export.half.cuda.volumes import banded, flatten_volumes, layout

FULL = {"kernel_shape": [3, 3, 3], "pads": [1] * 6}
WITHIN = {"kernel_shape": [1, 5, 5], "pads": [0, 2, 2, 0, 2, 2]}
TWICE = {"kernel_shape": [4, 4, 4], "pads": [1] * 6, "strides": [2, 2, 2]}


def hourglass(**changes: Any) -> onnx.ModelProto:
    """A small volume network of [N, 8, 8, 8]: eight slices, down, context of one slice, within slices, joined, up, back to eight slices."""
    rng = np.random.default_rng(3)
    shapes = {
        "stem": (4, 1, 3, 3, 3), "stem_bias": (4,), "down": (6, 4, 3, 3, 3), "context": (6, 8, 2, 2), "within": (6, 6, 1, 5, 5),
        "within_bias": (6,), "point": (6, 12, 1, 1, 1), "up": (6, 1, 4, 4, 4),
    }  # fmt: skip
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"first": np.array([1]), "second": np.array([2])}
    down = {**FULL, "strides": [2, 2, 2], **changes}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "first"], ["volume"]),
        helper.make_node("Conv", ["volume", "stem", "stem_bias"], ["a"], **FULL),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.01),
        helper.make_node("Conv", ["b", "down"], ["c"], **down),
        helper.make_node("Conv", ["x", "context"], ["flat"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Unsqueeze", ["flat", "second"], ["once"]),
        helper.make_node("Add", ["once", "c"], ["d"]),
        helper.make_node("Conv", ["d", "within", "within_bias"], ["e"], **WITHIN),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Mul", ["f", "once"], ["g"]),
        helper.make_node("Concat", ["g", "c"], ["h"], axis=1),
        helper.make_node("Conv", ["h", "point"], ["i"], kernel_shape=[1, 1, 1]),
        helper.make_node("ConvTranspose", ["i", "up"], ["j"], **TWICE),
        helper.make_node("Squeeze", ["j", "first"], ["y"]),
    ]
    return graph_of(nodes, weights, ("N", 8, 8, 8))


def test_a_volume_network_keeps_its_numbers_and_has_no_volumes_left() -> None:
    model, made = hourglass(), hourglass()
    assert flatten_volumes(made)
    assert not {"Unsqueeze", "Squeeze"}.intersection(kinds(made))
    assert all(len(tensor.dims) <= 4 for tensor in made.graph.initializer)
    assert "Split" in kinds(made)  # the convolution within slices is computed for some slices at a time
    assert_same_numbers(model, made)


@pytest.mark.parametrize("changes", [{"dilations": [1, 1, 2], "pads": [1, 1, 2, 1, 1, 2]}, {"auto_pad": "SAME_UPPER"}])
def test_a_convolution_that_is_not_known_leaves_the_graph_as_it_is(changes: dict[str, Any]) -> None:
    model = hourglass()
    conv = next(node for node in model.graph.node if node.output[0] == "c")
    kept = [item for item in conv.attribute if item.name not in changes and not (item.name == "pads" and "auto_pad" in changes)]
    del conv.attribute[:]
    conv.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in changes.items())])
    before = model.SerializeToString()
    assert not flatten_volumes(model)
    assert model.SerializeToString() == before


def test_an_operator_that_is_not_known_leaves_the_graph_as_it_is() -> None:
    model = hourglass()
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Softplus"
    before = model.SerializeToString()
    assert not flatten_volumes(model)
    assert model.SerializeToString() == before


def test_a_graph_without_volumes_is_left() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])]
    assert not flatten_volumes(graph_of(nodes, {"w": np.ones((2, 3, 3, 3), np.float32)}, ("N", 3, 8, 8)))


def test_a_band_reaches_the_neighbouring_slices_alone() -> None:
    dense = banded(np.ones((1, 1, 3, 1, 1), np.float32), layout(1, 5), 5, 1, 1, False)[:, :, 0, 0]
    np.testing.assert_array_equal(dense, np.abs(np.subtract.outer(np.arange(5), np.arange(5))) <= 1)
