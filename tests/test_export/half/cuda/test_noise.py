"""Noise and bias of a styled layer are one constant by the time that a session is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of, kinds, optimized
from onnx import helper, numpy_helper

from sdic_export.half.cuda.form import CUDA_FORM, cuda_form
from sdic_export.half.cuda.noise import SUMS
from sdic_export.half.precision import to_half

RNG = np.random.default_rng(3)
NOISE, BIAS = RNG.standard_normal((1, 1, 6, 7)).astype(np.float32), RNG.standard_normal((1, 8, 1, 1)).astype(np.float32)


def styled(first: np.ndarray = NOISE, second: np.ndarray = BIAS, turned: bool = False, between: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "layer.weight"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["layer.noise", "c"] if turned else ["c", "layer.noise"], ["n"]),
        *([helper.make_node("Tanh", ["n"], ["between"])] if between else []),
        helper.make_node("Add", ["between" if between else "n", "layer.bias"], ["b"]),
        helper.make_node("LeakyRelu", ["b"], ["y"], alpha=0.2),
    ]
    weight = RNG.standard_normal((8, 4, 1, 1)).astype(np.float32)
    return graph_of(nodes, {"layer.weight": weight, "layer.noise": first, "layer.bias": second}, ("N", 4, 6, 7))


@pytest.mark.parametrize(("first", "second"), [(NOISE, BIAS), (BIAS, NOISE)])
@pytest.mark.parametrize("turned", [False, True])
def test_noise_and_bias_are_added_to_each_other(first: np.ndarray, second: np.ndarray, turned: bool) -> None:
    model = styled(first, second, turned)
    made = cuda_form(model)
    assert made is not None and sorted(kinds(made)) == ["Add", "Add", "Conv", "LeakyRelu"]
    assert_same_numbers(model, made, batch=2)
    assert [len(node.input) for node in made.graph.node if all(name.startswith(f"{SUMS}.") for name in node.input)] == [2]


def test_the_sum_is_rounded_once_and_is_a_constant_of_the_session(tmp_path: Path) -> None:
    made = cuda_form(styled())
    assert made is not None
    found = optimized(to_half(made, "generator_tail", "fp16", CUDA_FORM), tmp_path)
    constants = [numpy_helper.to_array(tensor) for tensor in found.graph.initializer]
    assert any(array.dtype == np.float16 and np.array_equal(array, (NOISE + BIAS).astype(np.float16)) for array in constants)
    assert kinds(found).count("Add") == 1 and not any(array.size == NOISE.size for array in constants)


@pytest.mark.parametrize("shape", [(2, 1, 6, 7), (1, 8, 6, 7), (1, 1, 1, 1)])
def test_other_constants_are_added_one_after_the_other(shape: tuple[int, ...]) -> None:
    model = styled(np.ones(shape, np.float32))
    made = cuda_form(model)
    assert made is not None and kinds(made) == kinds(model)


def test_what_lies_between_keeps_both() -> None:
    model = styled(between=True)
    made = cuda_form(model)
    assert made is not None and kinds(made) == kinds(model)


def test_noise_that_is_an_input_is_left_alone() -> None:
    model = styled()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer.noise")
    model.graph.initializer.remove(tensor)
    model.graph.input.append(helper.make_tensor_value_info("layer.noise", onnx.TensorProto.FLOAT, NOISE.shape))
    made = cuda_form(model)
    assert made is not None and kinds(made) == kinds(model)
