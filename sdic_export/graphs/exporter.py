"""One stage as an ONNX file: exported, tidied, its large weights beside it."""

from __future__ import annotations

import hashlib
import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sdic_export.graphs.fusion import HALF_FROM
from sdic_runtime.errors import MissingExtraError
from sdic_runtime.program import BATCH, Method, Stage

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

OPSET = 18
EXAMPLE_BATCH = 2  # torch.export takes a size of one for a constant
EXTERNAL_FROM = 64 << 20  # bytes of weights from which a stage keeps them in a file of their own, which runtimes map
EXTERNAL_TENSOR_FROM = 16 << 10  # bytes of a tensor that goes there; ONNX Runtime takes a millisecond for each
PRODUCER = "sdic"


def require_packages(purpose: str) -> None:
    """Raise MissingExtraError unless everything that writes ONNX files is installed."""
    from importlib.util import find_spec

    for package in ("torch", "onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "export", purpose)


def export_stage(
    module: nn.Module,
    stage: Stage,
    method: Method,
    path: Path,
    opset: int = OPSET,
    half_storage: bool = False,
    share_weights: bool = False,
    alone: bool = False,
) -> None:
    """Write `module` as the ONNX file `path`: tensors named as in `stage`, a dynamic batch axis and nothing else dynamic; `alone`: for one
    picture at a time, which whoever runs it repeats for every picture of a batch.

    See `save_graph` for how weights are stored. The bytes depend on the weights and the versions of the tools alone.
    """
    save_graph(_exported(module, stage, method, opset, dynamic=not alone), path, half_storage, share_weights)


def export_variant(
    module: nn.Module,
    stage: Stage,
    method: Method,
    path: Path,
    others: Sequence[Path],
    opset: int = OPSET,
    band: bool = False,
    share_weights: bool = False,
) -> None:
    """Write `module`, a variant of the stage of which `others` are graphs in the same folder, as `path`.

    Tensors whose bytes are in the external weights of `others` are read from there; the rest goes to `path`.data when it is large, or when
    `share_weights` says that graphs of one output will share it. A `band` of rows is for one picture instead of a dynamic batch, and always
    keeps its weights there, for the bands that follow.
    """
    model = _exported(module, stage, method, opset, dynamic=not band)
    save_variant(model, path, others, 0 if band or share_weights else EXTERNAL_FROM)


def save_variant(model: ir.Model, path: Path, others: Sequence[Path], external_from: int = EXTERNAL_FROM) -> None:
    """Write a graph that shares the external weights of `others`, graphs in the same folder, where it has tensors of the same bytes; the
    rest goes to `path`.data from `external_from` bytes on."""
    import onnx_ir as ir

    _share(model.graph, [ir.load(other).graph for other in others])
    new = [
        value
        for value in model.graph.initializers.values()
        if _weight(value).nbytes > EXTERNAL_TENSOR_FROM and not isinstance(value.const_value, ir.ExternalTensor)
    ]
    tensors = [_weight(value) for value in new]
    if sum(tensor.nbytes for tensor in tensors) > external_from:
        moved = ir.external_data.convert_tensors_to_external(tensors, path.parent, f"{path.name}.data")
        for value, tensor in zip(new, moved, strict=True):
            value.const_value = tensor
    ir.save(model, path)


def save_graph(model: ir.Model, path: Path, half_storage: bool = False, share_weights: bool = False) -> None:
    """Write a graph; its weights go to `path`.data when they are large, or when `share_weights` says that graphs of one output
    will share them.

    With `half_storage` those weights that float16 holds exactly are stored so, and cast back to float32 at load; the arithmetic stays
    float32.
    """
    import onnx_ir as ir

    if half_storage:
        _store_halves(model.graph)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    external = f"{path.name}.data" if share_weights or weights > EXTERNAL_FROM else None
    ir.save(model, path, external_data=external, size_threshold_bytes=EXTERNAL_TENSOR_FROM)


def export_alone(source: Path, output: str, path: Path) -> None:
    """Write the part of the graph `source` that computes `output` as `path`, in the same folder; external weights are shared."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = ir.load(source)
    for value in [value for value in model.graph.outputs if value.name != output]:
        model.graph.outputs.remove(value)
        value.shape, value.type = None, None
    RemoveUnusedNodesPass()(model)
    ir.save(model, path)


def beside(file: str, form: str) -> str:
    """The file of another graph of a stage beside its own: of one output, or a variant."""
    return f"{file.removesuffix('.onnx')}.{form}.onnx"


def weights_of(folder: Path, graphs: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Graph file -> the files of external weights that it names, for those that name some; all relative to `folder`."""
    import onnx

    found = {}
    for graph in graphs:
        tensors = onnx.load(str(folder / graph), load_external_data=False).graph.initializer
        names = {item.value for tensor in tensors for item in tensor.external_data if item.key == "location"}
        if names:
            found[graph] = tuple(sorted((PurePosixPath(graph).parent / name).as_posix() for name in names))
    return found


def stored_bytes(folder: Path, graphs: Sequence[str]) -> int:
    """The size of graph files and of all external weights that they name."""
    names = {*graphs, *(name for weights in weights_of(folder, graphs).values() for name in weights)}
    return sum((folder / name).stat().st_size for name in names)


def _exported(module: nn.Module, stage: Stage, method: Method, opset: int, dynamic: bool = True) -> ir.Model:
    import torch

    arguments = tuple(torch.zeros(method.shape(name, EXAMPLE_BATCH if dynamic else 1)) for name in stage.inputs)
    axes = {0: torch.export.Dim(BATCH, min=1)} if dynamic else {}
    shapes: tuple[Any, ...] = tuple(axes for _ in arguments)
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):  # these are one argument for torch.export
        shapes = (*shapes[: len(parameters) - 1], shapes[len(parameters) - 1 :])
    with quiet(), torch.no_grad():
        program = torch.export.export(module.eval(), arguments, dynamic_shapes=shapes, strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
            opset_version=opset,
            optimize=True,
            verbose=False,
        )
    assert exported is not None
    _tidy(exported.model, dynamic)
    return exported.model


