"""A half-precision stage checked on ONNX Runtime's CPU: every layer of it beside the same layer in float32, in one run.

ONNX Runtime has few half kernels for CPUs: it computes in float32 in between and may drop the rounding, and with it an overflow. So the
half graph is written out as a float32 graph that rounds to the half type after every node: what a GPU stores, with sums in float32.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_export.check import by_psnr
from sdic_export.half.precision import Policy, load_policy
from sdic_export.half.typed_graph import FLOAT, HALVES, layer_names
from sdic_runtime.errors import BundleError
from sdic_runtime.tools.compare import Difference, difference

if TYPE_CHECKING:
    import numpy as np
    import onnx

LARGEST_NUMBER = {"float16": 65504.0, "bfloat16": 3.39e38}
MEASURED = ("largest", "mean", "reference", "error", "power")
RANGE = 2  # of these, what says how large a tensor is by itself
HALF, SINGLE = "half/", "single/"  # prefixes of the two graphs' tensors


@dataclass(frozen=True)
class LayerRange:
    """One node of a half-precision stage over the calibration pictures."""

    layer: str  # the module it belongs to: "blocks.2.conv"
    operator: str
    tensor: str
    half: bool  # whether it is in the half type
    largest: float  # largest magnitude in the half graph; infinite or NaN after an overflow
    reference: float  # largest magnitude in the float32 graph; NaN where that has no such tensor
    noise: float  # RMS of the difference over RMS of the float32 tensor; 0 where there is none
    inputs: tuple[str, ...] = ()  # the tensors it reads


@dataclass(frozen=True)
class StageCheck:
    """What a half-precision stage does, against float32 on the same inputs."""

    stage: str
    precision: str
    differences: tuple[Difference, ...]  # one per output
    layers: tuple[LayerRange, ...]  # in graph order

    @property
    def psnr(self) -> float:
        """Of the worst output, in decibels."""
        return min(self.differences, key=by_psnr).psnr

    @property
    def largest(self) -> LayerRange:
        """The half-precision node with the largest activation; the first one that is not finite where there is one."""
        half = [item for item in self.layers if item.half] or list(self.layers)
        return next((item for item in half if not math.isfinite(item.largest)), max(half, key=lambda item: item.largest))

    @property
    def noisiest(self) -> LayerRange:
        """The node that adds most noise to what reaches it: where to look first when the PSNR is too low."""
        noise: dict[str, float] = {}
        for item in self.layers:  # what cannot be compared has what reaches it
            passed = max((noise.get(name, 0.0) for name in item.inputs), default=0.0)
            noise[item.tensor] = passed if math.isnan(item.reference) else item.noise
        return max(self.layers, key=lambda item: item.noise - max((noise.get(name, 0.0) for name in item.inputs), default=0.0))


def measure_stage(
    single: Path,
    half: Path,
    stage: str,
    inputs: Mapping[str, np.ndarray],
    policy: str | os.PathLike[str] | Policy = "fp16",
    threads: int = 0,
) -> StageCheck:
    """Run the float32 file and the half file of `stage` side by side on `inputs` (arrays [N, ...] by name), one picture at a time."""
    policy = load_policy(policy)
    count = len(next(iter(inputs.values())))
    folder = Path(os.path.commonpath([single.resolve().parent, half.resolve().parent]))
    twin, rows = _twin(single, half, folder, policy.type)
    running = session(twin, folder, threads)
    runs = [running.run(None, {name: array[index : index + 1] for name, array in inputs.items()}) for index in range(count)]
    names = [output.name for output in running.get_outputs()]
    results = [dict(zip(names, run, strict=True)) for run in runs]
    layers = tuple(_range(row, results) for row in rows)
    outputs = [name.removeprefix(HALF) for name in names if name.startswith(HALF)]
    return StageCheck(stage, policy.name, tuple(_difference(stage, name, results) for name in outputs), layers)


def judge_stage(check: StageCheck, policy: str | os.PathLike[str] | Policy = "fp16") -> StageCheck:
    """`check` itself when it is within the limits of `policy`. Raises BundleError that names the stage, the layer and the number."""
    policy = load_policy(policy)
    largest, ceiling = check.largest, policy.limits.largest * LARGEST_NUMBER[policy.type]
    where = f'the layer "{largest.layer}" ({largest.operator})'
    if not math.isfinite(largest.largest):
        reached = "" if math.isnan(largest.reference) else f" reaches {largest.reference:.3g} in float32"
        raise BundleError(f'the stage "{check.stage}" overflows in {check.precision}: {where}{reached}; ' + _keep(check, largest))
    if largest.largest > ceiling:
        raise BundleError(
            f'the stage "{check.stage}" comes too near to the largest {policy.type}: {where} reaches {largest.largest:.3g} '
            f"and {ceiling:.3g} is allowed; " + _keep(check, largest)
        )
    if not check.psnr >= policy.limits.stage:
        worst, noisy = min(check.differences, key=by_psnr), check.noisiest
        raise BundleError(
            f'"{worst.tensor}" of the stage "{check.stage}" has {worst.psnr:.1f} dB in {check.precision}, and '
            f'{policy.limits.stage:.0f} dB is asked for; most noise comes from the layer "{noisy.layer}" ({noisy.operator}): '
            + _keep(check, noisy)
        )
    return check


def _keep(check: StageCheck, item: LayerRange) -> str:
    """What a user does about a layer."""
    return f'keep it in float32 with layers = ["{item.layer}"] under [{check.stage}] in a precision policy'


def judge_chain(found: Iterable[Difference], policy: str | os.PathLike[str] | Policy = "fp16") -> Difference:
    """The worst picture of the whole chain. Raises BundleError when it is below the limit of `policy`."""
    policy = load_policy(policy)
    worst = min(found, key=by_psnr)
    if not worst.psnr >= policy.limits.chain:
        raise BundleError(
            f'"{worst.tensor}" of the whole chain has {worst.psnr:.1f} dB in {policy.name}, and {policy.limits.chain:.0f} dB '
            "is asked for, though each stage passed alone; raise [limits] stage in the precision policy to find the noisiest"
        )
    return worst


def as_rounding_graph(model: onnx.ModelProto, kind: str = "float16") -> onnx.ModelProto:
    """A half-precision graph as a float32 one that rounds to `kind` after every half node: the arithmetic of the check."""
    return _Rounding(model, "", HALVES[kind]).model()


def _difference(stage: str, name: str, results: Sequence[Mapping[str, np.ndarray]]) -> Difference:
    import numpy as np

    value, reference = (np.concatenate([result[prefix + name] for result in results]) for prefix in (HALF, SINGLE))
    return difference(stage, name, value, reference)


@dataclass(frozen=True)
class _Row:
    layer: str
    operator: str
    tensor: str
    half: bool
    inputs: tuple[str, ...]
    own: bool


def _range(row: _Row, results: Sequence[Mapping[str, np.ndarray]]) -> LayerRange:
    def worst(kind: str) -> float:
        values = [float(result[f"{kind}/{row.tensor}"]) for result in results]
        return next((value for value in values if not math.isfinite(value)), max(values))

    finite = math.isfinite(worst("mean"))  # a NaN may pass a maximum unseen
    if row.own:
        largest = worst("largest") if finite else math.inf
        return LayerRange(row.layer, row.operator, row.tensor, row.half, largest, math.nan, 0.0, row.inputs)
    power, error = worst("power"), worst("error")
    noise = math.sqrt(error / power) if power > 0 and math.isfinite(error) else (0.0 if error == 0 else math.inf)
    largest = worst("largest") if finite else math.inf
    return LayerRange(row.layer, row.operator, row.tensor, row.half, largest, worst("reference"), noise, row.inputs)


def session(model: onnx.ModelProto, folder: Path, threads: int = 0) -> Any:
    """An ONNX Runtime session on the CPU that computes `model`, whose external weights lie in `folder`, node by node as it is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing may be fused over a rounding
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = threads
    path = folder / f".{uuid.uuid4().hex[:12]}.check.onnx"
    try:
        path.write_bytes(model.SerializeToString())
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    finally:
        path.unlink(missing_ok=True)


