"""The graph that turns the picture of the chain into what a user sees, so that a GPU hands over bytes instead of floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdic_runtime.files import replacing
from sdic_runtime.stages import Sizes

OPSET, IR_VERSION = 18, 8


def write_bytes_graph(path: Path, sizes: Sizes, rows: tuple[int, int]) -> None:
    """picture [N, 3, R, R] -> bytes, uint8 [N, H, R, 3]: the visible `rows`, clamped, (x + 1) * 127.5 rounded, as `pictures.to_bytes` does.

    `total` [N] is the sum of all magnitudes: it is not finite where any value is not, which clamping would hide.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Slice", ["picture", "first", "end", "row_axis"], ["seen"]),
        helper.make_node("Clip", ["seen", "low", "high"], ["clamped"]),
        helper.make_node("Add", ["clamped", "high"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["turned"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Abs", ["picture"], ["magnitudes"]),
        helper.make_node("ReduceSum", ["magnitudes", "sum_axes"], ["total"], keepdims=0),
    ]
    constants: dict[str, np.ndarray] = {
        "first": np.array([rows[0]], np.int64),
        "end": np.array([rows[1]], np.int64),
        "row_axis": np.array([2], np.int64),
        "sum_axes": np.array([1, 2, 3], np.int64),
        "low": np.array(-1, np.float32),
        "high": np.array(1, np.float32),
        "scale": np.array(127.5, np.float32),
    }
    side = sizes.resolution
    graph = helper.make_graph(
        nodes,
        "to_bytes",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, side, side])],
        [
            helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["N", rows[1] - rows[0], side, 3]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N"]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
