"""What the tests of half precision share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
METHOD = method_of(METHODS["sdic"], TINY)
STAGES = METHOD.stages


def single(built: Any, stage: str) -> Path:
    return Path(built.folder) / f"onnx/fp32/{stage}.onnx"


def small_model(nodes: list[Any], weights: Mapping[str, np.ndarray], shape: tuple[int, ...] = (1, 8, 4, 4)) -> onnx.ModelProto:
    """A graph from "image" to "latent", so that it can pass for e4e."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", SINGLE, shape)],
        [helper.make_tensor_value_info("latent", SINGLE, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
