"""The graphs of the tiny bundle, and the rules by which weights are stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from exported_once import EXPORTED

from sdic_export.graphs import exporter
from sdic_export.graphs.exporter import export_stage, export_variant, save_graph, weights_of
from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import stage_modules
from sdic_train.config import TINY
from sdic_train.methods import METHODS
from sdic_train.methods.trace import method_of
from sdic_train.networks.sdic.model import SDIC

METHOD = method_of(METHODS["sdic"], TINY)
STAGES = METHOD.stages
JUNK = {"Identity", "Cast", "Shape", "Constant", "Dropout", "If", "Loop", "Tile", "Expand"}


@pytest.fixture(params=list(STAGES))
def graph(request: pytest.FixtureRequest, built: Any) -> tuple[str, onnx.GraphProto]:
    return request.param, onnx.load(str(built.folder / f"onnx/fp32/{request.param}.onnx")).graph


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]


def test_tensors_are_those_of_the_stage_table(graph: tuple[str, onnx.GraphProto]) -> None:
    name, contents = graph
    for names, values in ((STAGES[name].inputs, contents.input), (STAGES[name].outputs, contents.output)):
        assert [value.name for value in values] == list(names)
        for value in values:
            assert axes(value) == ["N", *METHOD.shape(value.name, 1)[1:]]
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_graphs_hold_nothing_but_arithmetic(graph: tuple[str, onnx.GraphProto]) -> None:
    _, contents = graph
    assert not JUNK & {node.op_type for node in contents.node}
    assert {node.domain for node in contents.node} == {""}


def test_no_batch_norm_is_left_behind_a_convolution(graph: tuple[str, onnx.GraphProto]) -> None:
    _, contents = graph
    makers = {output: node.op_type for node in contents.node for output in node.output}
    behind = [makers.get(node.input[0]) for node in contents.node if node.op_type == "BatchNormalization"]
    assert not {"Conv", "ConvTranspose"} & set(behind)


def test_every_weight_is_used(graph: tuple[str, onnx.GraphProto]) -> None:
    _, contents = graph
    used = {name for node in contents.node for name in node.input}
    assert {tensor.name for tensor in contents.initializer} <= used


def test_files_do_not_tell_where_they_were_made(built: Any) -> None:
    for path in built.folder.rglob("*.onnx"):
        proto = onnx.load(str(path), load_external_data=False)
        assert not proto.metadata_props and not proto.doc_string and proto.producer_name == "sdic"
        assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
        assert str(Path(exporter.__file__).parent).encode() not in path.read_bytes()


def loaded(built: Any, rounded: bool = False) -> ir.Model:
    """The graph of DICN, its weights rounded to what float16 holds if asked for."""
    model = ir.load(built.folder / "onnx/fp32/dicn.onnx")
    for value in model.graph.initializers.values() if rounded else ():
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            value.const_value = ir.tensor(array.astype(np.float16).astype(np.float32), name=value.name)
    return model


def weights(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(str(path)).graph
    return {tensor.name.removesuffix("_half"): onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_the_same_model_gives_the_same_bytes(model: SDIC, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exported", EXPORTED)  # not what is remembered of `built`
    export_stage(fused(stage_modules(model)["dicn"]), STAGES["dicn"], METHOD, tmp_path / "dicn.onnx")
    assert (tmp_path / "dicn.onnx").read_bytes() == (built.folder / "onnx/fp32/dicn.onnx").read_bytes()


def test_large_weights_go_to_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Any) -> None:
    monkeypatch.setattr(exporter, "EXTERNAL_FROM", 100_000)
    save_graph(loaded(built), tmp_path / "dicn.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicn.onnx", "dicn.onnx.data"]
    assert (tmp_path / "dicn.onnx").stat().st_size < 60_000
    apart, whole = weights(tmp_path / "dicn.onnx"), weights(built.folder / "onnx/fp32/dicn.onnx")
    assert list(apart) == list(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(apart[name], array)


def test_half_storage_loses_nothing_and_halves_the_file(built: Any, tmp_path: Path) -> None:
    save_graph(loaded(built, rounded=True), tmp_path / "single.onnx")
    save_graph(loaded(built, rounded=True), tmp_path / "half.onnx", half_storage=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * (tmp_path / "single.onnx").stat().st_size
    graph = onnx.load(str(tmp_path / "half.onnx")).graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert halves and {node.input[0] for node in casts} == halves
    assert all(attribute.i == onnx.TensorProto.FLOAT for node in casts for attribute in node.attribute)
    single, half = weights(tmp_path / "single.onnx"), weights(tmp_path / "half.onnx")
    assert set(half) == set(single)
    for name, array in single.items():
        np.testing.assert_array_equal(half[name].astype(array.dtype), array)


def test_weights_that_float16_cannot_hold_stay_as_they_are(built: Any, tmp_path: Path) -> None:
    save_graph(loaded(built), tmp_path / "dicn.onnx", half_storage=True)  # not rounded before
    graph = onnx.load(str(tmp_path / "dicn.onnx")).graph
    assert {tensor.data_type for tensor in graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_the_graph_of_one_output_shares_the_weights_of_its_stage(built: Any) -> None:
    folder = built.folder / "onnx/fp32"
    whole, part = (onnx.load(str(folder / name), load_external_data=False) for name in ("generator_head.onnx", "generator_head.rgb.onnx"))
    assert [value.name for value in part.graph.output] == ["rgb"]
    assert len(part.graph.node) < len(whole.graph.node)
    places = {entry.value for tensor in part.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    assert places == {"generator_head.onnx.data"}
    assert (folder / "generator_head.rgb.onnx").stat().st_size < (folder / "generator_head.onnx.data").stat().st_size


def places(path: Path) -> dict[str, str]:
    """Tensor -> the file that holds it, "" for the graph itself."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return {tensor.name: "".join(entry.value for entry in tensor.external_data if entry.key == "location") for tensor in graph.initializer}


