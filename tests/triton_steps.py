"""A Triton model repository read by Triton's own schema, and its ensembles carried out step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def parsed(repository: Path) -> dict[str, Any]:
    """Every configuration of a repository, read by Triton's own schema, which refuses unknown fields and words."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason='Triton\'s schema is in the extra "triton"')
    from google.protobuf import text_format

    paths = sorted(repository.glob("*/config.pbtxt"))
    return {path.parent.name: text_format.Parse(path.read_text(), schema.ModelConfig()) for path in paths}


def carried_out(repository: Path, configs: dict[str, Any], name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an ensemble gives, its steps run with ONNX Runtime in an order that Triton could take."""
    import onnxruntime

    known, waiting = dict(inputs), list(configs[name].ensemble_scheduling.step)
    while waiting:
        step = next(step for step in waiting if set(step.input_map.values()) <= set(known))
        waiting.remove(step)
        session = onnxruntime.InferenceSession(str(repository / step.model_name / "1/model.onnx"), providers=["CPUExecutionProvider"])
        asked = list(step.output_map)
        found = session.run(asked, {key: known[tensor] for key, tensor in step.input_map.items()})
        known |= {step.output_map[key]: array for key, array in zip(asked, found, strict=True)}
    return {tensor.name: known[tensor.name] for tensor in configs[name].output}
