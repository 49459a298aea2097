"""Pictures of features without moving the features: a product that reads them with channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import Rewriting

if TYPE_CHECKING:
    import onnx


def read_channels_last(rewriting: Rewriting) -> None:
    """Let every product [N, 3, C] x [N, C, H * W] read its feature as [N, H * W, C], which is how the convolution before it left it."""
    for product in [node for node in rewriting.nodes if node.op_type == "MatMul"]:
        flat = rewriting.makers.get(product.input[1])
        if flat is None or flat.op_type != "Reshape" or len(rewriting.readers[flat.output[0]]) != 1 or flat.output[0] in rewriting.outputs:
            continue
        shape = rewriting.array(flat.input[1])
        if shape is None or shape.size != 3 or not _is_map(rewriting, flat.input[0]):
            continue
        number, channels, places = (int(axis) for axis in shape)
        name = flat.output[0]
        rewriting.node("Transpose", [flat.input[0]], f"{name}.last", perm=[0, 2, 3, 1])
        sizes = rewriting.weight(rewriting.named(flat.input[0], f"{name}_shape"), np.array([number, places, channels]))
        rewriting.node("Reshape", [f"{name}.last", sizes], f"{name}.flat", allowzero=1)
        rewriting.node("Transpose", [f"{name}.flat"], f"{name}.turned", perm=[0, 2, 1])
        rewriting.read(product, 1, f"{name}.turned")


def _is_map(rewriting: Rewriting, name: str) -> bool:
    """Whether a tensor comes from a convolution, so that it has two spatial axes and channels that may lie last."""
    seen = 0
    maker: onnx.NodeProto | None = rewriting.makers.get(name)
    while maker is not None and seen < MOST_BETWEEN:
        if maker.op_type in ("Conv", "ConvTranspose"):
            return True
        maker = rewriting.makers.get(maker.input[0])
        seen += 1
    return False


MOST_BETWEEN = 6  # operators on single numbers between a convolution and what reads the feature
