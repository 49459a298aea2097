"""Styles of all layers at once: also those that become zero, and in graphs of before, which do not limit what they divide by."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, graph_of, outputs, random_inputs, single
from onnx import helper, numpy_helper

from sdic_export.half.cuda.graph import Rewriting
from sdic_export.half.cuda.styles import SINGLE, _Batch, _parts, batch_styles


def batched(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    rewriting = Rewriting(made.graph)
    batch_styles(rewriting)
    rewriting.finish()
    assert any(tensor.name.startswith(f"{SINGLE}.") and tensor.name.endswith(".energy") for tensor in made.graph.initializer)
    return made


def without_limits(model: onnx.ModelProto) -> onnx.ModelProto:
    """As it was exported before."""
    limits = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Clip" and len(node.input) == 2}
    assert limits
    for node in model.graph.node:
        node.input[:] = [limits.get(name, name) for name in node.input]
    kept = [node for node in model.graph.node if node.output[0] not in limits]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.parametrize("before", [False, True])
def test_batched_styles_keep_the_numbers(before: bool, built: Any) -> None:
    model = onnx.load(single(built, "generator_tail"))
    model = without_limits(model) if before else model
    assert_same_numbers(model, batched(model))


def test_styles_that_are_all_zero_are_no_division_by_zero(built: Any) -> None:
    model = onnx.load(single(built, "generator_tail"))
    styles = next(node for node in model.graph.node if node.op_type == "Gemm" and any("modulation" in name for name in node.input))
    for tensor in model.graph.initializer:
        if tensor.name in styles.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    made = batched(model)
    assert all(np.isfinite(array).all() for array in outputs(model, **random_inputs(model, 2)))
    assert_same_numbers(model, made)


def test_styles_come_to_features_with_channels_last(built: Any) -> None:
    """So ONNX Runtime, which puts a Transpose around each convolution, has none of a style to run."""
    made = batched(onnx.load(single(built, "generator_tail")))
    makers = {node.output[0]: node for node in made.graph.node}
    turned = [makers[name] for node in made.graph.node if node.op_type == "Mul" for name in node.input if name in makers]
    turned = [node for node in turned if node.op_type == "Transpose"]
    assert turned and all(node.attribute[0].ints == [0, 3, 1, 2] for node in turned)


@pytest.mark.parametrize(("channels", "kinds"), [([5, 5, 5], {"Split": 1}), ([5, 3, 5], {"Slice": 3}), ([1] * 33, {"Slice": 33})])
@pytest.mark.parametrize("axis", [1, 3])
def test_layers_of_one_width_are_split_in_one_kernel(channels: list[int], kinds: dict[str, int], axis: int) -> None:
    count, most = len(channels), max(channels)
    shape = (2, count, 3, most) if axis == 1 else (2, 1, 1, count * most)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model = graph_of([helper.make_node("Identity", ["x"], ["y"])], {}, shape)
    rewriting = Rewriting(model.graph)
    parts = _parts(_Batch(rewriting, "batch"), "x", channels, axis)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in parts)
    rewriting.outputs = set(parts)
    rewriting.finish()
    assert Counter(node.op_type for node in model.graph.node) == kinds
    for index, (own, got) in enumerate(zip(channels, outputs(model, x=x), strict=True)):
        want = x[:, index : index + 1, :, :own] if axis == 1 else x[..., index * most : index * most + own]
        np.testing.assert_array_equal(got, want)


def test_a_demodulation_that_nothing_reads_stays_small(built: Any) -> None:
    """Layers are padded to the widest one."""
    made = batched(onnx.load(single(built, "generator_tail")))
    flat = next(name for node in made.graph.node for name in node.output if name.endswith(".demodulation.flat"))
    made.graph.output.append(helper.make_tensor_value_info(flat, onnx.TensorProto.FLOAT, None))
    gain = max(float(np.max(numpy_helper.to_array(tensor))) for tensor in made.graph.initializer if tensor.name.endswith(".gains"))
    assert np.abs(outputs(made, **random_inputs(made, 2))[-1]).max() < 1000 * gain


def test_what_has_another_scale_has_another_name(built: Any) -> None:
    """So that no check compares it with the float32 graph's."""
    model = onnx.load(single(built, "generator_tail"))
    made = batched(model)
    extra = {name for node in made.graph.node for name in node.output} & {name for node in model.graph.node for name in node.output}
    known = [value for value in onnx.shape_inference.infer_shapes(model).graph.value_info if value.name in extra]
    del model.graph.output[:], made.graph.output[:]
    model.graph.output.extend(known)
    made.graph.output.extend(known)
    assert_same_numbers(model, made)
