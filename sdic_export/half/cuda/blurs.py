"""Blurs inside upsampling convolutions.

An upsampling layer is a transposed convolution and two depthwise ones that blur: one linear map, whose kernel has six taps in each axis.
cuDNN runs depthwise convolutions far below the speed of the memory, and with channels last even slower; one dense convolution with four
times the products runs on tensor cores and reads and writes the feature once. Measured on an H100, see docs/performance.md.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from sdic_export.half.cuda.graph import attributes

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


def blurs_inside(graph: onnx.GraphProto) -> None:
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(output.name for output in graph.output)
    readers = {name: node for node in graph.node for name in node.input}
    gone: list[Any] = []
    for node in list(graph.node):
        if node.op_type != "ConvTranspose" or not _is(node, UPSAMPLING) or len(node.input) != 2:
            continue
        chain, last = [], node
        for blur in BLURS:
            behind = readers.get(last.output[0])
            if behind is None or behind.op_type != "Conv" or reads[last.output[0]] != 1 or len(behind.input) != 2 or not _is(behind, blur):
                break
            chain.append(behind)
            last = behind
        names = [item.input[1] for item in (node, *chain)]
        if len(chain) != len(BLURS) or any(name not in weights for name in names) or reads[names[0]] != 1:
            continue
        weight, down, across = (numpy_helper.to_array(weights[name]) for name in names)
        if len(down) != weight.shape[1] or len(across) != weight.shape[1]:
            continue
        kernel = composed_kernel(weight, down.reshape(-1, 4), across.reshape(-1, 4))
        weights[names[0]].CopyFrom(numpy_helper.from_array(kernel, names[0]))
        whole = {**UPSAMPLING, "pads": [2, 2, 2, 2], "kernel_shape": [6, 6]}
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(name, value) for name, value in whole.items())
        passed = {node.output[0], chain[0].output[0]}
        node.output[0] = last.output[0]
        gone += chain
        for value in [value for value in graph.value_info if value.name in passed]:
            graph.value_info.remove(value)
    for node in gone:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _is(node: onnx.NodeProto, wanted: dict[str, Any]) -> bool:
    """Whether a convolution has these attributes; one that it lacks has its default, which is one of UPSAMPLING's but the kernel's."""
    found = attributes(node)
    plain = found.get("auto_pad", b"NOTSET") == b"NOTSET"
    return plain and all(found.get(name, {"strides": [1, 1]}.get(name, UPSAMPLING[name])) == value for name, value in wanted.items())
