"""Half precision by a policy, and its check: what stays float32, what overflows, and what the sentences say."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sdic_export.golden import Chain, example_direction, run_all, smooth_pictures
from sdic_export.graphs.exporter import export_stage
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import stage_modules
from sdic_export.half.check import LayerRange, StageCheck, as_rounding_graph, judge_chain, judge_stage, measure_stage, session
from sdic_export.half.precision import Limits, Policy, Rules, load_policy, policy_names, to_half, write_half
from sdic_export.half.stages import RoundedStages, add_precision
from sdic_export.half.typed_graph import infer_shapes, prepared
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, graph_keys
from sdic_runtime.errors import ArgumentError, BundleError, FileError
from sdic_runtime.tools.compare import Difference
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import StyledConv

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
METHOD = method_of(METHODS["sdic"], TINY)
STAGES = METHOD.stages


@pytest.fixture(scope="module")
def chain(built: Any) -> Chain:
    """Everything that the programs compute in float32 for two pictures."""
    return run_all(OnnxRuntime(Bundle.open(built.folder), "fp32", 1), smooth_pictures(64), example_direction(METHOD.sizes))


@pytest.fixture(scope="module")
def halves(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages in half precision."""
    folder = tmp_path_factory.mktemp("halves")
    for name in STAGES:
        write_half(single(built, name), folder / f"{name}.onnx", name)
    return folder


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


# policies -----------------------------------------------------------------------------------------------------------------------------


def test_the_policies_that_come_with_it() -> None:
    assert policy_names() == ["bf16", "fp16"]
    policy = load_policy("fp16")
    assert (policy.name, policy.type) == ("fp16", "float16")
    assert policy.limits.chain >= 50
    assert "Sqrt" in policy.rules("e4e").operators
    assert load_policy(policy) is policy


def test_rules_of_a_stage_join_those_of_every_stage() -> None:
    policy = Policy("made", "float16", Limits(1, 1, 1), {"every": Rules(axes=2, operators=("Pow",)), "dicn": Rules(size=8, layers=("a",))})
    assert policy.rules("dicn") == Rules(2, 0, 8, ("Pow",), ("a",))
    assert policy.rules("dipn") == Rules(2, 0, 0, ("Pow",), ())
    assert policy.without_rules().rules("dicn") == Rules()


LIMITS = "[limits]\nstage = 50\nchain = 50\nlargest = 0.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type = ", "cannot read the precision policy"),
        (LIMITS, "type is None, expected float16 or bfloat16"),
        ('type = "int8"\n' + LIMITS, "type is 'int8'"),
        ('type = "float16"', r"\[limits\] is None, expected numbers for stage, chain, largest"),
        ('type = "float16"\n[limits]\nstage = 50', r"\[limits\] is"),
        ('type = "float16"\n' + LIMITS + "[dicn]\nshape = 2", r'\[dicn\] has the unknown rule "shape", and the rules are axes, channels'),
        ('type = "float16"\n' + LIMITS + "[dicn]\naxes = -1", r"\[dicn\] axes is -1, expected a whole number"),
        ('type = "float16"\n' + LIMITS + '[dicn]\nlayers = "a"', r"\[dicn\] layers is 'a', expected a list of names"),
    ],
)
def test_a_policy_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        load_policy(path)


def test_an_unknown_policy_and_an_unknown_stage() -> None:
    with pytest.raises(ArgumentError, match='^there is no precision policy "fp8"; use bf16 or fp16, or name a TOML file$'):
        load_policy("fp8")
    policy = Policy("mine", "float16", Limits(1, 1, 1), {"every": Rules(), "dicn": Rules()})
    assert policy.check(STAGES) is policy
    with pytest.raises(ArgumentError, match='^the precision policy "mine" has rules for the stage "dicn", and the stages are every, a, b$'):
        policy.check(("a", "b"))


# the check ----------------------------------------------------------------------------------------------------------------------------


def test_every_stage_passes_and_its_layers_are_measured(built: Any, halves: Path, chain: Chain) -> None:
    for name, stage in STAGES.items():
        check = judge_stage(measure_stage(single(built, name), halves / f"{name}.onnx", name, chain.examples[name].inputs, threads=1))
        assert check.psnr > 60
        assert {item.tensor for item in check.differences} == set(stage.outputs)
        assert sum(item.half for item in check.layers) > len(check.layers) / 4
        assert all(0 <= item.noise < 0.02 for item in check.layers if item.half)
        assert check.largest.largest == pytest.approx(check.largest.reference, rel=0.01)


