"""The check of half precision: what overflows, what the sentences say, and what becomes of the bundle."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from half_graphs import HALF, METHOD, SINGLE, STAGES, single, small_model
from onnx import helper, numpy_helper

from sdic_export.golden import Chain
from sdic_export.graphs.exporter import export_stage, save_graph
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import stage_modules
from sdic_export.half.check import LayerRange, StageCheck, as_rounding_graph, judge_chain, judge_stage, measure_stage, session
from sdic_export.half.precision import Limits, load_policy, write_half
from sdic_export.half.stages import RoundedStages, add_precision
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, graph_keys
from sdic_runtime.errors import BundleError
from sdic_runtime.tools.compare import Difference
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import StyledConv

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


def test_an_overflow_in_what_only_the_half_graph_has_is_seen(tmp_path: Path) -> None:
    """Graphs for CUDA have tensors that the float32 graph lacks; here one of them is divided again before anything is compared."""
    weights = {"a.up": np.full((1,), 4e4, np.float32), "a.down": np.full((1,), 1 / 4e4, np.float32)}
    plain = small_model([helper.make_node("Identity", ["image"], ["latent"], "latent")], {})
    scaled = [helper.make_node("Mul", ["image", "a.up"], ["up"], "up"), helper.make_node("Mul", ["up", "a.down"], ["latent"], "latent")]
    onnx.save(plain, str(tmp_path / "single.onnx"))
    onnx.save(small_model(scaled, weights), str(tmp_path / "scaled.onnx"))
    write_half(tmp_path / "scaled.onnx", tmp_path / "half.onnx", "e4e")
    inputs = {"image": np.linspace(-3, 3, 128, dtype=np.float32).reshape(1, 8, 4, 4)}
    check = measure_stage(tmp_path / "single.onnx", tmp_path / "half.onnx", "e4e", inputs, threads=1)
    (own,) = (item for item in check.layers if item.tensor == "up_float16" or item.tensor == "up")
    assert own.half and own.largest == math.inf and math.isnan(own.reference) and own.noise == 0
    with pytest.raises(BundleError, match=r'overflows in fp16: the layer "a" \(Mul\); keep it'):
        judge_stage(check)


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


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_bfloat16_is_checked_too(stored: str, built: Any, chain: Chain, tmp_path: Path) -> None:
    for name in ("dicn", "generator_tail"):
        source = single(built, name) if stored == "float32" else stored_in_half(single(built, name), tmp_path / f"{name}.stored.onnx")
        write_half(source, tmp_path / f"{name}.onnx", name, "bf16")
        onnx.checker.check_model(onnx.load(tmp_path / f"{name}.onnx"), full_check=True)
        check = measure_stage(source, tmp_path / f"{name}.onnx", name, chain.examples[name].inputs, "bf16", 1)
        assert 35 < judge_stage(check, "bf16").psnr < 75


def stored_in_half(source: Path, path: Path) -> Path:
    """The graph of a bundle that was built with `--weights float16`."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == SINGLE:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    save_graph(ir.from_proto(model), path, half_storage=True)
    assert HALF in {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    return path


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
    check = found(90, noise=(0.3, 0.31))
    between = LayerRange("own", "Mul", "own", True, 1.0, math.nan, 0.0, ("t1",))  # has nothing to be compared with
    layers = (check.layers[0], between, replace(check.layers[1], inputs=("own",)))
    assert replace(check, layers=layers).noisiest.layer == "a.conv"


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
    files = [f"onnx/fp16/generator_head{form}.onnx.data" for form in ("", ".cuda")]
    head = {"": (files[0],), ".cuda": (files[1], files[0])}  # what stays the same is stored once
    own = {f"onnx/fp16/generator_head{alone}{form}.onnx": files for form, files in head.items() for alone in ("", ".rgb")}
    assert bundle.manifest.weights == {**before.weights, **own}
    for_cuda = graph_keys(bundle.manifest, ONNXRUNTIME_CUDA)
    assert for_cuda == graph_keys(bundle.manifest, "fp16")
    assert {name for name in bundle.manifest.files if name not in before.files} == {
        *(f"onnx/fp16/{name}.onnx" for name in STAGES),
        *(f"onnx/fp16/{name}.cuda.onnx" for name in STAGES),
        *own,
        *files,
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
