"""Encoders with fewer kernels."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import SINGLE, assert_same_numbers, graph_of, kinds
from onnx import helper

from sdic_export.half.cuda.encoder import scale_inside, together
from sdic_export.half.cuda.form import cuda_form
from sdic_export.half.cuda.graph import Rewriting
from sdic_export.half.cuda.heads import batch_heads
from sdic_export.half.precision import Limits, Policy, Rules, to_half

random = np.random.default_rng()


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in a test, whichever tests ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "random", np.random.default_rng(7))


def array(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def rewritten(model: onnx.ModelProto, step: Any) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    rewriting = Rewriting(made.graph)
    step(rewriting)
    rewriting.finish()
    return made


def normalized(scale: np.ndarray, shift: np.ndarray, *results: str) -> onnx.ModelProto:
    weights = {"gamma": scale, "beta": shift, "mean": array(4), "variance": np.abs(array(4)) + 0.5, "w": array(5, 4, 3, 3)}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "variance"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    return graph_of(nodes, weights, ("N", 4, 6, 6), *results)


def test_the_scale_of_a_norm_goes_into_the_convolution_and_the_border_stays() -> None:
    model = normalized(np.array([0.5, -2, 1, 3], np.float32), array(4))
    made = rewritten(model, scale_inside)
    assert kinds(made) == ["Add", "Conv"]
    assert_same_numbers(model, made)


@pytest.mark.parametrize(
    ("scale", "shift", "results"),
    [
        (np.array([0.5, 1e-3, 1, 3], np.float32), np.zeros(4, np.float32), ()),  # would lose the shift
        (np.full(4, 0.5, np.float32), np.full(4, 2000, np.float32), ()),  # a number that half precision does not hold well
        (np.ones(4, np.float32), np.zeros(4, np.float32), ("n", "y")),  # something else reads the normalized feature
    ],
)
def test_a_norm_that_must_stay_does(scale: np.ndarray, shift: np.ndarray, results: tuple[str, ...]) -> None:
    assert kinds(rewritten(normalized(scale, shift, *results), scale_inside)) == ["BatchNormalization", "Conv"]


def test_norms_that_share_a_scale_keep_their_own_shifts() -> None:
    weights = {"gamma": np.array([0.5, -2, 1, 3], np.float32), "beta": array(4), "variance": np.abs(array(4)) + 0.5}
    nodes = []
    for index, source in enumerate(("x", "y0")):
        weights |= {f"mean{index}": array(4), f"w{index}": array(4, 4, 3, 3)}
        nodes.append(helper.make_node("BatchNormalization", [source, "gamma", "beta", f"mean{index}", "variance"], [f"n{index}"]))
        nodes.append(helper.make_node("Conv", [f"n{index}", f"w{index}"], [f"y{index}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    model = graph_of(nodes, weights, ("N", 4, 6, 6), "y1")
    made = rewritten(model, scale_inside)
    assert kinds(made) == ["Add", "Conv", "Add", "Conv"]
    assert_same_numbers(model, made)


def branches(*changes: dict[str, Any]) -> onnx.ModelProto:
    """Three convolutions of the same feature, each with a leaky ReLU; `changes` of the attributes of each."""
    nodes, weights = [], {}
    for index, change in enumerate(changes or ({}, {}, {})):
        weights |= {f"w{index}": array(4, 3, 3, 3), f"b{index}": array(4)}
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], **{k: v for k, v in change.items() if k != "alpha"}}
        nodes.append(helper.make_node("Conv", ["x", f"w{index}", f"b{index}"], [f"c{index}"], **options))
        nodes.append(helper.make_node("LeakyRelu", [f"c{index}"], [f"a{index}"], alpha=change.get("alpha", 0.1)))
    nodes.append(helper.make_node("Sum", [f"a{index}" for index in range(len(changes) or 3)], ["y"]))
    return graph_of(nodes, weights, ("N", 3, 8, 8))


def test_convolutions_of_the_same_feature_are_one() -> None:
    model = branches()
    made = rewritten(model, together)
    assert kinds(made) == ["Conv", "LeakyRelu", "Split", "Sum"]
    assert_same_numbers(model, made)


def test_families_that_share_their_biases_keep_their_own() -> None:
    """As an exporter writes them, which keeps equal tensors once."""
    nodes, weights = [], {"b": np.zeros(4, np.float32)}
    for index, stride in enumerate((1, 1, 1, 2, 2)):
        weights[f"w{index}"] = array(4, 3, 3, 3)
        nodes.append(
            helper.make_node("Conv", ["x", f"w{index}", "b"], [f"c{index}"], kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2)
        )
        nodes.append(helper.make_node("LeakyRelu", [f"c{index}"], [f"a{index}"], alpha=0.1))
    nodes.append(helper.make_node("Sum", ["a0", "a1", "a2"], ["y"]))
    nodes.append(helper.make_node("Sum", ["a3", "a4"], ["z"]))
    model = graph_of(nodes, weights, ("N", 3, 8, 8), "y", "z")
    made = rewritten(model, together)
    assert kinds(made).count("Conv") == 2
    assert_same_numbers(model, made)


def test_what_a_policy_keeps_in_float32_is_not_joined_with_the_rest() -> None:
    nodes, weights = [], {}
    for index in range(4):
        weights |= {f"heads.{index}.weight": array(8, 8, 3, 3), f"heads.{index}.bias": array(8)}
        nodes.append(helper.make_node("Conv", ["x", f"heads.{index}.weight", f"heads.{index}.bias"], [f"c{index}"], kernel_shape=[3, 3]))
        nodes.append(helper.make_node("LeakyRelu", [f"c{index}"], [f"a{index}"], alpha=0.1))
    nodes.append(helper.make_node("Sum", [f"a{index}" for index in range(4)], ["y"]))
    model = graph_of(nodes, weights, ("N", 8, 8, 8))
    for kept, families in {("heads.2",): 2, ("heads.1", "heads.2"): 2, ("heads.*",): 1}.items():
        rules = Rules(layers=kept)
        made = cuda_form(model, rules.names)
        assert made is not None and kinds(made).count("Conv") == families
        assert_same_numbers(model, made)
        half = to_half(made, "e4e", Policy("mine", "float16", Limits(1, 1, 1), {"e4e": rules}))
        singles = sum(tensor.dims[0] for tensor in half.graph.initializer if len(tensor.dims) == 4 and tensor.data_type == SINGLE)
        assert singles == 8 * len([index for index in range(4) if rules.names(f"heads.{index}")])


def test_only_those_that_read_alike_are_one() -> None:
    model = branches({}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"alpha": 0.2}, {})
    made = rewritten(model, together)
    assert kinds(made).count("Conv") == 3
    assert_same_numbers(model, made)


def code(added: bool = True, rows: int = 3, **changes: Any) -> onnx.ModelProto:
    """A code [N, rows, 5] of heads on the same feature; the first row is added to the others where `added`."""
    weights: dict[str, np.ndarray] = {"flat": np.array([-1, 4]), "axis": np.array([1])}
    nodes, stacked = [], []
    for row in range(rows):
        weights |= {f"w{row}": array(5, 4), f"b{row}": array(5)}
        nodes.append(helper.make_node("Reshape", ["x", "flat"], [f"flat{row}"]))
        nodes.append(helper.make_node("Gemm", [f"flat{row}", f"w{row}", f"b{row}"], [f"linear{row}"], **{"transB": 1, **changes}))
        made = f"linear{row}"
        if row and added:
            nodes.append(helper.make_node("Add", ["linear0", made], [f"sum{row}"]))
            made = f"sum{row}"
        nodes.append(helper.make_node("Unsqueeze", [made, "axis"], [f"row{row}"]))
        stacked.append(f"row{row}")
    nodes.append(helper.make_node("Concat", stacked, ["y"], axis=1))
    return graph_of(nodes, weights, ("N", 4, 1, 1))


@pytest.mark.parametrize("added", [True, False])
def test_the_rows_of_a_code_are_one_product(added: bool) -> None:
    model = code(added)
    made = rewritten(model, batch_heads)
    assert kinds(made).count("MatMul") == 1 and "Gemm" not in kinds(made)
    assert_same_numbers(model, made)


def test_rows_of_another_form_stay() -> None:
    assert "MatMul" not in kinds(rewritten(code(alpha=2.0), batch_heads))
