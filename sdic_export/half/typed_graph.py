"""Changing the types of a graph's nodes: shapes, names of layers, casts where two types meet. All by tensor names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import onnx

FLOAT = 1  # onnx.TensorProto.FLOAT
HALVES = {"float16": 10, "bfloat16": 16}  # onnx.TensorProto's numbers
NAMES = {FLOAT: "float32", **{number: name for name, number in HALVES.items()}}
SMALL = 64  # elements up to which a float weight may be what a shape is computed from: the scales of a resize
BFLOAT_OPSET = 22  # the first in which convolutions take bfloat16
NO_LAYER = "input"
NORM_EPSILON = 1e-5  # ONNX's default
ALLOWED = {10: "tensor(float16)", 16: "tensor(bfloat16)"}


class Shapes(dict[str, tuple["int | None", ...]]):
    """Shapes of the float tensors of a graph (None for a dynamic axis), and which of them are constant."""

    def __init__(self) -> None:
        super().__init__()
        self.constants: set[str] = set()


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without weights in casts and without batch norms, which become a product and a sum; weights are shared where they stay."""
    import onnx

    result = onnx.ModelProto()
    result.ir_version, result.producer_name = model.ir_version, model.producer_name
    result.opset_import.extend(model.opset_import)
    graph, source = result.graph, model.graph
    graph.name = source.name
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.initializer.extend(source.initializer)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = infer_shapes(model)
    for node in source.node:
        graph.node.extend(_simple(node, constants, shapes))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def infer_shapes(model: onnx.ModelProto) -> Shapes:
    """The shapes of all float tensors, inferred without reading large weights."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT and math.prod(tensor.dims) > SMALL:
            graph.initializer.add(name=tensor.name, data_type=FLOAT, dims=tensor.dims)
        else:
            graph.initializer.append(tensor)
    inferred = onnx.shape_inference.infer_shapes(skeleton).graph
    known = {value.name for value in (*inferred.output, *inferred.value_info)}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    if unknown:
        raise BundleError(f'the shape of "{unknown[0]}" cannot be inferred, so its type cannot be chosen; export the graph again')
    shapes = Shapes()
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            shapes[tensor.name] = tuple(tensor.dims)
            shapes.constants.add(tensor.name)
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        kind = value.type.tensor_type
        if kind.elem_type == FLOAT:
            shapes[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
    return shapes


def layer_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensor -> the layer it comes from: the module whose weights its node reads, else that of the node's first input."""
    weights = {tensor.name for tensor in graph.initializer}
    layers: dict[str, str] = {}
    for node in graph.node:
        own = next((name.rpartition(".")[0] for name in node.input if name in weights and "." in name), "")
        inherited = next((layers[name] for name in node.input if name in layers), NO_LAYER)
        layers.update(dict.fromkeys(node.output, own or inherited))
    return layers


def retyped(model: onnx.ModelProto, types: Mapping[int, int], shapes: Shapes, stage: str) -> onnx.ModelProto:
    """`model` with node number i in types[i]; float32 at the borders. Takes the graph of `prepared`, whose nodes it changes."""
    import onnx

    result = onnx.ModelProto()
    result.ir_version, result.producer_name = model.ir_version, model.producer_name
    result.graph.name = model.graph.name
    result.graph.input.extend(model.graph.input)
    result.graph.output.extend(model.graph.output)
    _Retyping(model, types, shapes, stage).fill(result)
    return result