def _twin(single: Path, half: Path, folder: Path, kind: str) -> tuple[onnx.ModelProto, list[_Row]]:
    """Both graphs in one model on the same inputs, with the ranges and differences of all their common tensors as outputs."""
    from onnx import helper

    models = [_loaded(path, folder) for path in (single, half)]
    parts = [_Rounding(models[0], SINGLE, HALVES[kind]), _Rounding(models[1], HALF, HALVES[kind])]
    twin = parts[1].model()
    twin.graph.node.extend(parts[0].nodes)
    twin.graph.initializer.extend(parts[0].initializers)
    del twin.graph.output[:]
    floats = _float_tensors(models[0])
    layers = layer_names(models[1].graph)
    suffixes = (f"_{kind}", "_float32")
    rows = []
    for node in models[1].graph.node:
        name = node.output[0]
        if node.op_type == "Cast" or name not in parts[1].halves | parts[1].singles:
            continue
        tensor = name if name in floats else name.removesuffix(f"_{kind}")
        own = tensor not in floats  # of another form of the graph, so there is nothing to compare it with
        if own and name not in parts[1].halves:
            continue
        inputs = tuple(next((item.removesuffix(end) for end in suffixes if item.endswith(end)), item) for item in node.input)
        rows.append(_Row(layers[name], node.op_type, tensor, name in parts[1].halves, inputs, own))
        twin.graph.node.extend(_measured(tensor, HALF + name, None if own else SINGLE + tensor))
        measured = MEASURED[:RANGE] if own else MEASURED
        twin.graph.output.extend(helper.make_tensor_value_info(f"{what}/{tensor}", FLOAT, []) for what in measured)
    for value in models[0].graph.output:
        twin.graph.output.extend(helper.make_tensor_value_info(prefix + value.name, FLOAT, None) for prefix in (HALF, SINGLE))
    return twin, rows


