"""What is in a bundle: per stage files, sizes, parameters, operations, arithmetic and hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.bundle.bundle import CPU_PRECISION, Bundle, Manifest
from sdic_runtime.errors import MissingExtraError, SdicError
from sdic_runtime.stages import STAGES

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class StageContents:
    """One graph of a bundle, or the bands of rows that make up a stage together."""

    stage: str  # or "stage:output" for the graph of one output alone
    precision: str
    cpu: bool  # whether it is the form of the stage for processors
    files: tuple[str, ...]  # the graph first, then its own external weights; so for each band
    sha256: tuple[str, ...]  # of these files
    bytes: int
    opset: int
    parameters: int  # those that bands share are counted once
    weights: dict[str, int]  # element type -> parameters stored so
    operations: dict[str, int]  # kind -> nodes, the most frequent first
    gmac: float | None  # multiply-accumulates of one picture in units of 10^9; None where shapes are not known

    @property
    def form(self) -> str:
        """Precision and form in one short text."""
        return f"{self.precision} CPU" if self.cpu else self.precision

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_bundle(path: Path) -> tuple[Bundle, list[StageContents]]:
    """Open the bundle in the folder `path`, prove its graphs against their hashes, and look into them. Raises SdicError."""
    bundle = Bundle.open(path)
    return bundle, [inspect_stage(bundle, *graph) for graph in _graphs(bundle.manifest)]


def _graphs(manifest: Manifest) -> Iterator[tuple[str, str, bool]]:
    """Stage or "stage:output", precision, and whether it is the form for processors, of every graph in the order of the stage table."""
    own = {**manifest.stages, **manifest.partials}
    for stage in STAGES.values():
        for key in (stage.name, *(f"{stage.name}:{output}" for output in stage.outputs)):
            yield from ((key, precision, False) for precision in own.get(key, ()))
            if key in manifest.cpu:
                yield key, CPU_PRECISION, True


def inspect_stage(bundle: Bundle, stage: str, precision: str, cpu: bool = False) -> StageContents:
    """Look into the graph of a stage or a "stage:output", with `cpu` into its form for processors, the sum of its bands.

    External weights are not loaded. Raises SdicError.
    """
    manifest = bundle.manifest
    graphs = manifest.cpu[stage] if cpu else [(manifest.partials if ":" in stage else manifest.stages)[stage][precision]]
    files = [name for graph in graphs for name in (graph, *(name for name in manifest.files if name.startswith(graph + ".")))]
    paths = {name: bundle.file(name) for name in files}
    models = [_model(paths[graph]) for graph in graphs]
    weights = _weights(models)
    operations = Counter(node.op_type for model in models for node in model.graph.node)
    gmac = [_gmac(model) for model in models]
    known = [count for count in gmac if count is not None]
    return StageContents(
        stage,
        precision,
        cpu,
        tuple(files),
        tuple(manifest.files[name].sha256 for name in files),
        sum(manifest.files[name].bytes for name in files),
        models[0].opset_import[0].version,
        sum(weights.values()),
        dict(weights.most_common()),
        dict(operations.most_common()),
        sum(known) if len(known) == len(gmac) else None,
    )


def _model(path: Path) -> onnx.ModelProto:
    load = _onnx().load
    try:
        model: onnx.ModelProto = load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises what its version raises
        raise SdicError(f"{path} is not an ONNX file ({error}); build the bundle again") from error
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


def _gmac(model: onnx.ModelProto) -> float | None:
    """Multiply-accumulates of convolutions and matrix products for one picture, in units of 10^9."""
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
    total = 0
    for count in _counts(graph, shapes):
        if count is None:
            return None
        total += count
    return total / 1e9


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
