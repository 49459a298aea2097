"""The noise and the bias of a styled layer as one constant.

ONNX Runtime adds a noise [1, 1, H, W] by a kernel for any shapes, which takes nearly twice as long as the one that adds a bias. Their sum
is a constant of the feature's whole shape. The graph holds both as they were, so the file stays small: ONNX Runtime adds them once, when
the session is made, and keeps C * H * W numbers on the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_export.half.cuda.graph import Rewriting

if TYPE_CHECKING:
    import onnx

AXES = 4
SUMS = "constant_sums"  # the layer that stays in float32, so that the sum is rounded once


def add_noise_once(rewriting: Rewriting) -> None:
    """Let every feature that gets a constant noise and then a constant bias get the sum of both."""
    for first in [node for node in rewriting.nodes if node.op_type == "Add"]:
        second = rewriting.only_reader(first.output[0], "Add")
        if second is None:
            continue
        noise, bias = _constant(rewriting, first), _constant(rewriting, second)
        if noise is None or bias is None or second.input[1 - bias] != first.output[0]:
            continue
        arrays = [rewriting.array(node.input[index]) for node, index in ((first, noise), (second, bias))]
        shapes = [array.shape if array is not None else () for array in arrays]
        if {_spatial(shape) for shape in shapes} != {False, True}:
            continue
        feature, name = first.input[1 - noise], second.output[0].replace(".", "_")
        parts = [
            rewriting.weight(f"{SUMS}.{name}.{what}", array)
            for what, array in zip(("noise", "bias") if _spatial(shapes[0]) else ("bias", "noise"), arrays, strict=True)
            if array is not None
        ]
        rewriting.node("Add", parts, f"{SUMS}.{name}.sum")
        rewriting.remove([first])
        rewriting.read(second, 1 - bias, feature)
        rewriting.read(second, bias, f"{SUMS}.{name}.sum")


def _constant(rewriting: Rewriting, node: onnx.NodeProto) -> int | None:
    """Which input of an Add is weights, if one is."""
    found = [index for index, name in enumerate(node.input) if name in rewriting.weights]
    return found[0] if len(found) == 1 else None


def _spatial(shape: tuple[int, ...]) -> bool | None:
    """Whether weights [1, 1, H, W] differ from place to place; False for [1, C, 1, 1], None for anything else."""
    if len(shape) != AXES or shape[0] != 1:
        return None
    if shape[1] == 1 and shape[2] * shape[3] > 1:
        return True
    return False if shape[2:] == (1, 1) else None
