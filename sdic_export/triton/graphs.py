"""The small graphs that a service needs around the stages: moving latent codes, and pictures as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.stages import Sizes

RESULT = "_result"
OPSET, IR_VERSION = 18, 8  # read by every ONNX Runtime that Triton ships with


def write_edit_codes(path: Path, sizes: Sizes) -> None:
    """code + strength * direction for both latent codes: [N, L, C], with `direction` [N, L, C] and `strength` [N, 1]."""
    from onnx import TensorProto, helper

    code: list[str | int] = ["N", sizes.rows, sizes.style_width]
    nodes = [
        helper.make_node("Unsqueeze", ["strength", "last"], ["factor"]),
        helper.make_node("Mul", ["factor", "direction"], ["offset"]),
        helper.make_node("Add", ["latent", "offset"], ["latent_edited"]),
        helper.make_node("Add", ["latent_enhanced", "offset"], ["latent_enhanced_edited"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, code) for name in ("latent", "latent_enhanced", "direction")]
    inputs.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, ["N", 1]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, code) for name in ("latent_edited", "latent_enhanced_edited")]
    _save(path, "edit_codes", nodes, inputs, outputs, {"last": np.array([2], np.int64)})


def write_results(path: Path, tensors: Mapping[str, Sequence[int]], sizes: Sizes, rows: tuple[int, int]) -> None:
    """Every one of `tensors` (name -> shape without the batch axis) unchanged as NAME_result, and `picture` [N, 3, R, R] also as `bytes`.

    `bytes` is uint8 [N, H, W, 3] as `pictures.to_bytes` makes it: the visible `rows`, clamped, (x + 1) * 127.5 rounded.
    """
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Identity", [name], [name + RESULT]) for name in tensors]
    nodes += [
        helper.make_node("Slice", ["picture", "first", "end", "axis"], ["seen"]),
        helper.make_node("Clip", ["seen", "low", "high"], ["clamped"]),
        helper.make_node("Add", ["clamped", "high"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["cast"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["cast"], ["bytes"], perm=[0, 2, 3, 1]),
    ]
    constants: dict[str, np.ndarray] = {
        "first": np.array([rows[0]], np.int64),
        "end": np.array([rows[1]], np.int64),
        "axis": np.array([2], np.int64),
        "low": np.array(-1, np.float32),
        "high": np.array(1, np.float32),
        "scale": np.array(127.5, np.float32),
    }
    inputs, outputs = (
        [helper.make_tensor_value_info(name + ending, TensorProto.FLOAT, ["N", *shape]) for name, shape in tensors.items()]
        for ending in ("", RESULT)
    )
    outputs.append(helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["N", rows[1] - rows[0], sizes.resolution, 3]))
    _save(path, "results", nodes, inputs, outputs, constants)


def _save(path: Path, name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray]) -> None:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(nodes, name, inputs, outputs, [numpy_helper.from_array(array, key) for key, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)
