"""Changing an ONNX graph in place: who makes and who reads a tensor, its weights as arrays, nodes in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sdic_export.half.typed_graph import NO_LAYER, layer_names

if TYPE_CHECKING:
    import onnx

Kept: TypeAlias = Callable[[str], bool]
TOGETHER = 32  # outputs that ONNX Runtime splits in one kernel without a table in host memory, which a CUDA graph could not keep
DEFAULTS = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "output_padding": [0, 0], "dilations": [1, 1], "alpha": 1.0, "beta": 1.0}


def no_layer(layer: str) -> bool:
    """What a policy keeps that names no layers."""
    return False


class Rewriting:
    """A graph whose nodes are replaced one after the other; `finish` writes them back in an order in which they can run.

    `kept` says which layers a policy keeps in float32. Layers are told by the names of weights (see `layer_names`), so new weights get
    names of the layer that they come from, see `named`.
    """

    def __init__(self, graph: onnx.GraphProto, kept: Kept = no_layer) -> None:
        self.graph = graph
        self.layers, self._kept = layer_names(graph), kept
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self._index()

    def _index(self) -> None:
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)

    def array(self, name: str) -> np.ndarray | None:
        """The weights of this name, if they are weights."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.weights[name])) if name in self.weights else None

    def keeps(self, *tensors: str) -> bool:
        """Whether a layer that one of these tensors comes from stays float32 because of its name."""
        return any(self._kept(self.layers.get(name, "")) for name in tensors)

    def named(self, near: str, what: str) -> str:
        """A name for weights, or for what is like weights, of the layer that the weights or the tensor `near` are of."""
        layer = near.rpartition(".")[0] if near in self.weights else self.layers.get(near, NO_LAYER)
        word = what.replace(".", "_")
        return f"{layer}.{word}" if layer not in ("", NO_LAYER) else word

    def only_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of this operator that alone reads a tensor, which is no output of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == kind and name not in self.outputs else None

    def reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The one node of this operator among those that read a tensor."""
        found = [node for node in self.readers.get(name, []) if node.op_type == kind]
        return found[0] if len(found) == 1 else None

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add weights, or replace those of this name."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        if name in self.weights:
            self.weights[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self.weights[name] = self.graph.initializer[-1]
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        """Add a node; `finish` finds its place."""
        from onnx import helper

        made = helper.make_node(kind, list(inputs), [output], output, **attributes)
        self.nodes.append(made)
        self.makers[output] = made
        for name in dict.fromkeys(inputs):
            self.readers.setdefault(name, []).append(made)
        return made

    def remove(self, nodes: Sequence[onnx.NodeProto]) -> None:
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._index()

    def read(self, node: onnx.NodeProto, index: int, name: str) -> None:
        """Let a node read another tensor as its input number `index`."""
        old, node.input[index] = node.input[index], name
        if old not in node.input:
            self.readers[old] = [other for other in self.readers[old] if other is not node]
        self.readers.setdefault(name, []).append(node)

    def rename(self, old: str, new: str) -> None:
        """Let everything that reads `old` read `new`."""
        for node in self.readers.get(old, []):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        self.readers.setdefault(new, []).extend(self.readers.pop(old, []))

    def rename_made(self, old: str, new: str) -> None:
        """Give a tensor, which is no output of the graph, another name."""
        maker = self.makers.get(old)
        if maker is not None and old not in self.outputs:
            self.rename(old, new)
            for index, name in enumerate(maker.output):
                if name == old:
                    maker.output[index] = new
            self.makers[new] = self.makers.pop(old)

    def finish(self) -> None:
        """Write the nodes that something reads, each behind those that it reads from, and the weights that are read."""
        needed, stack = set[int](), [self.makers[name] for name in self.outputs if name in self.makers]
        while stack:
            node = stack.pop()
            if id(node) not in needed:
                needed.add(id(node))
                stack += [self.makers[name] for name in node.input if name in self.makers]
        waiting, ready, ordered = [node for node in self.nodes if id(node) in needed], set[str](), []
        while waiting:
            later = []
            for node in waiting:
                if all(name in ready or name not in self.makers for name in node.input):
                    ordered.append(node)
                    ready.update(node.output)
                else:
                    later.append(node)
            waiting = later
        kept = [type(node).FromString(node.SerializeToString()) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)
        del self.graph.value_info[:]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def set_attributes(node: onnx.NodeProto, values: Mapping[str, Any]) -> None:
    """Give a node these attributes and no others."""
    from onnx import helper

    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """An attribute of a node with two spatial axes, or its default."""
    return attributes(node).get(name, DEFAULTS.get(name))