class ShuffledHead(torch.nn.Module):
    """The head with one large weight of its own, its parts under other names."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.inner = head
        self.register_buffer("extra", torch.ones(1, 12, 16, 32) / 32)

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature, rgb = self.inner((latent[..., None] * self.extra).sum(-1))
        return feature, rgb


@pytest.mark.parametrize("large", [False, True])
def test_a_variant_shares_the_external_weights_that_it_has_in_common(
    large: bool, built: Any, model: SDIC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "generator_head.onnx"
    for path in (built.folder / "onnx/fp32").glob("generator_head.onnx*"):
        shutil.copy(path, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(exporter, "EXTERNAL_FROM", 10_000 if large else 10_000_000)
    path = tmp_path / "generator_head.cpu.onnx"
    export_variant(ShuffledHead(fused(stage_modules(model)["generator_head"])), STAGES["generator_head"], METHOD, path, [own])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    found, shared = places(path), [name for name, place in places(own).items() if place]
    assert list(found.values()).count("generator_head.onnx.data") == len(shared)
    assert found["extra"] == ("generator_head.cpu.onnx.data" if large else "")
    assert path.with_name("generator_head.cpu.onnx.data").exists() == large
    assert weights_of(tmp_path, [path.name]) == {path.name: tuple(sorted({place for place in found.values() if place}))}
    latent = np.random.default_rng(0).standard_normal((2, 12, 16)).astype(np.float32)
    want, got = (
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"latent": latent}) for file in (own, path)
    )
    for value, reference in zip(got, want, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-4 * float(reference.std()))


def test_graphs_become_tensorrt_rtx_engines_without_a_gpu(graph: tuple[str, onnx.GraphProto], built: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    name, _ = graph
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse_from_file(str(built.folder / f"onnx/fp32/{name}.onnx"))
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = list(tensor.shape)[1:]
        assert tensor.shape[0] == -1 and all(size > 0 for size in shape)
        profile.set_shape(tensor.name, [1, *shape], [1, *shape], [4, *shape])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_warnings_are_let_through_again_after_an_export() -> None:
    import logging

    before = logging.root.manager.disable
    with exporter.quiet():
        assert not logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
    assert logging.root.manager.disable == before
