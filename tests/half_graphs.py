"""What the tests of half precision share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
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


def graph_of(nodes: list[Any], weights: Mapping[str, np.ndarray], shape: tuple[int | str, ...], *results: str) -> onnx.ModelProto:
    """A graph from "x" to `results`, or to the output of its last node."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", SINGLE, shape)],
        [helper.make_tensor_value_info(name, SINGLE, None) for name in results or nodes[-1].output],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def outputs(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime computes in float32."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, inputs)]


def random_inputs(model: onnx.ModelProto, batch: int, seed: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {item.name: [axis.dim_value or batch for axis in item.type.tensor_type.shape.dim] for item in model.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def assert_same_numbers(model: onnx.ModelProto, made: onnx.ModelProto, batch: int = 2, within: float = 2e-5) -> None:
    """Both graphs give the same for random inputs, to so many standard deviations."""
    onnx.checker.check_model(made)
    inputs = random_inputs(model, batch)
    for want, got in zip(outputs(model, **inputs), outputs(made, **inputs), strict=True):
        assert want.shape == got.shape and np.abs(want - got).max() <= within * want.std()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def optimized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime makes of a graph before it is given to a provider, as far as a CPU shows it: it adds casts for itself."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(folder / "optimized.onnx"))
