"""Which types an engine says that it computes in, and what is refused because of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from sdic_export.tensorrt import builder
from sdic_export.tensorrt.census import Census, check_precision, graph_census, inspector_census, plan_census
from sdic_runtime.errors import BackendError


def test_the_census_of_a_plan_counts_device_tensors_and_their_constants() -> None:
    plan = (
        b'\0\1tensor={ alignment=128 const_payload_size=200 dims={ 10 10 } name="c" region=consts strides={ 10 1 } type=half }\n'
        b'tensor={ alignment=128 const_payload_size=40 dims={ 10 } name="d" region=consts strides={ 1 } type=float }\n'
        b'tensor={ dims={ 4 } name="e" region="devmem_0" strides={ 1 } type=half }\n'
        b'tensor={ dims={ 1 } name="f" region="shape_system_hmem" strides={ 1 } type=float }\n'
        b'tensor={ dims={ 1 } name="g" region="devmem_0" strides={ 1 } type=int64 }\xff stream_capturable=1\n'
    )
    census = plan_census(plan)
    assert census.tensors == {"float16": 2, "float32": 1}
    assert census.weight_bytes == {"float16": 200, "float32": 40}
    assert census.weight_share("float16") == pytest.approx(5 / 6)
    assert census.capturable is True
    assert plan_census(plan.replace(b"capturable=1", b"capturable=0")).capturable is False
    assert plan_census(b"\0" * 100) == Census("none")


def test_the_census_of_an_inspector() -> None:
    """The layout of TensorRT's engine information with detailed verbosity."""
    information = {
        "Layers": [
            {
                "Name": "conv",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format"}],
                "Outputs": [
                    {"Name": "y", "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
                ],
                "Weights": {"Type": "Half", "Count": 576},
                "Bias": {"Type": "Float", "Count": 8},
            },
            {"Name": "cast", "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32"}]},
            "a layer with names only",
        ]
    }
    census = inspector_census(json.dumps(information))
    assert (census.source, census.layers) == ("inspector", 2)
    assert census.tensors == {"float16": 1, "float32": 1}
    assert census.weight_bytes == {"float16": 1152, "float32": 32}


def engine_information(weights: str, tensor: dict[str, str]) -> str:
    """What the inspector says of an engine of two convolutions with weights of one type, and tensors that are described in one way."""
    layer = {"Name": "conv", "Outputs": [{"Name": "y", "Dimensions": [-1, 8, 4, 4], **tensor}], "Weights": {"Type": weights, "Count": 576}}
    return json.dumps({"Layers": [layer, {**layer, "Name": "conv2", "Bias": {"Type": "Float", "Count": 8}}]})


DYNAMIC = "N/A due to dynamic shapes"
DESCRIBED: dict[str, Any] = {  # how releases of TensorRT describe a tensor -> with the type in it, or without
    "10": lambda kind: {"Format/Datatype": f"Row major linear {kind} format"},
    "11": lambda kind: {"DataType": kind, "Format": "Row major linear"},
    "10, open batch": lambda kind: {"Format/Datatype": DYNAMIC},
    "11, open batch": lambda kind: {"DataType": DYNAMIC, "Format": DYNAMIC},
    "types alone": lambda kind: {"DataType": kind, "Format": DYNAMIC},
}


@pytest.mark.parametrize("described", DESCRIBED)
@pytest.mark.parametrize(("precision", "weights", "kind"), [("fp16", "Half", "FP16"), ("bf16", "BFloat16", "BF16")])
def test_an_inspector_that_tells_the_weights_tells_enough(described: str, precision: str, weights: str, kind: str) -> None:
    half = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    asked = Census("graph", {}, {half: 900, "float32": 100}, layers=2)
    good = inspector_census(engine_information(weights, DESCRIBED[described](kind)))
    assert good.source == "inspector" and good.weight_bytes == {half: 2304, "float32": 32}
    assert good.tensors == ({} if described.endswith("open batch") else {half: 2})
    check_precision("dicn", precision, good, asked)
    single = inspector_census(engine_information("Float", DESCRIBED[described]("FP32")))
    told = "" if described.endswith("open batch") else "0% of its tensors and "
    with pytest.raises(
        BackendError, match=f"was asked for in {precision} and is not: {told}0% of its weights are {half}, and at least 45%"
    ):
        check_precision("dicn", precision, single, asked)


def test_some_tensors_without_a_type_say_nothing_about_the_rest() -> None:
    """Constants have fixed shapes, and they may be all that is told."""
    census = Census("inspector", {"float32": 1}, {"float16": 900, "float32": 100}, 3, untold=8)
    check_precision("dicn", "fp16", census, HALF_GRAPH)
    with pytest.raises(BackendError, match="is not: 0% of its tensors and 90% of its weights are float16"):
        check_precision("dicn", "fp16", msgspec.structs.replace(census, untold=0), HALF_GRAPH)