def test_the_measured_range_and_difference_are_those_of_the_arrays(built: Any, halves: Path, chain: Chain) -> None:
    inputs, expected = chain.examples["dicn"].inputs, chain.values["residual"]
    check = measure_stage(single(built, "dicn"), halves / "dicn.onnx", "dicn", inputs, threads=1)
    (residual,) = (item for item in check.layers if item.tensor == "residual")
    assert residual.half
    assert residual.reference == pytest.approx(np.abs(expected).max(), rel=1e-5)
    backend = RoundedStages(METHOD, {"dicn": halves / "dicn.onnx"}, "float16", 1)
    rounded = backend.run("dicn", inputs, ["residual"])["residual"]
    error = np.sqrt(np.mean((rounded - expected) ** 2) / np.mean(expected**2))
    assert residual.noise == pytest.approx(error, rel=0.05)  # the mean over two pictures is taken at the worse one
    assert rounded.astype(np.float16).astype(np.float32) == pytest.approx(rounded, abs=0)


def test_rounding_shows_an_overflow_that_onnxruntime_hides() -> None:
    """ONNX Runtime computes products in float32 and drops the rounding in between: 1000 * 1000 / 1000 comes out finite."""
    nodes = [
        helper.make_node("Cast", ["image"], ["a"], to=HALF),
        helper.make_node("Mul", ["a", "big"], ["b"]),
        helper.make_node("Mul", ["b", "small"], ["c"]),
        helper.make_node("Cast", ["c"], ["latent"], to=SINGLE),
    ]
    model = small_model(nodes, {"big": np.array([1000], np.float16), "small": np.array([0.001], np.float16)}, (4,))
    image = np.array([1, 50, 100, 1000], np.float32)
    result = session(as_rounding_graph(model), Path("."), 1).run(None, {"image": image})[0]
    assert np.isfinite(result).tolist() == [True, True, False, False]
    np.testing.assert_allclose(result[:2], [1, 50], rtol=2e-3)


def scaled(model: SDIC, factor: float) -> SDIC:
    """The model with the weights of every demodulated convolution of the generator multiplied by `factor`: the same function."""
    result = copy.deepcopy(model)
    for part in result.generator.modules():
        if isinstance(part, StyledConv):
            part.conv.weight.data *= factor
    return result


def exported(model: SDIC, stage: str, path: Path) -> Path:
    export_stage(fused(stage_modules(model)[stage]), STAGES[stage], METHOD, path)
    return path


def random_inputs(stage: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(METHOD.shape(name, 1)).astype(np.float32) for name in STAGES[stage].inputs}


def test_weights_scaled_by_eight_per_layer_change_nothing(built: Any, halves: Path, model: SDIC, tmp_path: Path) -> None:
    stage, inputs = "generator_tail", random_inputs("generator_tail")
    path = exported(scaled(model, 8), stage, tmp_path / "single.onnx")
    write_half(path, tmp_path / "half.onnx", stage)
    pairs = ((single(built, stage), halves / f"{stage}.onnx"), (path, tmp_path / "half.onnx"))
    checks = [judge_stage(measure_stage(*pair, stage, inputs, threads=1)) for pair in pairs]
    assert checks[1].largest.largest == pytest.approx(checks[0].largest.largest, rel=0.01)
    assert checks[1].psnr == pytest.approx(checks[0].psnr, abs=1)


def test_without_the_policy_the_check_fails_and_names_the_layer(model: SDIC, tmp_path: Path) -> None:
    """Small weights, which demodulation makes up for: the constants of the demodulation leave the range of float16."""
    stage, inputs = "generator_tail", random_inputs("generator_tail")
    path = exported(scaled(model, 2.0**-10), stage, tmp_path / "single.onnx")
    write_half(path, tmp_path / "policy.onnx", stage)
    judge_stage(measure_stage(path, tmp_path / "policy.onnx", stage, inputs, threads=1))
    write_half(path, tmp_path / "naive.onnx", stage, load_policy().without_rules())
    naive = measure_stage(path, tmp_path / "naive.onnx", stage, inputs, threads=1)
    overflow = (
        r'^the stage "generator_tail" overflows in fp16: the layer "conv.modulation" \((Reciprocal|Pow)\) reaches .* in float32; '
        r'keep it in float32 with layers = \["conv.modulation"\] under \[generator_tail\]'
    )
    with pytest.raises(BundleError, match=overflow):
        judge_stage(naive)


def test_bfloat16_is_checked_too(built: Any, chain: Chain, tmp_path: Path) -> None:
    for name in ("dicn", "generator_tail"):
        write_half(single(built, name), tmp_path / f"{name}.onnx", name, "bf16")
        onnx.checker.check_model(onnx.load(tmp_path / f"{name}.onnx"), full_check=True)
        check = measure_stage(single(built, name), tmp_path / f"{name}.onnx", name, chain.examples[name].inputs, "bf16", 1)
        assert 35 < judge_stage(check, "bf16").psnr < 75


