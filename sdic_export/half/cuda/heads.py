"""The last layers of an encoder's heads together: one linear layer for each row of the code, and the first row added to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import Rewriting, attribute, attributes
from sdic_export.half.cuda.styles import SINGLE

if TYPE_CHECKING:
    import onnx

FEWEST = 2


@dataclass(frozen=True)
class Head:
    """A row of the code: the feature [N, C, 1, 1] that it is made of, weight [O, C], bias [O], and whether the first row is added."""

    feature: str
    weight: np.ndarray
    bias: np.ndarray
    added: bool


def batch_heads(rewriting: Rewriting) -> None:
    """Compute the rows of a code, which are stacked behind it, with one matrix product."""
    for stack in [node for node in rewriting.nodes if node.op_type == "Concat" and attributes(node).get("axis") == 1]:
        rows = [rewriting.makers.get(name) for name in stack.input]
        first = _linear(rewriting, rows[0].input[0]) if rows[0] is not None and rows[0].op_type == "Unsqueeze" else None
        heads = [_head(rewriting, row, first) for row in rows] if first is not None else []
        known = [head for head in heads if head is not None]
        if len(known) == len(rows) >= FEWEST and len({head.weight.shape for head in known}) == 1 and not known[0].added:
            _batch(rewriting, stack, known)


def _linear(rewriting: Rewriting, name: str) -> onnx.NodeProto | None:
    node = rewriting.makers.get(name)
    if node is None or node.op_type != "Gemm" or len(node.input) != 3 or attributes(node).get("transB") != 1:
        return None
    return node if [attribute(node, each) for each in ("alpha", "beta")] == [1.0, 1.0] else None


def _head(rewriting: Rewriting, row: onnx.NodeProto | None, first: onnx.NodeProto) -> Head | None:
    axes = rewriting.array(row.input[1]) if row is not None and row.op_type == "Unsqueeze" else None
    if row is None or axes is None or axes.ravel().tolist() != [1]:
        return None
    total, linear = rewriting.makers.get(row.input[0]), _linear(rewriting, row.input[0])
    added = linear is None and total is not None and total.op_type == "Add" and first.output[0] in total.input
    if added and total is not None:
        linear = next((made for name in total.input if name != first.output[0] and (made := _linear(rewriting, name))), None)
    flat = rewriting.makers.get(linear.input[0]) if linear is not None else None
    if linear is None or flat is None or flat.op_type != "Reshape":
        return None
    weight, bias, shape = (rewriting.array(name) for name in (*linear.input[1:], flat.input[1]))
    if weight is None or bias is None or shape is None or shape.ravel().tolist() != [-1, weight.shape[1]]:
        return None
    return Head(flat.input[0], weight, bias, added)


def _batch(rewriting: Rewriting, stack: onnx.NodeProto, heads: Sequence[Head]) -> None:
    name, code = f"{SINGLE}.{stack.output[0]}", stack.output[0]

    def weight(what: str, array: np.ndarray) -> str:
        return rewriting.weight(f"{name}.{what}", array)

    rewriting.node("Concat", [head.feature for head in heads], f"{code}.features", axis=2)  # [N, C, L, 1]
    rewriting.node("Squeeze", [f"{code}.features", weight("last", np.array([3]))], f"{name}.features")
    rewriting.node("Transpose", [f"{name}.features"], f"{name}.turned", perm=[2, 0, 1])  # [L, N, C]
    rewriting.node("MatMul", [f"{name}.turned", weight("weight", np.stack([head.weight.T for head in heads]))], f"{name}.product")
    rewriting.node("Add", [f"{name}.product", weight("bias", np.stack([head.bias[None] for head in heads]))], f"{name}.linear")
    rewriting.node("Transpose", [f"{name}.linear"], f"{name}.rows", perm=[1, 0, 2])  # [N, L, O]
    bounds = [weight(what, np.array([value])) for what, value in (("start", 0), ("end", 1), ("axis", 1))]
    rewriting.node("Slice", [f"{name}.rows", *bounds], f"{name}.first")
    share = np.array([head.added for head in heads], np.float32)[None, :, None]
    rewriting.node("Mul", [f"{name}.first", weight("share", share)], f"{name}.shares")
    stack.op_type = "Add"
    del stack.input[:], stack.attribute[:]
    stack.input.extend([f"{name}.rows", f"{name}.shares"])