def test_the_inspector_is_asked_about_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an engine whose inspector names types only for inputs of a known size."""
    shapes: dict[str, tuple[int, ...]] = {}
    context = SimpleNamespace(set_input_shape=shapes.__setitem__)

    class Inspector:
        execution_context: Any = None

        def get_engine_information(self, form: str) -> str:
            return engine_information("Half", DESCRIBED["11" if self.execution_context is context else "11, open batch"]("FP16"))

    engine = SimpleNamespace(
        create_engine_inspector=Inspector,
        create_execution_context=lambda strategy: context,
        num_io_tensors=2,
        get_tensor_name=lambda index: ("image", "latent")[index],
        get_tensor_mode=lambda name: "in" if name == "image" else "out",
        get_tensor_shape=lambda name: (-1, 3, 64, 64),
    )
    names: dict[str, Any] = {
        "Runtime": lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        "LayerInformationFormat": SimpleNamespace(JSON="json"),
        "TensorIOMode": SimpleNamespace(INPUT="in"),
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="user"),
    }
    monkeypatch.setattr(builder, "gpu_count", lambda: 1)
    monkeypatch.setattr(builder, "error_log", lambda trt: None)
    assert builder.take_census(SimpleNamespace(**names), memoryview(b"plan"), 2).tensors == {"float16": 2}
    assert shapes == {"image": (2, 3, 64, 64)}
    engine.create_execution_context = lambda strategy: None
    found = builder.take_census(SimpleNamespace(**names), memoryview(b"plan"), 2)
    assert (found.source, found.tensors, found.untold) == ("inspector", {}, 2)


HALF_GRAPH = Census("graph", {}, {"float16": 900, "float32": 100}, layers=3)


@pytest.mark.parametrize(
    ("engine", "asked", "message"),
    [
        (
            Census("plan", {"float32": 9}, {"float32": 1800}),
            HALF_GRAPH,
            "was asked for in fp16 and is not: 0% of its tensors and 0% of its",
        ),
        (
            Census("plan", {"float32": 8, "float16": 2}, {"float32": 900, "float16": 100}),
            HALF_GRAPH,
            "20% of its tensors and 10% of its weig",
        ),
        (Census("none"), HALF_GRAPH, "does not say in which types it computes, so that it is fp16 cannot be checked"),
        (
            Census("plan", {"float16": 9}, {"float16": 9}),
            Census("graph", {}, {"float32": 9}, layers=1),
            "has no float16 weights, so its engine cannot",
        ),
    ],
)
def test_an_engine_that_is_not_known_to_be_half_is_refused(engine: Census, asked: Census, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        check_precision("dicn", "fp16", engine, asked)
    check_precision("dicn", "fp32", engine, asked)


def test_an_engine_of_a_policy_of_another_name_is_checked_too() -> None:
    single, half = Census("plan", {"float32": 9}, {"float32": 1800}), Census("plan", {"float16": 9}, {"float16": 1800})
    with pytest.raises(BackendError, match="was asked for in mine and is not: 0% of its tensors and 0% of its weights are float16"):
        check_precision("dicn", "mine", single, HALF_GRAPH)
    check_precision("dicn", "mine", half, HALF_GRAPH)
    check_precision("dicn", "mine", single, Census("graph", {}, {"float32": 9}, layers=1))  # it keeps all of this graph in float32
    with pytest.raises(BackendError, match="0% of its weights are bfloat16"):
        check_precision("dicn", "mine", half, Census("graph", {}, {"bfloat16": 9, "float32": 1}, layers=1))


def test_a_half_engine_passes() -> None:
    check_precision("dicn", "fp16", Census("plan", {"float16": 9, "float32": 3}, {"float16": 800, "float32": 200}), HALF_GRAPH)
    check_precision("dicn", "bf16", Census("inspector", {"bfloat16": 9}), Census("graph", {}, {"bfloat16": 9}, layers=1))


def test_a_graph_that_multiplies_nothing_has_nothing_to_be_half(tmp_path: Path) -> None:
    """A difference of pictures stays float32 by every policy."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 4, 4)) for name in ("image", "reconstruction", "distortion")]
    graph = helper.make_graph([helper.make_node("Sub", ["image", "reconstruction"], ["distortion"])], "g", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "difference.onnx")
    asked = graph_census(tmp_path / "difference.onnx")
    assert asked == Census("graph")
    check_precision("difference", "fp16", Census("plan", {"float32": 3}), asked)
