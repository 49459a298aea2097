"""The graph that turns the picture of a program into what a user sees, so that a GPU hands over bytes instead of floats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.files import replacing
from sdic_runtime.program import PICTURE

OPSET, IR_VERSION = 18, 8  # read by every ONNX Runtime that Triton ships with


def bytes_nodes(rows: tuple[int, int] | None) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes and constants from `picture` [N, 3, R, R] to `bytes`, uint8 [N, H, R, 3]: the visible `rows` (all of them when None), clamped,
    (x + 1) * 127.5 rounded, as `pictures.to_bytes` does. Names of their own begin with an underscore, unlike those of tensors."""
    from onnx import TensorProto, helper

    nodes = [
        *([helper.make_node("Slice", [PICTURE, "_first", "_end", "_row_axis"], ["_seen"])] if rows else []),
        helper.make_node("Clip", ["_seen" if rows else PICTURE, "_low", "_high"], ["_clamped"]),
        helper.make_node("Add", ["_clamped", "_high"], ["_shifted"]),
        helper.make_node("Mul", ["_shifted", "_scale"], ["_scaled"]),
        helper.make_node("Round", ["_scaled"], ["_rounded"]),
        helper.make_node("Transpose", ["_rounded"], ["_turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["_turned"], ["bytes"], to=TensorProto.UINT8),
    ]
    whole = {"_first": [rows[0]], "_end": [rows[1]], "_row_axis": [2]} if rows else {}
    constants = {name: np.array(value, np.int64) for name, value in whole.items()}
    return nodes, constants | {name: np.array(value, np.float32) for name, value in (("_low", -1), ("_high", 1), ("_scale", 127.5))}


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


def write_bytes_graph(path: Path, side: int | str, rows: tuple[int, int] | None) -> None:
    """`bytes_nodes` as a graph of its own, for pictures of `side` rows and columns, any number where it is a name. `total` [N] is the sum
    of all magnitudes: it is not finite where any value is not, which clamping would hide."""
    from onnx import TensorProto, helper

    nodes, constants = bytes_nodes(rows)
    nodes += [
        helper.make_node("Abs", [PICTURE], ["_magnitudes"]),
        helper.make_node("ReduceSum", ["_magnitudes", "_sum_axes"], ["total"], keepdims=0),
    ]
    constants["_sum_axes"] = np.array([1, 2, 3], np.int64)
    height = rows[1] - rows[0] if rows else side
    inputs = [helper.make_tensor_value_info(PICTURE, TensorProto.FLOAT, ["N", 3, side, side])]
    outputs = [
        helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["N", height, side, 3]),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N"]),
    ]
    save_small_graph(path, "to_bytes", nodes, inputs, outputs, constants)
