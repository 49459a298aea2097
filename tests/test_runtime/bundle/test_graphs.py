"""Which file answers: for a stage, the outputs asked for, and the variants that a backend runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, Graph, files_in, files_of, graph_for, graph_keys
from sdic_runtime.bundle.manifest import Manifest

GRAPHS: dict[str, dict[str, tuple[str, ...]]] = {
    "generator_head:rgb": {"fp32": ("rgb.onnx",), ONNXRUNTIME_CPU: ("rgb.cpu.onnx",)},
    "generator_head": {"fp32": ("head.onnx",), "fp16": ("half.onnx",)},
    "dicn:residual": {"fp16": ("residual.half.onnx",)},
    "dicn": {"fp32": ("dicn.onnx",), ONNXRUNTIME_CPU: ("band.0.onnx", "band.1.onnx")},
}
WEIGHTS = {"head.onnx": ("head.data",), "rgb.onnx": ("head.data",), "rgb.cpu.onnx": ("rgb.data", "head.data")}


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return msgspec.structs.replace(Bundle.open(tiny_bundle).manifest, graphs=GRAPHS, weights=WEIGHTS)


BEST = (ONNXRUNTIME_CPU, "fp32")


@pytest.mark.parametrize(
    ("stage", "outputs", "variants", "expected"),
    [
        ("generator_head", ["feature", "rgb"], BEST, Graph("generator_head", "fp32", ("head.onnx",))),
        ("generator_head", ["feature"], BEST, Graph("generator_head", "fp32", ("head.onnx",))),
        ("generator_head", ["rgb"], BEST, Graph("generator_head:rgb", ONNXRUNTIME_CPU, ("rgb.cpu.onnx",))),
        ("generator_head", ["rgb"], ["fp32"], Graph("generator_head:rgb", "fp32", ("rgb.onnx",))),
        ("generator_head", ["rgb"], ["fp16"], Graph("generator_head", "fp16", ("half.onnx",))),
        ("generator_head", ["rgb"], ["fp16", "fp32"], Graph("generator_head:rgb", "fp32", ("rgb.onnx",))),
        ("dicn", ["residual"], BEST, Graph("dicn", ONNXRUNTIME_CPU, ("band.0.onnx", "band.1.onnx"))),
        ("dicn", ["latent_enhanced", "residual"], ["fp32"], Graph("dicn", "fp32", ("dicn.onnx",))),
        ("dicn", ["residual"], ["fp16"], Graph("dicn:residual", "fp16", ("residual.half.onnx",))),
    ],
)
def test_one_output_alone_comes_first_then_the_first_variant(
    manifest: Manifest, stage: str, outputs: list[str], variants: Any, expected: Graph
) -> None:
    assert graph_for(manifest, stage, outputs, variants) == expected
    assert expected.alone == expected.key.partition(":")[2]


def test_a_graph_that_is_not_there_is_a_key_error(manifest: Manifest) -> None:
    with pytest.raises(KeyError, match='no graph of the stage "dicn" in fp16'):
        graph_for(manifest, "dicn", ["latent_enhanced"], ["fp16"])


def test_keys_of_a_variant_have_stages_first(manifest: Manifest) -> None:
    assert graph_keys(manifest, "fp32") == ["generator_head", "dicn", "generator_head:rgb"]
    assert graph_keys(manifest, ONNXRUNTIME_CPU) == ["dicn", "generator_head:rgb"]
    assert graph_keys(manifest, "bf16") == []


def test_files_of_graphs_bring_their_weights_once(manifest: Manifest) -> None:
    assert files_of(manifest, ["rgb.cpu.onnx", "head.onnx"]) == ["rgb.cpu.onnx", "rgb.data", "head.data", "head.onnx"]
    assert files_of(manifest, []) == []


def test_files_in_are_those_of_the_first_variant_of_each_graph(manifest: Manifest) -> None:
    shared = {"head.onnx", "head.data"}
    assert set(files_in(manifest, BEST)) == {"rgb.cpu.onnx", "rgb.data", *shared, "band.0.onnx", "band.1.onnx"}
    assert set(files_in(manifest, ["fp32"])) == {"rgb.onnx", *shared, "dicn.onnx"}
    assert set(files_in(manifest, ["fp16"])) == {"half.onnx", "residual.half.onnx"}
    assert len(files_in(manifest, BEST)) == len(set(files_in(manifest, BEST)))
