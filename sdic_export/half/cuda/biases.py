"""Biases of convolutions over large features as operators of their own.

ONNX Runtime adds a convolution's bias by a cuDNN kernel for any tensors, which takes twice as long as its own kernel that adds a number to
each channel. It would bring an Add back into the convolution, so the bias is subtracted with its sign changed, which it leaves alone.
"""

from __future__ import annotations

import math

from sdic_export.half.cuda.graph import Rewriting
from sdic_export.half.typed_graph import Shapes

LARGE = 2**18  # elements of one feature from which the pass over the memory costs more than its start
CONVOLUTIONS = ("Conv", "ConvTranspose")
AXES = 4


def biases_behind(rewriting: Rewriting, shapes: Shapes) -> None:
    """Take the bias out of every convolution whose output is that large."""
    for node in [node for node in rewriting.nodes if node.op_type in CONVOLUTIONS and len(node.input) == 3]:
        bias, output = rewriting.array(node.input[2]), node.output[0]
        feature = shapes.get(output, ())[1:]
        if bias is None or len(feature) != AXES - 1 or None in feature or math.prod(axis or 0 for axis in feature) < LARGE:
            continue
        name = rewriting.weight(rewriting.named(node.input[2], f"{output}_minus_bias"), -bias[:, None, None])
        del node.input[2:]
        node.name = node.output[0] = f"{output}.unbiased"
        rewriting.makers[node.output[0]] = node
        rewriting.node("Sub", [node.output[0], name], output)
