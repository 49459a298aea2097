"""What is in a bundle: per graph files, sizes, parameters, operations, arithmetic and hashes, and how often programs run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import files_of, graph_for, parts
from sdic_runtime.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class GraphContents:
    """One graph of a bundle, or the bands of rows that make up a stage together."""

    graph: str  # "stage", also a part of one, or "stage:output" for that output alone
    variant: str
    files: tuple[str, ...]  # the graphs first, then the external weights that they read
    sha256: tuple[str, ...]  # of these files
    bytes: int
    opset: int
    parameters: int  # those that bands share are counted once
    weights: dict[str, int]  # element type -> parameters stored so
    operations: dict[str, int]  # kind -> nodes, the most frequent first
    gmac: float | None  # multiply-accumulates of one picture in units of 10^9; None where shapes are not known
    runs: dict[str, int]  # program -> how many of its steps this graph answers where its variant runs

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_bundle(path: Path) -> tuple[Bundle, list[GraphContents]]:
    """Open the bundle in the folder `path`, check its graphs against their hashes, and look into them. Raises SdicError."""
    bundle = Bundle.open(path)
    order = {stage: index for index, stage in enumerate(bundle.manifest.stages)}
    keys = [*sorted(bundle.manifest.graphs, key=lambda key: order[parts(key)[0]]), *bundle.manifest.part_graphs]
    return bundle, [inspect_graph(bundle, key, variant) for key in keys for variant in _variants(bundle, key)]


def inspect_graph(bundle: Bundle, key: str, variant: str) -> GraphContents:
    """Look into the graph of a stage, of a part of one or of a "stage:output" in one variant, the sum of its bands; external weights are
    not loaded. Raises BundleError."""
    manifest = bundle.manifest
    graphs = _variants(bundle, key)[variant]
    files = files_of(manifest, graphs)
    paths = {name: bundle.file(name) for name in files}
    models = [_model(paths[graph]) for graph in graphs]
    weights = _weights(models)
    operations = Counter(node.op_type for model in models for node in model.graph.node)
    counts = [_count(model) for model in models]
    known = [count for count in counts if count is not None]
    return GraphContents(
        key,
        variant,
        tuple(files),
        tuple(manifest.files[name].sha256 for name in files),
        sum(manifest.files[name].bytes for name in files),
        models[0].opset_import[0].version,
        sum(weights.values()),
        dict(weights.most_common()),
        dict(operations.most_common()),
        sum(known) / 1e9 if len(known) == len(counts) else None,
        _runs(bundle, key, variant),
    )


def _variants(bundle: Bundle, key: str) -> dict[str, tuple[str, ...]]:
    return bundle.manifest.graphs.get(key) or bundle.manifest.part_graphs[key]


def work(contents: Iterable[GraphContents], variant: str, program: str) -> float | None:
    """The multiply-accumulates of a program for one picture, in units of 10^9; None where those of a graph are not known."""
    parts = [(item.gmac, item.runs[program]) for item in contents if item.variant == variant and program in item.runs]
    return None if any(gmac is None for gmac, _ in parts) else sum(gmac * count for gmac, count in parts if gmac is not None)


def multiplications(path: Path) -> int | None:
    """Multiply-accumulates of the graph file `path` for one picture; None where shapes are not known."""
    return _count(_model(path))


def _runs(bundle: Bundle, key: str, variant: str) -> dict[str, int]:
    manifest = bundle.manifest
    variants = (variant, manifest.default_precision)
    runs = {
        name: sum(
            step.stage == parts(key)[0] and graph_for(manifest, step.stage, tuple(step.outputs), variants).key == key
            for step in program.steps
        )
        for name, program in manifest.programs.items()
    }
    return {name: count for name, count in runs.items() if count}


def _model(path: Path) -> onnx.ModelProto:
    load = _onnx().load
    try:
        model: onnx.ModelProto = load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises what its version raises
        raise BundleError(f"{path} is not an ONNX file ({error}); build the bundle again") from error
    return model


def _weights(models: Iterable[onnx.ModelProto]) -> Counter[str]:
    """Element type -> parameters; what lies at one place of an external file is counted for the first of the graphs that refer to it."""
    name_of = _onnx().TensorProto.DataType.Name
    weights: Counter[str] = Counter()
    counted: set[tuple[tuple[str, str], ...]] = set()
    for model in models:
        places = [tuple(sorted((entry.key, entry.value) for entry in tensor.external_data)) for tensor in model.graph.initializer]
        for tensor, place in zip(model.graph.initializer, places, strict=True):
            if place not in counted:
                weights[name_of(tensor.data_type).lower()] += prod(tensor.dims)
        counted |= {place for place in places if place}
    return weights


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export", "sdic-export inspect") from None
    return onnx


def _count(model: onnx.ModelProto) -> int | None:
    """Multiply-accumulates of convolutions and matrix products for one picture; None where a shape is not known."""
    onnx = _onnx()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception:  # shapes are an extra; a graph without them is still listed
        return None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(item.dim_value for item in value.type.tensor_type.shape.dim)
    counts = list(_counts(graph, shapes))
    return None if None in counts else sum(count for count in counts if count is not None)


def _counts(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> Iterator[int | None]:
    """Per convolution and matrix product its multiply-accumulates; None where a shape is unknown."""
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        known = [shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0])]
        if not all(shape and all(shape) for shape in known):
            yield None
            continue
        first, second, result = known
        if node.op_type == "Conv":
            yield prod(result) * prod(second[1:])
        elif node.op_type == "ConvTranspose":
            yield prod(first) * prod(second[1:])
        else:
            yield prod(result) * first[-1]
