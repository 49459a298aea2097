"""Biases of transposed convolutions as sums, because ONNX Runtime computes only those of other convolutions inside them."""

from __future__ import annotations

from sdic_export.half.cuda.graph import Rewriting


def biases_apart(rewriting: Rewriting) -> None:
    """Add the bias of every transposed convolution behind it."""
    for node in [node for node in rewriting.nodes if node.op_type == "ConvTranspose" and len(node.input) == 3]:
        weight, bias = (rewriting.array(name) for name in node.input[1:])
        if weight is None or bias is None:
            continue
        plain = rewriting.node("ConvTranspose", node.input[:2], f"{node.output[0]}.plain")
        plain.attribute.extend(node.attribute)
        name = rewriting.weight(f"{node.input[2]}.{node.output[0]}", bias.reshape(1, -1, *[1] * (weight.ndim - 2)))
        node.op_type = "Add"
        del node.input[:], node.attribute[:]
        node.input.extend([plain.output[0], name])