def found(psnr: float, largest: float = 1.0, noise: tuple[float, ...] = (0.001, 0.5)) -> StageCheck:
    layers = (
        LayerRange("a.conv", "Conv", "t1", True, largest, 2.0, noise[0]),
        LayerRange("b", "Add", "t2", True, 1.0, 1.0, noise[1], ("t1",)),
    )
    return StageCheck("dipn", "fp16", (Difference("dipn", "discrepancy", 1, 1, psnr, 1), Difference("dipn", "other", 1, 1, 90, 1)), layers)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            found(49.9),
            r'^"discrepancy" of the stage "dipn" has 49.9 dB in fp16, and 50 dB is asked for; most noise comes from the layer "b" '
            r'\(Add\): keep it in float32 with layers = \["b"\] under \[dipn\] in a precision policy$',
        ),
        (found(math.nan), '"discrepancy" of the stage "dipn" has nan dB'),
        (found(90, math.inf), r'^the stage "dipn" overflows in fp16: the layer "a.conv" \(Conv\) reaches 2 in float32; keep it'),
        (found(90, math.nan), '^the stage "dipn" overflows in fp16'),
        (
            found(90, 20000.0),
            r'^the stage "dipn" comes too near to the largest float16: the layer "a.conv" \(Conv\) reaches 2e[+]04 and 1.64',
        ),
    ],
)
def test_what_a_failed_check_says(check: StageCheck, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        judge_stage(check)


def test_noise_is_blamed_on_the_layer_that_adds_it() -> None:
    assert found(90, noise=(0.3, 0.31)).noisiest.layer == "a.conv"
    assert found(90, noise=(0.001, 0.31)).noisiest.layer == "b"


def test_the_chain_has_a_limit_of_its_own() -> None:
    good, bad = Difference("tail", "picture", 1, 1, 60, 1), Difference("tail", "edited.paper.picture", 1, 1, 42.25, 1)
    assert judge_chain([good]) is good
    with pytest.raises(BundleError, match='^"edited.paper.picture" of the whole chain has 42.2 dB in fp16, and 50 dB is asked for, though'):
        judge_chain([good, bad])


# the bundle ---------------------------------------------------------------------------------------------------------------------------


def test_a_bundle_gets_its_second_precision_without_a_checkpoint(arranged: Any, chain: Chain, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(arranged.folder, tmp_path / "bundle"))
    before = Bundle.open(folder).manifest
    made = add_precision(folder, "fp16")
    bundle = Bundle.open(folder)
    bundle.check()
    assert bundle.manifest.precisions == ["fp16", "fp32"]
    assert bundle.manifest.identity == before.identity
    assert graph_keys(bundle.manifest, ONNXRUNTIME_CPU) == graph_keys(before, ONNXRUNTIME_CPU) != []
    head = {form: (f"onnx/fp16/generator_head{form}.onnx.data",) for form in ("", ".cuda")}
    own = {f"onnx/fp16/generator_head{alone}{form}.onnx": files for form, files in head.items() for alone in ("", ".rgb")}
    assert bundle.manifest.weights == {**before.weights, **own}
    for_cuda = graph_keys(bundle.manifest, ONNXRUNTIME_CUDA)
    assert for_cuda == [key for key in graph_keys(bundle.manifest, "fp16") if key != "dipn"]  # over volumes channels last does not pay
    assert bundle.manifest.graphs["dicn"][ONNXRUNTIME_CUDA] == bundle.manifest.graphs["dicn"]["fp16"]  # nothing to rearrange
    assert {name for name in bundle.manifest.files if name not in before.files} == {
        *(f"onnx/fp16/{name}.onnx" for name in STAGES),
        *(f"onnx/fp16/{name}.cuda.onnx" for name in STAGES if name.startswith("generator")),
        *own,
        *(file for files in head.values() for file in files),
    }
    assert bundle.manifest.psnr["fp16"] == round(made.picture.psnr, 2)
    assert bundle.manifest.graphs["dipn"]["fp16"] == ("onnx/fp16/dipn.onnx",)
    assert made.picture.psnr > 55
    worst = max(item.ratio for item in made.chain)
    assert 2 * worst <= bundle.manifest.tolerances["fp16"] < 2.3 * worst
    backend = OnnxRuntime(bundle, "fp16", 1)
    close = backend.run("generator_head", {"latent": chain.values["latent"]}, ["rgb"])["rgb"]  # by its own graph
    np.testing.assert_allclose(close, chain.values["rgb"], atol=0.02 * chain.values["rgb"].std())
    with pytest.raises(BundleError, match=f"^{folder} already has fp16 graphs in .*; build the bundle again to replace them$"):
        add_precision(folder, "fp16")


def test_a_failed_check_leaves_the_bundle_as_it_was(built: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "bundle"))
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    strict = replace(load_policy(), limits=Limits(200, 200, 0.25))
    with pytest.raises(BundleError, match='^"latent" of the stage "e4e" has .* dB in fp16, and 200 dB is asked for; most noise comes from'):
        add_precision(folder, strict)
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
