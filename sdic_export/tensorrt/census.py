"""Which types an engine computes in, read off the built engine itself, so that a half-precision engine is known to be one.

On a machine with a GPU TensorRT's own inspector says it. Without a GPU no engine can be loaded, but TensorRT-RTX plans describe their
device tensors as text (`tensor={ ... const_payload_size=2592 ... type=half }`), which is counted instead.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from math import prod
from pathlib import Path

import msgspec

from sdic_export.half.precision import TYPES as TYPES_OF_PRECISIONS
from sdic_export.half.typed_graph import FLOAT, HALVES, NAMES
from sdic_runtime.bundle.manifest import STANDARD
from sdic_runtime.errors import BackendError

INSPECTOR, PLAN, NOTHING = "inspector", "plan", "none"
TYPES = {
    "half": "float16",
    "fp16": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float": "float32",
    "fp32": "float32",
    "float32": "float32",
}
TENSOR_KEYS = ("DataType", "Format/Datatype", "Format")  # of TensorRT 11, and of those before
DYNAMIC = "dynamic shapes"  # said in place of a type: "N/A due to dynamic shapes"
PLAN_TENSOR = re.compile(rb"tensor=\{ ([ -~]{0,4000}?) type=(\w+) \}")
PLAN_PAYLOAD = re.compile(rb"const_payload_size=(\d+)")
PLAN_HOST = b"system_hmem"  # shapes and sizes live in host memory
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what half precision is for; other nodes only move or add what there is
KEPT = 0.5  # of the graph's share of half weights, how much must be found in the engine: fusions keep some constants in float32


class Census(msgspec.Struct, frozen=True):
    """Tensors and weight bytes per type. `source` says where the numbers come from. `layers`: those that the inspector names, and of a
    graph its convolutions and matrix products."""

    source: str
    tensors: dict[str, int] = {}
    weight_bytes: dict[str, int] = {}
    layers: int = 0
    capturable: bool | None = None  # whether the plan says that its work can be captured as a CUDA graph
    untold: int = 0  # tensors of which the inspector does not say the type, as with shapes that are known at run time alone

    def share(self, kind: str) -> float:
        """The part of the tensors that have the type `kind`."""
        total = sum(self.tensors.values())
        return self.tensors.get(kind, 0) / total if total else 0.0

    def weight_share(self, kind: str) -> float:
        """The part of the weights' bytes that have the type `kind`."""
        total = sum(self.weight_bytes.values())
        return self.weight_bytes.get(kind, 0) / total if total else 0.0


def plan_census(plan: bytes | memoryview) -> Census:
    """Count the device tensors that the text in a plan describes."""
    tensors: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for match in PLAN_TENSOR.finditer(plan):
        kind = TYPES.get(match[2].decode())
        if kind is None or PLAN_HOST in match[1]:
            continue
        tensors[kind] += 1
        payload = PLAN_PAYLOAD.search(match[1])
        if payload:
            weights[kind] += int(payload[1])
    flags = set(re.findall(rb"stream_capturable=(\d)", plan))
    return Census(PLAN if tensors else NOTHING, dict(tensors), dict(weights), capturable=flags == {b"1"} if flags else None)


def inspector_census(information: str) -> Census:
    """Count what `EngineInspector.get_engine_information` says in JSON (of an engine built with detailed verbosity).

    Weights alone are an answer: with a dynamic profile TensorRT may keep the types of all tensors to itself.
    """
    layers = [layer for layer in json.loads(information).get("Layers", []) if isinstance(layer, dict)]
    tensors: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    untold = 0
    for layer in layers:
        for tensor in layer.get("Outputs", []):
            kind = next(filter(None, (_named_type(str(tensor.get(key, ""))) for key in TENSOR_KEYS)), None)
            tensors.update([kind] if kind else [])
            untold += kind is None and any(DYNAMIC in str(tensor.get(key, "")) for key in TENSOR_KEYS)
        for part in ("Weights", "Bias"):
            value = layer.get(part)
            kind = _named_type(str(value.get("Type", ""))) if isinstance(value, dict) else None
            if kind and isinstance(value, dict):
                weights[kind] += int(value.get("Count", 0)) * (4 if kind == "float32" else 2)
    return Census(INSPECTOR if tensors or weights else NOTHING, dict(tensors), dict(weights), len(layers), untold=untold)


def graph_census(path: Path) -> Census:
    """What the ONNX file at `path` asks for: the weights of its graph, and how many nodes multiply by them."""
    import onnx

    weights: Counter[str] = Counter()
    graph = onnx.load(path, load_external_data=False).graph
    for tensor in graph.initializer:
        if tensor.data_type in (FLOAT, *HALVES.values()):
            weights[NAMES[tensor.data_type]] += prod(tensor.dims) * (4 if tensor.data_type == FLOAT else 2)
    return Census("graph", {}, dict(weights), sum(node.op_type in PRODUCTS for node in graph.node))


def check_precision(graph: str, precision: str, engine: Census, asked: Census) -> None:
    """Raise BackendError when `engine`, built in a half precision, does not hold the half types that its graph asks for.

    `asked` is the census of the graph. An engine that says nothing about its types is refused too: precision is checked, not assumed; where
    it tells its weights and not all its tensors, the weights decide. A graph without a convolution or a matrix product, such as a
    difference of two pictures, has nothing that must be half.
    """
    kind = asked_type(precision, asked)
    if kind is None or asked.layers == 0:
        return
    again = f"write the graphs anew with: sdic-export half DIR --policy {precision}"
    if asked.weight_share(kind) == 0:
        raise BackendError(f'the ONNX graph of "{graph}" has no {kind} weights, so its engine cannot be {precision}; {again}')
    if engine.source == NOTHING:
        raise BackendError(
            f'the engine of "{graph}" does not say in which types it computes, so that it is {precision} cannot be checked; '
            "build it on a machine with a GPU, where the inspector says it"
        )
    found, wanted, weighed = engine.weight_share(kind), KEPT * asked.weight_share(kind), any(engine.weight_bytes.values())
    hidden = weighed and (engine.untold > 0 or not engine.tensors)
    if (engine.share(kind) == 0 and not hidden) or (weighed and found < wanted):
        tensors = "" if hidden else f"{engine.share(kind):.0%} of its tensors and "
        raise BackendError(
            f'the engine of "{graph}" was asked for in {precision} and is not: {tensors}{found:.0%} of its weights are {kind}, '
            f"and at least {wanted:.0%} of the weights are expected"
        )


def asked_type(precision: str, asked: Census) -> str | None:
    """The half type that a precision asks for; of one that a policy named, that of most weights of its graph."""
    if precision == STANDARD or precision in TYPES_OF_PRECISIONS:
        return TYPES_OF_PRECISIONS.get(precision)
    return max(HALVES, key=asked.weight_share) if any(map(asked.weight_share, HALVES)) else None


def _named_type(text: str) -> str | None:
    """The type in words such as "Row major linear FP16 format" or "Half"."""
    return next((TYPES[word] for word in re.findall(r"\w+", text.lower()) if word in TYPES), None)
