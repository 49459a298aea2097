"""Bundles of schema 1, which knew one method, open as what they were."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime import Bundle, BundleError, GanSpaceEdit, Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.bundle.manifest import Manifest, parse_manifest

FIRST = Path(__file__).parents[2] / "data/schema1/bundle.json"  # that of the demo bundle before schema 2
IDENTITY = "fe35eeb4ccacd2f41489201430d6a2dd1a504e0e461885f0637dca516c842445"  # as the program of that time computed it


@pytest.fixture
def data() -> dict[str, Any]:
    return json.loads(FIRST.read_text())


def parsed(data: dict[str, Any]) -> Manifest:
    return parse_manifest(json.dumps(data).encode())


def test_the_demo_of_schema_1_gives_the_same_bits(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "first"))
    shutil.copy(FIRST, folder)
    first, second = (Pipeline.load(path, "onnxruntime", threads=1) for path in (folder, None))
    assert first.bundle.manifest.identity == second.bundle.manifest.identity == IDENTITY
    first.bundle.check()
    picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    inversion, want = first.invert(picture), second.invert(picture)
    assert list(inversion.tensors) == list(want.tensors)
    for name in want.tensors:
        np.testing.assert_array_equal(getattr(inversion, name), getattr(want, name), err_msg=name)
    assert list(first.directions) == list(second.directions) and len(first.directions) == 9
    edits = [GanSpaceEdit(second.directions[name], 0, 0, 4, 1.5) if name == "ganspace" else name for name in second.directions]
    for edit in edits:
        for eq6 in ("paper", "released"):
            got, expected = (part.edit(want, edit, 1.5, eq6=eq6) for part in (first, second))
            np.testing.assert_array_equal(got.pixels, expected.pixels)
    np.testing.assert_array_equal(first.baseline(inversion).pixels, second.baseline(want).pixels)


def test_the_demo_of_schema_1_is_the_demo(data: dict[str, Any]) -> None:
    first, second = parsed(data), Bundle.open().manifest
    later = ("rows", "cuts", "part_graphs", "tensors")  # what edits skip came after schema 1
    other = ("files", "weights", "tools", "psnr", "tolerances")
    assert {**second.tensors, **first.tensors} == second.tensors and set(second.tensors) - set(first.tensors) == {"feature_64"}
    for name in (field for field in Manifest.__struct_fields__ if field not in (*later, *other)):
        assert getattr(first, name) == getattr(second, name), name
    assert first.tolerances == {"fp32": second.tolerances["fp32"]} and not first.psnr, "bf16 was measured later"
    shared = ("onnx/fp32/generator_head.onnx.data",)
    assert {name: files for name, files in first.weights.items() if files} == second.weights
    assert second.weights == dict.fromkeys(("onnx/fp32/generator_head.onnx", "onnx/fp32/generator_head.rgb.onnx"), shared)


def with_files(data: dict[str, Any], *names: str, **changes: Any) -> Manifest:
    entry = {"sha256": "1" * 64, "bytes": 1}
    changed = {**copy.deepcopy(data), **changes}
    return parsed({**changed, "files": {**changed["files"], **dict.fromkeys(names, entry)}})


def test_cpu_graphs_bands_and_weights_are_found_by_their_names(data: dict[str, Any]) -> None:
    """Weights that a graph may read: its own, those of the stage's graph in its precision, and those of the stage's CPU graph."""
    head, rgb, bands = "onnx/fp32/generator_head.cpu.onnx", "onnx/fp32/generator_head.cpu.rgb.onnx", ["dicn.cpu.1.onnx", "dicn.cpu.0.onnx"]
    weights = ["dicn.cpu.0.onnx.data", "onnx/fp32/dicn.onnx.data", f"{head}.data", f"{rgb}.data"]
    half = {stage: {**files, "fp16": f"onnx/fp16/{stage}.onnx"} for stage, files in data["stages"].items()}
    names = [*bands, head, rgb, *weights, *(files["fp16"] for files in half.values()), "onnx/fp16/dicn.onnx.data"]
    cpu = {"generator_head": [head], "generator_head:rgb": [rgb], "dicn": bands}
    manifest = with_files(data, *names, cpu=cpu, stages=half)
    assert manifest.identity != IDENTITY, "the weights of dicn belong to the model"
    assert manifest.precisions == ["fp16", "fp32"]
    assert manifest.graphs["dicn"] == {"fp32": ("onnx/fp32/dicn.onnx",), "fp16": ("onnx/fp16/dicn.onnx",), "onnxruntime-cpu": tuple(bands)}
    assert manifest.graphs["generator_head:rgb"] == {
        "fp32": ("onnx/fp32/generator_head.rgb.onnx",),
        "onnxruntime-cpu": (rgb,),
        "openvino": (rgb,),
    }
    own = "onnx/fp32/generator_head.onnx.data"
    of_bands = {"dicn.cpu.0.onnx.data", "onnx/fp32/dicn.onnx.data"}
    assert {name: set(files) for name, files in manifest.weights.items()} == {
        "onnx/fp32/dicn.onnx": {"onnx/fp32/dicn.onnx.data"},
        "onnx/fp16/dicn.onnx": {"onnx/fp16/dicn.onnx.data"},
        "onnx/fp32/generator_head.onnx": {own},
        "onnx/fp32/generator_head.rgb.onnx": {own},
        head: {own, f"{head}.data"},
        rgb: {own, f"{head}.data", f"{rgb}.data"},
        **dict.fromkeys(bands, of_bands),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, 'unknown key "surprise"'),
        ({"programs": {}}, 'unknown key "programs"'),
        ({"stages": {}}, 'the stage "e4e" has no graphs'),
        ({"stages": []}, "it is not of the form of schema 1 .AttributeError"),
        ({"stages": {"e4e": "e4e.onnx"}}, "it is not of the form of schema 1 .AttributeError"),
        ({"cpu": []}, "it is not of the form of schema 1 .AttributeError"),
        ({"cpu": {"extra": ["onnx/fp32/dicn.onnx"]}}, 'graphs has "extra", expected a stage or "stage:output"'),
        ({"cpu": {"dicn": []}}, r'graphs\["dicn"\]\["onnxruntime-cpu"\] is empty'),
        ({"cpu": {"dicn": "dicn.onnx"}}, "Expected `array`, got `str`"),
        ({"cpu": {"dicn": ["dicn.cpu.onnx"]}}, '"dicn.cpu.onnx" is not listed under files'),
        (
            {"partials": {"generator_head:picture": {"fp32": "onnx/fp32/dicn.onnx"}}},
            'graphs has "generator_head:picture", expected a stage',
        ),
        ({"partials": {"generator_head:rgb": {"fp32": "none.onnx"}}}, '"none.onnx" is not listed under files'),
        ({"sizes": {"resolution": 128}}, "sizes lacks S, L, C"),
        ({"sizes": {"depth": 128}}, "it is not of the form of schema 1 .KeyError: 'depth'"),
        ({"visible_rows": 7}, "Expected `array`, got `int`"),
        ({"files": 7}, "it is not of the form of schema 1 .TypeError"),
        ({"name": 7}, "Expected `str`, got `int`"),
    ],
)
def test_a_manifest_of_schema_1_that_is_not_valid_is_one_sentence(data: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=f"^bundle.json is not a valid bundle manifest: .*{message}.*; build it with: sdic-export build"):
        with_files(data, **changes) if "files" not in changes else parsed({**data, **changes})
