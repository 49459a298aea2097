"""Blurs inside upsampling convolutions.

An upsampling layer is a transposed convolution and two depthwise ones that blur: one linear map, whose kernel has six taps in each axis.
cuDNN runs depthwise convolutions far below the speed of the memory, and with channels last even slower; one dense convolution with four
times the products runs on tensor cores and reads and writes the feature once. Measured on an H100, see docs/performance.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_export.half.cuda.graph import Rewriting, attributes, set_attributes

if TYPE_CHECKING:
    import onnx

UPSAMPLING = {"group": 1, "strides": [2, 2], "pads": [0, 0, 0, 0], "output_padding": [0, 0], "dilations": [1, 1], "kernel_shape": [3, 3]}
BLURS = (
    {"strides": [1, 1], "pads": [1, 0, 1, 0], "dilations": [1, 1], "kernel_shape": [4, 1]},
    {"strides": [1, 1], "pads": [0, 1, 0, 1], "dilations": [1, 1], "kernel_shape": [1, 4]},
)


def composed_kernel(weight: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """[I, O, 6, 6] of the transposed convolution with stride and padding 2 that equals one with `weight` [I, O, 3, 3] and stride 2, and
    depthwise convolutions behind it with `down` [O, 4] and `across` [O, 4], padded by one."""
    inputs, outputs, height, width = weight.shape
    kernel = np.zeros((inputs, outputs, height + 3, width + 3), np.float64)
    for row in range(4):
        for column in range(4):
            share = (down[:, 3 - row] * across[:, 3 - column]).astype(np.float64)[None, :, None, None]
            kernel[:, :, row : row + height, column : column + width] += weight * share
    return kernel.astype(weight.dtype)


def blurs_inside(rewriting: Rewriting) -> None:
    """Let every upsampling layer be one transposed convolution."""
    for node in [node for node in rewriting.nodes if node.op_type == "ConvTranspose" and len(node.input) == 2 and _is(node, UPSAMPLING)]:
        chain = [node]
        for blur in BLURS:
            behind = rewriting.only_reader(chain[-1].output[0], "Conv")
            if behind is None or len(behind.input) != 2 or not _is(behind, blur):
                break
            chain.append(behind)
        arrays = [rewriting.array(each.input[1]) for each in chain]
        known = [array for array in arrays if array is not None]
        if len(known) != 1 + len(BLURS) or len(rewriting.readers[node.input[1]]) != 1:
            continue
        weight, *taps = known
        if any(len(each) != weight.shape[1] for each in taps):
            continue
        down, across = (each.reshape(-1, 4) for each in taps)
        rewriting.weight(node.input[1], composed_kernel(weight, down, across))
        last = chain[-1]
        last.op_type = "ConvTranspose"
        del last.input[:]
        last.input.extend(node.input)
        set_attributes(last, {**UPSAMPLING, "pads": [2, 2, 2, 2], "kernel_shape": [6, 6]})
        rewriting.remove(chain[:-1])


def _is(node: onnx.NodeProto, wanted: dict[str, Any]) -> bool:
    """Whether a convolution has these attributes; one that it lacks has its default, which is one of UPSAMPLING's but the kernel's."""
    found = attributes(node)
    plain = found.get("auto_pad", b"NOTSET") == b"NOTSET"
    return plain and all(found.get(name, {"strides": [1, 1]}.get(name, UPSAMPLING[name])) == value for name, value in wanted.items())
