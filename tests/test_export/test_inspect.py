"""What a bundle's graphs are made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from sdic_export.graphs.fusion import fused
from sdic_export.graphs.sdic import stage_modules
from sdic_export.inspect import inspect_bundle, multiplications, work
from sdic_runtime.errors import BundleError
from sdic_runtime.files import sha256
from sdic_train.networks.sdic.model import SDIC


@pytest.fixture(scope="module")
def contents(built: Any) -> dict[str, Any]:
    return {item.graph: item for item in inspect_bundle(built.folder)[1] if item.variant == "fp32"}


def test_every_graph_is_listed_with_its_files_and_hashes(built: Any, contents: dict[str, Any]) -> None:
    stages = list(built.report.manifest.stages)
    assert list(contents) == [*stages[:2], "generator_head:rgb", *stages[2:], *built.report.manifest.parts]
    for item in contents.values():
        assert item.opset == 18 and set(item.weights) <= {"float", "int64"}
        assert item.sha256 == tuple(sha256(built.folder / name) for name in item.files)
        assert item.bytes == sum((built.folder / name).stat().st_size for name in item.files)
    assert contents["generator_head"].files == ("onnx/fp32/generator_head.onnx", "onnx/fp32/generator_head.onnx.data")
    assert contents["generator_head:rgb"].files == ("onnx/fp32/generator_head.rgb.onnx", "onnx/fp32/generator_head.onnx.data")
    assert 0 < contents["generator_head:rgb"].gmac < contents["generator_head"].gmac  # layer 7 is omitted


def test_parameters_are_those_of_the_module(contents: dict[str, Any], model: SDIC) -> None:
    module = fused(stage_modules(model)["dicn"])
    convolutions = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d))
    assert convolutions < contents["dicn"].parameters < 1.02 * convolutions


def test_operations_and_arithmetic_are_counted(contents: dict[str, Any], model: SDIC) -> None:
    counted = contents["dicn"]
    layers = [part for part in fused(stage_modules(model)["dicn"]).modules() if isinstance(part, nn.Conv1d | nn.Conv2d)]
    assert counted.operations["Conv"] == len(layers) == 13
    assert sum(counted.operations.values()) < 40
    positions = {nn.Conv2d: 64 * 64, nn.Conv1d: 16}  # every map of DICN has 64 x 64 pixels at this size, every sequence the style width
    by_hand = sum(layer.weight.numel() * positions[type(layer)] for layer in layers)
    assert counted.gmac == pytest.approx(by_hand / 1e9, rel=1e-6)


def test_transposed_convolutions_and_products_count_too(contents: dict[str, Any]) -> None:
    assert contents["generator_tail"].operations["ConvTranspose"] == 3
    # Convolutions at 64 (8 -> 8), upsampling from 64 (8 -> 8), at 128 (8 -> 8), without blur, RGB and styles.
    least = (64**2 * 64 * 9 + 64**2 * 64 * 9 + 128**2 * 64 * 9) / 1e9
    assert least < contents["generator_tail"].gmac < 1.4 * least


def test_programs_are_counted_by_the_graphs_that_answer_their_steps(contents: dict[str, Any]) -> None:
    assert contents["e4e"].runs == {"invert": 1}
    assert contents["generator_head"].runs == {"invert": 1, "edit": 1, "edit_released": 1, "baseline": 1}
    assert contents["generator_head:rgb"].runs == {"invert": 1, "edit": 1}
    assert contents["generator_tail"].runs == {"invert": 1, "edit": 1, "edit_released": 1, "baseline": 1}
    of_edit = sum(contents[graph].gmac for graph in ("generator_head", "generator_head:rgb", "generator_tail"))
    assert work(contents.values(), "fp32", "edit") == pytest.approx(of_edit)


def test_parts_of_stages_are_listed_behind_the_stages(built: Any, arranged: Any) -> None:
    for folder in (built.folder, arranged.folder):
        bundle, found = inspect_bundle(folder)
        parts = {(part, variant) for part, variants in bundle.manifest.part_graphs.items() for variant in variants}
        assert parts and {(item.graph, item.variant) for item in found[-len(parts) :]} == parts
        assert all(item.runs == {} and item.parameters for item in found[-len(parts) :])
    assert any(item.graph == "generator_tail" and item.runs for item in found)


def test_what_is_damaged_is_not_listed(built: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(built.folder, tmp_path / "bundle")
    (folder / "onnx/fp32/e4e.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"e4e\.onnx is damaged: it has 8 bytes instead of"):
        inspect_bundle(folder)


def test_cpu_optimized_graphs_are_listed_beside_the_standard_ones(arranged: Any) -> None:
    found = [item for item in inspect_bundle(arranged.folder)[1] if item.graph.split(":")[0] in ("generator_head", "dicn")]
    graphs, variants = ("generator_head", "generator_head:rgb", "dicn"), ("fp32", "onnxruntime-cpu", "openvino")
    assert [(item.graph, item.variant) for item in found] == [(graph, variant) for graph in graphs for variant in variants]
    for own, cpu, openvino in zip(found[::3], found[1::3], found[2::3], strict=True):
        stage, colon, output = own.graph.partition(":")
        assert openvino.files == (cpu.files if stage == "generator_head" else ("onnx/fp32/dicn.openvino.onnx",))
        shared = ("onnx/fp32/generator_head.onnx.data",) if stage == "generator_head" else ()
        assert cpu.files == (f"onnx/fp32/{stage}.cpu{colon and '.'}{output}.onnx", *shared)
        assert cpu.sha256 == tuple(sha256(arranged.folder / name) for name in cpu.files)
        assert cpu.gmac == pytest.approx(own.gmac, rel=1e-6) and own.parameters <= cpu.parameters <= own.parameters + 8
        assert cpu.operations.get("Add", 0) > own.operations.get("Add", 0)


def test_matrix_products_count_as_convolutions_do(tmp_path: Path) -> None:
    """A 3 x 3 convolution of 8 channels at 64 x 64 as a matrix product per tile: fewer multiplications, and counted."""
    from onnx import TensorProto, helper, numpy_helper, save

    tiles = numpy_helper.from_array(np.ones((16, 8, 8), np.float32), "tiles")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "tiles"], ["y"])],
        "tile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, 1024, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 1024, 8])],
        [tiles],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "tile.onnx")
    assert multiplications(tmp_path / "tile.onnx") == 16 * 1024 * 64


def test_bands_are_summed_up(in_bands: Any) -> None:
    own, cpu = (item for item in inspect_bundle(in_bands.folder)[1] if item.graph == "generator_tail")
    graphs = [f"onnx/fp32/generator_tail.cpu.{band}.onnx" for band in (0, 1)]
    assert cpu.variant == "onnxruntime-cpu" and [name for name in cpu.files if name.endswith(".onnx")] == graphs
    assert cpu.sha256 == tuple(sha256(in_bands.folder / name) for name in cpu.files)
    assert cpu.bytes == sum((in_bands.folder / name).stat().st_size for name in cpu.files)
    assert cpu.operations["Conv"] == 2 * own.operations["Conv"] and cpu.gmac == pytest.approx(2 * own.gmac, rel=1e-6)
    assert own.parameters <= cpu.parameters < 1.1 * own.parameters  # the bands read the same weights