def _measured(tensor: str, half: str, single: str | None) -> list[onnx.NodeProto]:
    from onnx import helper

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, list(inputs), [f"{output}/{tensor}"], **attributes)

    size = [
        node("Abs", [half], "abs"),
        node("ReduceMax", [f"abs/{tensor}"], "largest", keepdims=0),
        node("ReduceMean", [f"abs/{tensor}"], "mean", keepdims=0),
    ]
    if single is None:
        return size
    return [
        *size,
        node("Abs", [single], "abs_single"),
        node("ReduceMax", [f"abs_single/{tensor}"], "reference", keepdims=0),
        node("Sub", [half, single], "minus"),
        node("Mul", [f"minus/{tensor}"] * 2, "square"),
        node("ReduceMean", [f"square/{tensor}"], "error", keepdims=0),
        node("Mul", [single] * 2, "square_single"),
        node("ReduceMean", [f"square_single/{tensor}"], "power", keepdims=0),
    ]


def _loaded(path: Path, folder: Path) -> onnx.ModelProto:
    """The graph at `path`, its external weights left where they are and named from `folder`."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = (path.resolve().parent / item.value).relative_to(folder).as_posix()
    return model


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    from sdic_export.half.typed_graph import infer_shapes

    shapes = infer_shapes(model)
    return set(shapes) - shapes.constants


class _Rounding:
    """A graph in float32 that rounds where the original is in a half type; its own tensors get a prefix."""

    def __init__(self, model: onnx.ModelProto, prefix: str, kind: int) -> None:
        self.source, self.prefix, self.kind = model, prefix, kind
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.halves: set[str] = set()
        self.singles: set[str] = set()
        self.inputs = {value.name for value in model.graph.input}
        for tensor in model.graph.initializer:
            self._weight(tensor)
        for node in model.graph.node:
            self._node(node)

    def model(self) -> onnx.ModelProto:
        import onnx

        result = onnx.ModelProto()
        result.ir_version = self.source.ir_version
        result.opset_import.extend(self.source.opset_import)
        result.graph.name = self.source.graph.name
        result.graph.input.extend(self.source.graph.input)
        result.graph.output.extend(self.source.graph.output)
        result.graph.initializer.extend(self.initializers)
        result.graph.node.extend(self.nodes)
        return result

    def _name(self, name: str) -> str:
        return name if not name or name in self.inputs else self.prefix + name

    def _weight(self, tensor: onnx.TensorProto) -> None:
        from onnx import helper

        copy = type(tensor)()
        copy.CopyFrom(tensor)
        copy.name = self._name(tensor.name)
        if tensor.data_type == self.kind:
            self.halves.add(tensor.name)
            stored, copy.name = copy.name, f"{copy.name}/stored"
            self.nodes.append(helper.make_node("Cast", [copy.name], [stored], to=FLOAT))
        self.initializers.append(copy)

    def _node(self, node: onnx.NodeProto) -> None:
        from onnx import helper

        copy = type(node)()
        copy.CopyFrom(node)
        copy.name = self.prefix + node.name
        copy.input[:] = [self._name(name) for name in node.input]
        copy.output[:] = [self._name(name) for name in node.output]
        target = next((item.i for item in node.attribute if item.name == "to"), 0) if node.op_type == "Cast" else 0
        if target == self.kind:
            self.halves.update(node.output)
            self._rounded(copy, copy.input[0], copy.output[0])
        elif target == FLOAT and node.input[0] in self.halves:  # weights in another half type are cast as they were
            self.singles.update(node.output)
            self.nodes.append(helper.make_node("Identity", list(copy.input), list(copy.output)))
        elif node.op_type != "Cast" and self._computes_in_half(node):
            self.halves.update(node.output)
            copy.output[0] = f"{copy.output[0]}/exact"
            self.nodes.append(copy)
            self._rounded(copy, copy.output[0], self._name(node.output[0]))
        else:
            self.singles.update(node.output)
            self.nodes.append(copy)

    def _computes_in_half(self, node: onnx.NodeProto) -> bool:
        return any(name in self.halves for name in node.input)

    def _rounded(self, node: onnx.NodeProto, source: str, target: str) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [source], [f"{target}/rounded"], to=self.kind))
        self.nodes.append(helper.make_node("Cast", [f"{target}/rounded"], [target], to=FLOAT))
