"""Convolutions over volumes as convolutions over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import SINGLE, assert_same_numbers, graph_of, kinds
from onnx import helper

from sdic_export.half.cuda.form import cuda_form
from sdic_export.half.cuda.volumes import banded, flatten_volumes, layout
from sdic_export.half.precision import Limits, Policy, Rules, to_half
from sdic_export.half.typed_graph import layer_names

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


def test_what_a_policy_keeps_in_float32_stays_so_in_every_part() -> None:
    model = hourglass()
    for tensor in model.graph.initializer:  # named as an exporter names them
        new = f"net.{tensor.name.removesuffix('_bias')}.{'bias' if tensor.name.endswith('_bias') else 'weight'}"
        for node in model.graph.node:
            node.input[:] = [new if name == tensor.name else name for name in node.input]
        tensor.name = new
    for kept in ("within", "context"):
        rules = Rules(layers=(f"net.{kept}",))
        made = cuda_form(model, rules.names)
        assert made is not None and "Split" in kinds(made)
        assert_same_numbers(model, made)
        half = to_half(made, "dipn", Policy("mine", "float16", Limits(1, 1, 1), {"dipn": rules}))
        singles = {tensor.name for tensor in half.graph.initializer if tensor.data_type == SINGLE and len(tensor.dims) == 4}
        assert len(singles) == (4 if kept == "within" else 1) and all(name.startswith(f"net.{kept}.") for name in singles)
        (split,) = (node for node in half.graph.node if node.op_type == "Split")
        assert layer_names(half.graph)[split.output[0]] == "net.within"


def test_convolutions_that_share_a_bias_are_repeated_each_for_its_own_slices() -> None:
    rng = np.random.default_rng(5)
    shapes = {
        "full": (6, 1, 3, 3, 3),
        "down": (6, 6, 3, 3, 3),
        "near": (6, 8, 1, 1),
        "far": (6, 8, 2, 2),
        "shared": (6,),
        "last": (6, 1, 4, 4, 4),
    }
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"first": np.array([1]), "second": np.array([2])}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "first"], ["volume"]),
        helper.make_node("Conv", ["volume", "full"], ["a"], **FULL),
        helper.make_node("Conv", ["x", "near", "shared"], ["flat_near"], kernel_shape=[1, 1]),
        helper.make_node("Unsqueeze", ["flat_near", "second"], ["once_near"]),
        helper.make_node("Add", ["once_near", "a"], ["b"]),
        helper.make_node("Conv", ["b", "down"], ["c"], **FULL, strides=[2, 2, 2]),
        helper.make_node("Conv", ["x", "far", "shared"], ["flat_far"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Unsqueeze", ["flat_far", "second"], ["once_far"]),
        helper.make_node("Add", ["once_far", "c"], ["d"]),
        helper.make_node("ConvTranspose", ["d", "last"], ["e"], **TWICE),
        helper.make_node("Squeeze", ["e", "first"], ["y"]),
    ]
    model = graph_of(nodes, weights, ("N", 8, 8, 8))
    made = graph_of(nodes, weights, ("N", 8, 8, 8))
    assert flatten_volumes(made)
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
