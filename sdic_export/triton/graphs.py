"""The small graphs that a service needs around the stages: moving latent codes, and pictures as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdic_export.graphs.bytes_graph import bytes_nodes, save_small_graph
from sdic_runtime.program import BATCH, PICTURE

MOVED = "_edited"
RESULT = "_result"


def write_mover(path: Path, codes: Sequence[str], shape: Sequence[int]) -> None:
    """CODE_edited = CODE + strength * direction for every one of `codes`: [N, L, C] each, with `direction` [N, L, C] and `strength` [N, 1].

    `shape`: L and C.
    """
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Unsqueeze", ["strength", "_last"], ["_factor"]),
        helper.make_node("Mul", ["_factor", "direction"], ["_offset"]),
        *(helper.make_node("Add", [code, "_offset"], [code + MOVED]) for code in codes),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape]) for name in names]
        for names in ((*codes, "direction"), [code + MOVED for code in codes])
    )
    inputs.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, [BATCH, 1]))
    save_small_graph(path, "mover", nodes, inputs, outputs, {"_last": np.array([2], np.int64)})


def write_results(path: Path, tensors: Mapping[str, Sequence[int]], side: int, rows: tuple[int, int]) -> None:
    """Every one of `tensors` (name -> shape without the batch axis) unchanged as NAME_result, and `picture` where it is among them, whose
    side is given, also as `bytes`: see `bytes_nodes`."""
    from onnx import TensorProto, helper

    nodes, constants = bytes_nodes(rows) if PICTURE in tensors else ([], {})
    nodes = [*(helper.make_node("Identity", [name], [name + RESULT]) for name in tensors), *nodes]
    inputs, outputs = (
        [helper.make_tensor_value_info(name + ending, TensorProto.FLOAT, [BATCH, *shape]) for name, shape in tensors.items()]
        for ending in ("", RESULT)
    )
    if PICTURE in tensors:
        outputs.append(helper.make_tensor_value_info("bytes", TensorProto.UINT8, [BATCH, rows[1] - rows[0], side, 3]))
    save_small_graph(path, "results", nodes, inputs, outputs, constants)