class _Retyping:
    def __init__(self, model: onnx.ModelProto, types: Mapping[int, int], shapes: Shapes, stage: str) -> None:
        self.model, self.types, self.shapes, self.stage = model, types, shapes, stage
        self.opset = max(item.version for item in model.opset_import if not item.domain)
        if HALVES["bfloat16"] in types.values():
            self.opset = max(self.opset, BFLOAT_OPSET)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.made: dict[str, dict[int, str]] = {value.name: {FLOAT: value.name} for value in model.graph.input}
        self.wanted: dict[tuple[str, int], str] = {}  # weights by name and type -> name in the new graph
        layers = layer_names(model.graph)
        self.layers = [layers[node.output[0]] for node in model.graph.node]

    def fill(self, result: onnx.ModelProto) -> None:
        from onnx import helper

        for item in self.model.opset_import:
            result.opset_import.append(helper.make_opsetid(item.domain, item.version if item.domain else self.opset))
        for index, node in enumerate(self.model.graph.node):
            result.graph.node.extend(self._node(node, self.types[index]))
        for (name, kind), new in self.wanted.items():
            result.graph.initializer.append(self._weight(name, kind, new))

    def _node(self, node: onnx.NodeProto, kind: int) -> Iterator[onnx.NodeProto]:
        """`node` in the type `kind`, the casts of its inputs before it and of a graph output behind it."""
        from onnx import helper

        formal = _formal_types(node, self.opset)
        if not any(name in self.shapes for name in node.output):  # computes shapes or indices
            kind = FLOAT
        for index, name in enumerate(node.input):
            if name in self.shapes:
                wanted = kind if kind == FLOAT or ALLOWED[kind] in formal[min(index, len(formal) - 1)] else FLOAT
                node.input[index] = yield from self._read(name, wanted)
            elif name in self.weights:
                self.wanted[name, self.weights[name].data_type] = name
        casts = []
        for index, name in enumerate(node.output):
            if name not in self.shapes:
                continue
            if kind != FLOAT and name in self.outputs:
                node.output[index] = f"{name}_{NAMES[kind]}"
                casts.append(helper.make_node("Cast", [node.output[index]], [name], f"cast_{name}", to=FLOAT))
                self.made[name] = {kind: node.output[index], FLOAT: name}
            else:
                self.made[name] = {kind: name}
        yield node
        yield from casts

    def _read(self, name: str, kind: int) -> Any:
        """The name under which `name` is there in the type `kind`; yields the cast that brings it there, once."""
        from onnx import helper

        if name in self.shapes.constants:
            return self.wanted.setdefault((name, kind), name if kind == FLOAT else f"{name}_{NAMES[kind]}")
        ready = self.made[name]
        if kind not in ready:
            ready[kind] = f"{name}_{NAMES[kind]}"
            yield helper.make_node("Cast", [next(iter(ready.values()))], [ready[kind]], f"cast_{ready[kind]}", to=kind)
        return ready[kind]

    def _weight(self, name: str, kind: int, new: str) -> onnx.TensorProto:
        from onnx import helper, numpy_helper

        tensor = self.weights[name]
        if kind == tensor.data_type:
            return tensor
        array = numpy_helper.to_array(tensor)
        rounded = rounded_to(array, kind)
        if not _finite(rounded):
            users = [layer for node, layer in zip(self.model.graph.node, self.layers, strict=True) if new in node.input]
            raise BundleError(
                f'the weight "{name}" of the stage "{self.stage}" reaches {abs(array).max():.3g}, beyond {NAMES[kind]}; keep '
                f'the layer "{users[0]}" in float32 in the precision policy'
            )
        return helper.make_tensor(new, kind, tensor.dims, rounded.tobytes(), raw=True)


def rounded_to(array: np.ndarray, kind: int) -> np.ndarray:
    """`array` in the half type `kind`, rounded to nearest; infinite beyond its range."""
    import ml_dtypes
    import numpy as np

    with np.errstate(over="ignore"):
        rounded: np.ndarray = array.astype(np.float16 if kind == HALVES["float16"] else ml_dtypes.bfloat16)
    return rounded


def _finite(array: np.ndarray) -> bool:
    import numpy as np

    return bool(np.isfinite(array.astype(np.float32)).all())


def _formal_types(node: onnx.NodeProto, opset: int) -> list[set[str]]:
    """The types that each formal input of the operator may have; the last one stands for all further ones."""
    from onnx import defs

    schema = defs.get_schema(node.op_type, opset, node.domain)
    return [set(item.types) for item in schema.inputs] or [set()]


def _simple(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], shapes: Shapes) -> list[onnx.NodeProto]:
    """`node` in forms that can change their type: constants as initializers, batch norms as a product and a sum."""
    from onnx import numpy_helper

    name = node.output[0]
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        constants[name] = numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t), name)
        return []
    if node.op_type == "Cast" and node.input[0] in constants and node.attribute[0].i == FLOAT:
        array = numpy_helper.to_array(constants[node.input[0]])
        constants[name] = numpy_helper.from_array(array.astype("float32"), name)
        return []
    if node.op_type == "BatchNormalization" and all(item in constants for item in node.input[1:]):
        return _plain_norm(node, constants, len(shapes[node.input[0]]))
    copy = type(node)()
    copy.CopyFrom(node)
    return [copy]


def _plain_norm(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], axes: int) -> list[onnx.NodeProto]:
    """A batch norm over tensors of that many axes as x * factor + offset, its constants computed in float64."""
    import numpy as np
    from onnx import helper, numpy_helper

    name, layer = node.output[0], node.input[1].rpartition(".")[0] or "norm"
    scale, bias, mean, variance = (numpy_helper.to_array(constants[item]).astype(np.float64) for item in node.input[1:])
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), NORM_EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    for label, array in (("factor", factor), ("offset", bias - mean * factor)):
        shaped = array.astype(np.float32).reshape(-1, *[1] * (axes - 2))
        constants[f"{layer}.{name}_{label}"] = numpy_helper.from_array(shaped, f"{layer}.{name}_{label}")
    product = f"{name}_product"
    return [
        helper.make_node("Mul", [node.input[0], f"{layer}.{name}_factor"], [product], product),
        helper.make_node("Add", [product, f"{layer}.{name}_offset"], [name], node.name),
    ]
