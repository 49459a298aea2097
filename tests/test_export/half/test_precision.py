"""Half precision by a policy: what stays float32, and what does not."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from half_graphs import HALF, SINGLE, STAGES, single, small_model
from onnx import helper, numpy_helper

from sdic_export.half.precision import Form, Rules, load_policy, to_half, write_half
from sdic_export.half.typed_graph import infer_shapes, prepared
from sdic_runtime.errors import BundleError


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    return result


def by_operator(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


# the graph ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_the_borders_stay_float32_and_the_graph_is_valid(built: Any, halves: Path, stage: str) -> None:
    before, after = onnx.load(single(built, stage)), onnx.load(halves / f"{stage}.onnx")
    onnx.checker.check_model(after, full_check=True)
    for find in (lambda graph: graph.input, lambda graph: graph.output):
        assert [(value.name, value.type.tensor_type.elem_type) for value in find(after.graph)] == [
            (value.name, SINGLE) for value in find(before.graph)
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_most_weights_are_half_and_every_convolution_of_many_channels_reads_half(halves: Path, stage: str) -> None:
    model = onnx.load(halves / f"{stage}.onnx")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in by_operator(model, "Conv"):
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        assert types[node.input[1]] == HALF or weight.dims[0] <= 3
    weights = [(tensor.data_type, math.prod(tensor.dims)) for tensor in model.graph.initializer]
    assert sum(count for kind, count in weights if kind == HALF) > 2 * sum(count for kind, count in weights if kind == SINGLE)


def test_styles_demodulation_and_rgb_sums_stay_float32(halves: Path) -> None:
    model = onnx.load(halves / "generator_tail.onnx")
    shapes = infer_types(model)
    for operator in ("Gemm", "Pow", "Reciprocal", "Sqrt", "ReduceMax"):
        assert {shapes[node.output[0]] for node in by_operator(model, operator)} == {SINGLE}
    sums = [node for node in by_operator(model, "Add") if "to_rgb.bias" in "".join(node.input)]
    assert sums
    assert {shapes[node.output[0]] for node in sums} == {SINGLE}
    assert {shapes[node.output[0]] for node in by_operator(model, "LeakyRelu")} == {HALF}


def infer_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}


def test_the_model_that_is_given_is_left_as_it_is(built: Any) -> None:
    model = onnx.load(single(built, "dicn"))
    before = model.SerializeToString(deterministic=True)
    to_half(model, "dicn")
    assert model.SerializeToString(deterministic=True) == before


def test_each_cast_is_made_once(halves: Path) -> None:
    for stage in STAGES:
        casts = by_operator(onnx.load(halves / f"{stage}.onnx"), "Cast")
        pairs = [(node.input[0], node.attribute[0].i) for node in casts]
        assert len(pairs) == len(set(pairs))


def test_the_same_file_twice(built: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_half(single(built, "generator_head"), tmp_path / name / "head.onnx", "generator_head")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"head.onnx", "head.onnx.data"}  # apart, as in the source
    for name in ("head.onnx", "head.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_that_onnx_refuses_are_a_sentence(built: Any, tmp_path: Path) -> None:
    for name in ("generator_head.onnx", "generator_head.onnx.data"):
        shutil.copy(built.folder / "onnx/fp32" / name, tmp_path)
    (tmp_path / "second").hardlink_to(tmp_path / "generator_head.onnx.data")
    with pytest.raises(BundleError, match=r"^cannot read the weights of .*generator_head\.onnx: .*hard links.*; copy the bundle and use"):
        write_half(tmp_path / "generator_head.onnx", tmp_path / "half.onnx", "generator_head")


def test_a_batch_norm_becomes_a_product_and_a_sum() -> None:
    rng = np.random.default_rng(0)
    weights = {f"norm.{name}": rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("weight", "bias", "mean", "variance")}
    model = small_model([helper.make_node("BatchNormalization", ["image", *weights], ["latent"], epsilon=1e-3)], weights)
    plain = prepared(model)
    assert [node.op_type for node in plain.graph.node] == ["Mul", "Add"]
    image = rng.standard_normal((1, 8, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(plain, image=image), run(model, image=image), atol=1e-6)


def test_weights_that_are_stored_in_half_and_cast_are_used_as_they_are() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float16)
    model = small_model(
        [
            helper.make_node("Cast", ["c.stored"], ["c.weight"], to=SINGLE),
            helper.make_node("Conv", ["image", "c.weight"], ["latent"], pads=[1, 1, 1, 1]),
        ],
        {"c.stored": weight},
    )
    half = to_half(model, "e4e")
    assert [node.op_type for node in half.graph.node] == ["Cast", "Conv", "Cast"]
    (tensor,) = half.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), weight)


def test_shapes_that_are_computed_from_scales_are_known() -> None:
    model = small_model(
        [helper.make_node("Resize", ["image", "", "scales"], ["wide"], mode="nearest"), helper.make_node("Relu", ["wide"], ["latent"])],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    assert infer_shapes(model)["wide"] == (1, 8, 8, 8)
    half = to_half(model, "e4e")
    assert {tensor.name: tensor.data_type for tensor in half.graph.initializer} == {"scales": SINGLE}


def test_a_shape_that_is_unknown_is_refused() -> None:
    model = small_model([helper.make_node("Mystery", ["image"], ["x"], domain="far"), helper.make_node("Relu", ["x"], ["latent"])], {})
    model.opset_import.append(helper.make_opsetid("far", 1))
    with pytest.raises(BundleError, match='^the shape of "x" cannot be inferred, so its type cannot be chosen; export the graph again$'):
        to_half(model, "e4e")


def test_a_weight_beyond_the_range_names_its_layer() -> None:
    weight = np.full((8, 8, 1, 1), 7e4, np.float32)
    model = small_model([helper.make_node("Conv", ["image", "body.conv.weight"], ["latent"])], {"body.conv.weight": weight})
    with pytest.raises(
        BundleError,
        match='^the weight "body.conv.weight" of the stage "e4e" reaches 7e[+]04, beyond float16; keep the layer '
        '"body.conv" in float32 in the precision policy$',
    ):
        to_half(model, "e4e")
    kept = replace(load_policy(), stages={"e4e": Rules(layers=("body.*",))})
    assert {tensor.data_type for tensor in to_half(model, "e4e", kept).graph.initializer} == {SINGLE}
    assert to_half(model, "e4e", "bf16")


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (Rules(), []),
        (Rules(operators=("Relu",)), ["Relu"]),
        (Rules(layers=("first",)), ["Conv", "Relu"]),
        (Rules(layers=("*",)), ["Conv", "Relu", "Conv"]),
        (Rules(channels=3), []),
        (Rules(channels=8), ["Conv", "Relu", "Conv"]),
        (Rules(size=3), []),
        (Rules(size=4), ["Conv", "Relu", "Conv"]),
        (Rules(axes=3), []),
        (Rules(axes=4), ["Conv", "Relu", "Conv"]),
    ],
)
def test_rules(rules: Rules, kept: list[str]) -> None:
    weight = np.ones((8, 8, 1, 1), np.float32)
    model = small_model(
        [
            helper.make_node("Conv", ["image", "first.weight"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "second.weight"], ["latent"]),
        ],
        {"first.weight": weight, "second.weight": weight},
    )
    half = to_half(model, "e4e", replace(load_policy(), stages={"e4e": rules}))
    types = infer_types(half)
    assert [node.op_type for node in half.graph.node if node.op_type != "Cast" and types[node.output[0]] == SINGLE] == kept


def test_another_form_reads_the_weights_that_are_there_already(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64, 3, 3)).astype(np.float32) for name in ("kept", "changed")}
    nodes = [
        helper.make_node("Conv", ["image", "kept"], ["middle"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["middle", "changed"], ["latent"], pads=[1, 1, 1, 1]),
    ]
    source = tmp_path / "stage.onnx"
    onnx.save(small_model(nodes, weights, (1, 64, 4, 4)), source, save_as_external_data=True, location="stage.onnx.data")

    def doubled(model: onnx.ModelProto, kept: object) -> onnx.ModelProto:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "changed"]
        tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), "changed"))
        return model

    (folder := tmp_path / "half").mkdir()
    assert write_half(source, folder / "plain.onnx", "e4e")
    assert write_half(source, folder / "form.onnx", "e4e", form=Form(doubled), others=[folder / "plain.onnx"])
    places = {
        tensor.name: {item.key: item.value for item in tensor.external_data}["location"]
        for tensor in onnx.load(folder / "form.onnx", load_external_data=False).graph.initializer
    }
    assert places == {"kept_float16": "plain.onnx.data", "changed_float16": "form.onnx.data"}
    image = rng.standard_normal((1, 64, 4, 4)).astype(np.float32)
    plain, form = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for name in ("plain.onnx", "form.onnx")
    )
    np.testing.assert_allclose(form, 2 * plain, rtol=2e-2, atol=2e-2 * plain.std())
    assert not write_half(source, folder / "none.onnx", "e4e", form=Form(lambda model, kept: None))
    assert not (folder / "none.onnx").exists()
