"""An encoder with fewer kernels: normalization inside convolutions, and convolutions of the same feature together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import TOGETHER, Rewriting, attribute, attributes

if TYPE_CHECKING:
    import onnx

EPSILON = 1e-5  # ONNX's default of a batch norm
LEAST, MOST = 1e-2, 1e3  # of a scale, and of a shift over its scale, for which half precision loses nothing


def scale_inside(rewriting: Rewriting) -> None:
    """Let a batch norm in front of a convolution only add: s x + b = s (x + b / s), and s is a factor of the weights."""
    for norm in [node for node in rewriting.nodes if node.op_type == "BatchNormalization"]:
        conv = rewriting.only_reader(norm.output[0], "Conv")
        arrays = [rewriting.array(name) for name in norm.input[1:5]]
        if conv is None or attribute(conv, "group") != 1 or conv.input[0] != norm.output[0] or any(array is None for array in arrays):
            continue
        weight = rewriting.array(conv.input[1])
        if weight is None or len(rewriting.readers[conv.input[1]]) != 1:
            continue
        gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
        scale = gamma / np.sqrt(variance + attributes(norm).get("epsilon", EPSILON))
        if np.abs(scale).min() < LEAST:
            continue
        shift = beta / scale - mean
        if np.abs(shift).max() > MOST:
            continue
        axes = (1, -1, *[1] * (weight.ndim - 2))
        rewriting.weight(conv.input[1], (weight * scale.reshape(axes)).astype(np.float32))
        name = rewriting.weight(rewriting.named(norm.input[1], f"{norm.output[0]}_shift"), shift.astype(np.float32).reshape(axes))
        norm.op_type = "Add"
        source = norm.input[0]
        del norm.input[:], norm.attribute[:]
        norm.input.extend([source, name])
        rewriting.rename_made(norm.output[0], f"{norm.output[0]}.shifted")  # no longer the normalized feature


def together(rewriting: Rewriting) -> None:
    """Convolutions that read the same feature in the same way, each with the same leaky ReLU behind it, as one with all their channels."""
    families: dict[tuple[object, ...], list[tuple[onnx.NodeProto, onnx.NodeProto]]] = {}
    for conv in [node for node in rewriting.nodes if node.op_type == "Conv" and len(node.input) == 3]:
        active = rewriting.only_reader(conv.output[0], "LeakyRelu")
        arrays = [rewriting.array(name) for name in conv.input[1:]]
        weight = arrays[0]
        if active is None or weight is None or arrays[1] is None or attribute(conv, "group") != 1 or active.output[0] in rewriting.outputs:
            continue
        options = sorted((name, repr(value)) for name, value in attributes(conv).items())
        kept = rewriting.keeps(conv.output[0])
        key = (conv.input[0], weight.shape, attribute(active, "alpha"), kept, *options)
        families.setdefault(key, []).append((conv, active))
    for family in families.values():
        for first in range(0, len(family), TOGETHER):
            if len(family[first : first + TOGETHER]) > 1:
                _join(rewriting, family[first : first + TOGETHER])


def _join(rewriting: Rewriting, family: Sequence[tuple[onnx.NodeProto, onnx.NodeProto]]) -> None:
    (first, active), name = family[0], f"{family[0][0].output[0]}.together"
    weights = [[rewriting.array(conv.input[index]) for conv, _ in family] for index in (1, 2)]
    joined = [
        rewriting.weight(rewriting.named(first.input[1], f"{name}_{kind}"), np.concatenate([np.asarray(array) for array in arrays]))
        for kind, arrays in zip(("weight", "bias"), weights, strict=True)
    ]
    made = rewriting.node("Conv", [first.input[0], *joined], name)
    made.attribute.extend(first.attribute)
    behind = rewriting.node("LeakyRelu", [name], f"{name}.active")
    behind.attribute.extend(active.attribute)
    outputs = [each.output[0] for _, each in family]
    each = len(np.asarray(weights[1][0]))
    rewriting.remove([node for pair in family for node in pair])
    sizes = rewriting.weight(rewriting.named(joined[0], f"{name}_sizes"), np.full(len(family), each, np.int64))
    split = rewriting.node("Split", [f"{name}.active", sizes], outputs[0], axis=1)
    split.output.extend(outputs[1:])
    rewriting.makers.update(dict.fromkeys(outputs, split))
