"""Styles of all layers at once: also those that become zero, and in graphs of before, which do not limit what they divide by."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from half_graphs import assert_same_numbers, outputs, random_inputs, single
from onnx import numpy_helper

from sdic_export.half.cuda.graph import Rewriting
from sdic_export.half.cuda.styles import SINGLE, batch_styles


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
