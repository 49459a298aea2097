"""Triton's model configuration as data, and as the text of `config.pbtxt`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BACKENDS = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}  # -> the file that Triton looks for
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}  # what older releases read instead of the backend
INSTANCE_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}


class Symbol(str):
    """A word of the schema, such as TYPE_FP32: written without quotation marks."""


FLOAT, BYTE = Symbol("TYPE_FP32"), Symbol("TYPE_UINT8")


@dataclass(frozen=True)
class Tensor:
    """A tensor at a model's border; `dims` are without the batch axis."""

    name: str
    dims: tuple[int, ...]
    kind: Symbol = FLOAT

    def message(self) -> dict[str, Any]:
        return {"name": self.name, "data_type": self.kind, "dims": list(self.dims)}


@dataclass(frozen=True)
class Step:
    """One call in an ensemble: the model's tensor -> the ensemble's tensor, for inputs and outputs."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def message(self) -> dict[str, Any]:
        maps = {
            name: [{"key": key, "value": value} for key, value in pairs.items()]
            for name, pairs in (("input_map", self.inputs), ("output_map", self.outputs))
        }
        return {"model_name": self.model, "model_version": -1, **maps}


@dataclass(frozen=True)
class Serving:
    """How models are run: the largest batch, how long a request may wait for others, and how many instances where."""

    max_batch: int = 8
    queue_microseconds: int = 2000
    instances: int = 1
    device: str = "auto"  # one of INSTANCE_KINDS
    threads: int | None = None  # CPU threads per instance; the backend's choice when None


@dataclass(frozen=True)
class Model:
    """One folder of a repository. Exactly one of `backend` and `steps` is given; `warm_up` are inputs whose bytes are in warmup/NAME."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    backend: str = ""
    steps: tuple[Step, ...] = ()
    warm_up: Sequence[str] = field(default=())

    def text(self, serving: Serving) -> str:
        """The contents of `config.pbtxt`."""
        message: dict[str, Any] = {"name": self.name}
        if self.steps:
            message["platform"] = "ensemble"
        else:
            message["backend"] = self.backend
            if self.backend in PLATFORMS:
                message["platform"] = PLATFORMS[self.backend]
        message |= {
            "max_batch_size": serving.max_batch,
            "input": [tensor.message() for tensor in self.inputs],
            "output": [tensor.message() for tensor in self.outputs],
        }
        if self.steps:
            message["ensemble_scheduling"] = {"step": [step.message() for step in self.steps]}
        else:
            message |= self._running(serving)
        return pbtxt(message)

    def _running(self, serving: Serving) -> dict[str, Any]:
        message: dict[str, Any] = {
            "dynamic_batching": {"max_queue_delay_microseconds": serving.queue_microseconds},
            "instance_group": [{"count": serving.instances, "kind": Symbol(INSTANCE_KINDS[serving.device])}],
        }
        if serving.threads is not None and self.backend in ("onnxruntime", "python"):
            message["parameters"] = [{"key": "intra_op_thread_count", "value": {"string_value": str(serving.threads)}}]
        if self.warm_up:
            samples = [
                {"key": tensor.name, "value": {"data_type": tensor.kind, "dims": list(tensor.dims), "input_data_file": tensor.name}}
                for tensor in self.inputs
                if tensor.name in self.warm_up
            ]
            message["model_warmup"] = [
                {"name": "golden", "batch_size": batch, "inputs": samples} for batch in dict.fromkeys((1, serving.max_batch))
            ]
        return message


def pbtxt(message: Mapping[str, Any], indent: int = 0) -> str:
    """A message in the text form of protocol buffers: mappings are messages, lists repeated fields, Symbols words of the schema."""
    lines = []
    for name, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(_field(name, item, indent))
    return "".join(lines)


def _field(name: str, value: Any, indent: int) -> str:
    space = "  " * indent
    if isinstance(value, Mapping):
        return f"{space}{name} {{\n{pbtxt(value, indent + 1)}{space}}}\n"
    shown = value if isinstance(value, Symbol) else json.dumps(value)
    return f"{space}{name}: {shown}\n"
