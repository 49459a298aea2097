"""Pictures that are upsampled beside the features, without convolutions.

A transposed depthwise convolution of three channels runs far below the speed of the memory, and with channels last the picture is moved
before and behind it, which cuBLAS does in pieces of 65535 pixels. With taps of 1, 3, 3, 1 it is bilinear interpolation of a picture with
zeros around it, which a Resize computes where the picture lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import Rewriting, attribute, attributes

if TYPE_CHECKING:
    import onnx

TAPS = np.array([1, 3, 3, 1]) / 4
WITHIN = 1e-6  # of a tap
MOST_GROUPS = 3  # RGB; features have their channels last, and a Resize would have to move them
TWICE = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [0, 0], "dilations": [1, 1]}


def resize_pictures(rewriting: Rewriting) -> None:
    """Let every upsampling of a picture be a Resize with a border of zeros, whose outermost rows and columns nothing reads."""
    for node in [node for node in rewriting.nodes if node.op_type == "ConvTranspose" and len(node.input) == 2 and _doubles(node)]:
        kernel = rewriting.array(node.input[1])
        groups = attribute(node, "group")
        if kernel is None or groups > MOST_GROUPS or kernel.shape != (groups, 1, 4, 4):
            continue
        if np.abs(kernel - np.outer(TAPS, TAPS)).max() > WITHIN:
            continue
        (source, near), output = node.input, node.output[0]

        def weight(what: str, array: np.ndarray, near: str = near) -> str:
            return rewriting.weight(rewriting.named(near, f"upsampled_{what}"), array)

        padded, larger = f"{output}.padded", f"{output}.larger"
        rewriting.node("Pad", [source, weight("border", np.array([0, 0, 1, 1, 0, 0, 1, 1]))], padded)
        scales = weight("scales", np.array([1, 1, 2, 2], np.float32))
        rewriting.node("Resize", [padded, "", scales], larger, mode="linear", coordinate_transformation_mode="half_pixel")
        bounds = [weight(what, np.array(values)) for what, values in (("start", [2, 2]), ("end", [-2, -2]), ("axes", [2, 3]))]
        node.op_type = "Slice"
        del node.input[:], node.attribute[:]
        node.input.extend([larger, *bounds])


def _doubles(node: onnx.NodeProto) -> bool:
    plain = attributes(node).get("auto_pad", b"NOTSET") == b"NOTSET"
    return plain and all(attribute(node, name) == value for name, value in TWICE.items())