def _share(graph: ir.Graph, others: Iterable[ir.Graph]) -> None:
    """Tensors of `graph` whose bytes are among the external weights of `others` become references to these."""
    import onnx_ir as ir

    held = [
        tensor for other in others for value in other.initializers.values() if isinstance(tensor := value.const_value, ir.ExternalTensor)
    ]
    lengths, places = {tensor.nbytes for tensor in held}, {_content(tensor): tensor for tensor in held}
    for value in graph.initializers.values():
        tensor = _weight(value)
        same = places.get(_content(tensor)) if tensor.nbytes in lengths else None
        if same is not None:
            shape = ir.Shape(tensor.numpy().shape)
            value.const_value = ir.ExternalTensor(
                same.location, same.offset, same.length, tensor.dtype, shape=shape, name=str(value.name), base_dir=same.base_dir
            )


def _content(tensor: ir.TensorProtocol) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


def _weight(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's own warnings from the user, who can do nothing about them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _tidy(model: ir.Model, dynamic: bool) -> None:
    """Constant scales instead of computed sizes, and nothing that tells where the graph was made."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        if node.op_type == "Resize":
            _scale_by_constant(model.graph, node)
    RemoveUnusedNodesPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs):  # torch.export invents a name for the batch axis
        value.shape = ir.Shape([BATCH if dynamic else 1, *(value.shape or ())[1:]])
    model.producer_name, model.producer_version = PRODUCER, None
    for item in (model, model.graph, *model.graph, *_values(model.graph)):
        item.metadata_props.clear()
        item.doc_string = None
    for node in model.graph:  # shapes of intermediate tensors follow from the graph
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None


def _values(graph: ir.Graph) -> Iterator[Any]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _scale_by_constant(graph: ir.Graph, node: ir.Node) -> None:
    """A Resize whose sizes are computed from the batch becomes one by constant scales, where the pictures' sizes are constant."""
    import numpy as np
    import onnx_ir as ir

    source, target = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or target.shape is None or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    sizes = [(before, after) for before, after in zip(source.shape[1:], target.shape[1:], strict=True)]
    if not all(isinstance(size, int) for pair in sizes for size in pair):
        return
    scales = np.array([1.0, *(after / before for before, after in sizes)], np.float32)
    value = ir.val(f"{target.name}_scales", const_value=ir.tensor(scales))
    graph.register_initializer(value)
    node.resize_inputs(3)
    node.replace_input_with(2, value)


def _store_halves(graph: ir.Graph) -> None:
    """Large float32 weights that float16 holds exactly become float16 weights and a cast to float32."""
    import numpy as np
    import onnx_ir as ir

    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < HALF_FROM or value.is_graph_output():
            continue
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.val(f"{name}_half", const_value=ir.tensor(half))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}_single"
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.insert_before(graph[0], cast)
        graph.register_initializer(stored)
        del graph.initializers[name]
