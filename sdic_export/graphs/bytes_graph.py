"""The graph that turns the picture of a program into what a user sees, so that a GPU hands over bytes instead of floats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.files import replacing
from sdic_runtime.program import PICTURE

OPSET, IR_VERSION = 18, 8  # read by every ONNX Runtime that Triton ships with


def bytes_nodes(rows: tuple[int, int]) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes and constants from `picture` [N, 3, R, R] to `bytes`, uint8 [N, H, R, 3]: the visible `rows`, clamped, (x + 1) * 127.5 rounded,
    as `pictures.to_bytes` does."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Slice", [PICTURE, "first", "end", "row_axis"], ["seen"]),
        helper.make_node("Clip", ["seen", "low", "high"], ["clamped"]),
        helper.make_node("Add", ["clamped", "high"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["turned"], ["bytes"], to=TensorProto.UINT8),
    ]
    whole = {"first": [rows[0]], "end": [rows[1]], "row_axis": [2]}
    constants = {name: np.array(value, np.int64) for name, value in whole.items()}
    return nodes, constants | {name: np.array(value, np.float32) for name, value in (("low", -1), ("high", 1), ("scale", 127.5))}


def save_small_graph(
    path: Path, name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Mapping[str, np.ndarray]
) -> None:
    """Write a graph whose constants are few, whole or not at all."""
    import onnx
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def write_bytes_graph(path: Path, sizes: Mapping[str, int], rows: tuple[int, int]) -> None:
    """`bytes_nodes` as a graph of its own. `total` [N] is the sum of all magnitudes: it is not finite where any value is not, which
    clamping would hide."""
    from onnx import TensorProto, helper

    nodes, constants = bytes_nodes(rows)
    nodes += [
        helper.make_node("Abs", [PICTURE], ["magnitudes"]),
        helper.make_node("ReduceSum", ["magnitudes", "sum_axes"], ["total"], keepdims=0),
    ]
    constants["sum_axes"] = np.array([1, 2, 3], np.int64)
    side = sizes["R"]
    inputs = [helper.make_tensor_value_info(PICTURE, TensorProto.FLOAT, ["N", 3, side, side])]
    outputs = [
        helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["N", rows[1] - rows[0], side, 3]),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N"]),
    ]
    save_small_graph(path, "to_bytes", nodes, inputs, outputs, constants)
