"""Convolutions over a volume as convolutions over a picture with a channel for every channel and slice.

[N, C, D, H, W] becomes [N, D * C, H, W], and a kernel [O, C, K, ., .] a banded one of [D' * O, D * C, ., .] that is zero where two slices
are further apart than the kernel reaches. The same numbers come out; most products are with zeros, and still it is faster, because tensor
cores compute dense convolutions with hundreds of channels at full speed, and cuDNN's convolutions over volumes are far from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdic_export.half.cuda.graph import Rewriting, attributes, set_attributes
from sdic_export.half.typed_graph import infer_shapes

if TYPE_CHECKING:
    import onnx

AXES = 5
POINTWISE = ("LeakyRelu", "Sigmoid", "Relu", "Tanh")
PARTS = (4, 3, 2)  # a convolution within slices is computed for so many groups of slices, which saves as many times the products
PARTS_FROM = 25  # taps of a kernel within slices from which that pays


@dataclass(frozen=True)
class Layout:
    """Where the channels and slices of a volume lie among the channels of a picture."""

    channels: np.ndarray  # [K]: of each channel of the picture, its channel in the volume
    slices: np.ndarray  # [K]: and its slice

    @property
    def depth(self) -> int:
        return int(self.slices.max()) + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and all(
            np.array_equal(mine, theirs) for mine, theirs in ((self.channels, other.channels), (self.slices, other.slices))
        )


def layout(channels: int, depth: int) -> Layout:
    """Slice after slice, its channels together."""
    return Layout(np.tile(np.arange(channels), depth), np.repeat(np.arange(depth), channels))


class _Unknown(Exception):
    """What this module cannot rearrange."""


def flatten_volumes(model: onnx.ModelProto) -> bool:
    """Rearrange `model` in place; False, and `model` as it was, where something between its volumes is not known here."""
    shapes = infer_shapes(model)
    if not any(len(shape) == AXES for name, shape in shapes.items() if name not in shapes.constants):
        return False
    copy = type(model)()
    copy.CopyFrom(model)
    rewriting = Rewriting(copy.graph)
    try:
        _Flattening(rewriting, shapes).run()
    except _Unknown:
        return False
    rewriting.finish()
    model.CopyFrom(copy)
    return True


class _Flattening:
    def __init__(self, rewriting: Rewriting, shapes: dict[str, tuple[int | None, ...]]) -> None:
        self.rewriting, self.shapes = rewriting, shapes
        self.layouts: dict[str, Layout] = {}
        self.idle: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in list(self.rewriting.nodes):
            volumes = [name for name in (*node.input, *node.output) if self._volume(name)]
            if not volumes:
                continue
            step = STEPS.get(node.op_type)
            if step is None:
                raise _Unknown
            step(self, node)
        for node in self.idle:
            if node.output[0] not in self.rewriting.outputs:
                self.rewriting.rename(node.output[0], node.input[0])
        for name in self.layouts:
            self.rewriting.rename_made(name, f"{name}.flat")  # another shape, so another name: checks compare tensors by their names

    def _layout(self, name: str) -> Layout:
        if name not in self.layouts:
            raise _Unknown
        return self.layouts[name]

    def _volume(self, name: str) -> bool:
        return len(self.shapes.get(name, ())) == AXES and name not in self.rewriting.weights

    def added_axis(self, node: onnx.NodeProto) -> None:
        """A picture becomes a volume of one channel or of one slice: the same tensor."""
        axes, shape = self._axes(node), self.shapes.get(node.input[0], ())
        if len(shape) != AXES - 1 or axes not in ([1], [2]) or shape[1] is None:
            raise _Unknown
        self.layouts[node.output[0]] = layout(1, shape[1]) if axes == [1] else layout(shape[1], 1)
        self._pass(node)

    def removed_axis(self, node: onnx.NodeProto) -> None:
        """A volume of one channel becomes a picture whose channels are the slices."""
        known = self._layout(node.input[0])
        if self._axes(node) != [1] or known != layout(1, known.depth):
            raise _Unknown
        self._pass(node)

    def _pass(self, node: onnx.NodeProto) -> None:
        """A node that changes nothing; `run` drops it at the end."""
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
        self.idle.append(node)

    def pointwise(self, node: onnx.NodeProto) -> None:
        self.layouts[node.output[0]] = self._layout(node.input[0])

    def pairwise(self, node: onnx.NodeProto) -> None:
        """A sum or product of two volumes, of which one may have a single slice for all."""
        if any(name in self.rewriting.weights for name in node.input):
            raise _Unknown
        wanted = max((self._layout(name) for name in node.input), key=lambda known: len(known.slices))
        for index, name in enumerate(node.input):
            if self._layout(name) != wanted:
                self.rewriting.read(node, index, self._repeated(name, wanted))
        self.layouts[node.output[0]] = wanted

    def _repeated(self, name: str, wanted: Layout) -> str:
        """A volume of one slice as one of the layout `wanted`, whose slices are all the same: its convolution makes them."""
        known, maker = self._layout(name), self.rewriting.makers.get(name)
        if maker in self.idle:
            maker = self.rewriting.makers.get(maker.input[0])
        weights = [self.rewriting.array(each) for each in maker.input[1:]] if maker is not None and maker.op_type == "Conv" else []
        if known.depth != 1 or maker is None or not weights or len(known.channels) != wanted.channels.max() + 1:
            raise _Unknown
        repeated = f"{name}.repeated"
        if repeated not in self.layouts:
            names = []
            for index, (each, array) in enumerate(zip(maker.input[1:], weights, strict=True)):
                if array is None:
                    raise _Unknown
                named = self.rewriting.named(each, f"{repeated}_{index}")  # equal weights of several convolutions may be one tensor
                names.append(self.rewriting.weight(named, array[wanted.channels]))
            made = self.rewriting.node("Conv", [maker.input[0], *names], repeated)
            made.attribute.extend(maker.attribute)
            self.layouts[repeated], self.shapes[repeated] = wanted, ()
        if self._layout(repeated) != wanted:
            raise _Unknown
        return repeated

    def joined(self, node: onnx.NodeProto) -> None:
        """Volumes behind each other in their channels."""
        known, first = [self._layout(name) for name in node.input], 0
        if attributes(node)["axis"] != 1 or len({each.depth for each in known}) != 1:
            raise _Unknown
        channels = []
        for each in known:
            channels.append(each.channels + first)
            first += int(each.channels.max()) + 1
        self.layouts[node.output[0]] = Layout(np.concatenate(channels), np.concatenate([each.slices for each in known]))

    def convolution(self, node: onnx.NodeProto) -> None:
        found, known = attributes(node), self._layout(node.input[0])
        weight, bias = self.rewriting.array(node.input[1]), self.rewriting.array(node.input[2]) if len(node.input) > 2 else None
        depth = self.shapes[node.output[0]][2]
        if weight is None or depth is None or (len(node.input) > 2 and bias is None) or len(self.rewriting.readers[node.input[1]]) != 1:
            raise _Unknown
        plain = found.get("auto_pad", b"NOTSET") == b"NOTSET" and found.get("group", 1) == 1
        if not plain or set(found.get("dilations", [1])) != {1} or set(found.get("output_padding", [0])) != {0}:
            raise _Unknown
        transposed = node.op_type == "ConvTranspose"
        pads, strides = found.get("pads", [0] * 6), found.get("strides", [1] * 3)
        if transposed:
            weight = weight.swapaxes(0, 1)
        dense = banded(weight, known, depth, strides[0], pads[0], transposed)
        changed = {"kernel_shape": list(weight.shape[3:]), "strides": strides[1:], "pads": [*pads[1:3], *pads[4:6]], "group": 1}
        outputs = weight.shape[0]
        self.layouts[node.output[0]] = layout(outputs, depth)
        biases = None if bias is None else np.tile(bias, depth)
        within = weight.shape[2] == 1 and weight[0, 0].size >= PARTS_FROM and known == layout(weight.shape[1], depth)
        parts = next((parts for parts in PARTS if depth % parts == 0), 1)
        if within and parts > 1 and not transposed:
            self._in_parts(node, dense, biases, changed, parts)
            return
        self.rewriting.weight(node.input[1], dense.swapaxes(0, 1) if transposed else dense)
        if biases is not None:
            node.input[2] = self.rewriting.weight(self.rewriting.named(node.input[2], f"{node.output[0]}_bias"), biases)
        set_attributes(node, changed)

    def _in_parts(self, node: onnx.NodeProto, dense: np.ndarray, biases: np.ndarray | None, changed: dict[str, object], parts: int) -> None:
        """A convolution within slices as some, each for its own slices."""
        rewriting, (source, weight), output = self.rewriting, node.input[:2], node.output[0]
        rows, columns = dense.shape[0] // parts, dense.shape[1] // parts
        taken = [f"{output}.part_{index}" for index in range(parts)]
        sizes = rewriting.weight(rewriting.named(weight, f"{output}_sizes"), np.full(parts, columns, np.int64))
        split = rewriting.node("Split", [source, sizes], taken[0], axis=1)
        split.output.extend(taken[1:])
        rewriting.makers.update(dict.fromkeys(taken, split))
        made = []
        for index, name in enumerate(taken):
            own = slice(index * rows, (index + 1) * rows)
            part = dense[own, index * columns : (index + 1) * columns]
            inputs = [name, rewriting.weight(rewriting.named(weight, f"{output}_weight_{index}"), part)]
            if biases is not None:
                inputs.append(rewriting.weight(rewriting.named(weight, f"{output}_bias_{index}"), biases[own]))
            made.append(f"{output}.made_{index}")
            set_attributes(rewriting.node("Conv", inputs, made[-1]), changed)
        node.op_type = "Concat"
        del node.input[:]
        node.input.extend(made)
        set_attributes(node, {"axis": 1})

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        axes = self.rewriting.array(node.input[1]) if len(node.input) > 1 else None
        return [] if axes is None else [int(axis) for axis in axes.ravel()]


STEPS = {
    "Unsqueeze": _Flattening.added_axis, "Squeeze": _Flattening.removed_axis, "Concat": _Flattening.joined,
    "Conv": _Flattening.convolution, "ConvTranspose": _Flattening.convolution,
    "Add": _Flattening.pairwise, "Mul": _Flattening.pairwise, **dict.fromkeys(POINTWISE, _Flattening.pointwise),
}  # fmt: skip


def banded(weight: np.ndarray, source: Layout, depth: int, stride: int, pad: int, transposed: bool) -> np.ndarray:
    """[D' * O, K, ., .] of `weight` [O, C, taps, ., .] along the slices, from an input of the layout `source` to `depth` slices."""
    outputs, _, taps = weight.shape[:3]
    made = np.arange(depth)[:, None]  # of the output
    read = source.slices[None, :]
    tap = made - read * stride + pad if transposed else read - made * stride + pad
    inside = (tap >= 0) & (tap < taps)
    found = weight[:, source.channels[None, :], np.where(inside, tap, 0)]  # [O, D', K, ., .]
    found = np.where(inside[None, :, :, None, None], found, 0)
    dense: np.ndarray = found.swapaxes(0, 1).reshape(depth * outputs, len(source.slices), *weight.shape[3:])
    return dense
