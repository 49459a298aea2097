from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import BUILD_HINT, Manifest, file_entries, manifest_text, parse_manifest, write_manifest
from sdic_runtime.errors import BundleError


@pytest.fixture
def data(tiny_bundle: Path) -> dict[str, Any]:
    return json.loads((tiny_bundle / "bundle.json").read_text())


def broken(data: dict[str, Any], *path: str, value: Any = None) -> dict[str, Any]:
    """A copy of `data` with the entry at `path` set to `value`, or deleted when it is None."""
    result = copy.deepcopy(data)
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def parsed(data: Any) -> Manifest:
    return parse_manifest(json.dumps(data).encode())


def test_what_is_written_reads_back_equal(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    write_manifest(tmp_path, manifest)
    assert Bundle.open(tmp_path).manifest == manifest
    assert parse_manifest(manifest_text(manifest).encode()) == manifest
    assert json.loads(manifest_text(manifest))["schema"] == 2


DIPN = "onnx/fp32/dipn.onnx"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 3, r"^bundle.json has schema 3, and this version reads schema 2; update with: pip install --upgrade sdic-toolkit$"),
        (["schema"], 0, "schema is 0, expected 2"),
        (["schema"], True, "schema is True, expected 2"),
        (["schema"], "1", "schema is '1', expected 2"),
        (["schema"], None, "schema is None, expected 2"),
        (["graphs", "dipn"], None, 'the stage "dipn" has no graphs'),
        (["graphs", "dipn"], {}, 'the stage "dipn" has no graphs'),
        (["graphs", "extra"], {"fp32": [DIPN]}, 'graphs has "extra", expected a stage or "stage:output" of the stage table'),
        (["graphs", "generator_head:picture"], {"fp32": [DIPN]}, 'graphs has "generator_head:picture", expected a stage or "stage:output"'),
        (["graphs", "generator_head:"], {"fp32": [DIPN]}, 'graphs has "generator_head:", expected a stage or "stage:output"'),
        (["graphs", "rgb"], {"fp32": [DIPN]}, 'graphs has "rgb", expected a stage or "stage:output"'),
        (["graphs", "dipn"], DIPN, "Expected `object`, got `str`"),
        (["graphs", "dipn"], {"fp32": DIPN}, "Expected `array`, got `str`"),
        (["graphs", "dipn"], {"fp32": [3]}, "Expected `str`, got `int`"),
        (["graphs", "dipn", "onnxruntime-cpu"], [], r'graphs\["dipn"\]\["onnxruntime-cpu"\] is empty, expected a list of files'),
        (["graphs", "dipn"], {"fp32": ["onnx/fp32/none.onnx"]}, '"onnx/fp32/none.onnx" is not listed under files'),
        (["graphs", "dipn", "onnxruntime-cpu"], [DIPN, "b.onnx"], '"b.onnx" is not listed under files'),
        (["graphs", "dipn"], {"fp16": [DIPN]}, 'default_precision is "fp32", and all stages are there in: none'),
        (["weights"], {DIPN: ["dipn.onnx.data"]}, '"dipn.onnx.data" is not listed under files'),
        (["weights"], {DIPN: "dipn.onnx.data"}, "Expected `array`, got `str`"),
        (["surprise"], 1, "unknown field `surprise`"),
        (["name"], None, "missing required field `name`"),
        (["name"], 3, "Expected `str`, got `int`"),
        (["golden"], 3, "Expected `str | null`, got `int`"),
        (["golden"], "golden/golden.safetensors", "is not listed under files"),
        (["directions", "smile"], "smile.npy", '"smile.npy" is not listed under files'),
        (["sizes", "L"], "12", "Expected `int`, got `str`"),
        (["sizes", "S"], None, "sizes lacks S"),
        (["keeps"], ["latent"], 'keeps lacks "picture"'),
        (["moves", "paper", "program"], "warp", 'the move "paper" runs "warp", which is no program'),
        (["programs", "edit", "steps"], [], 'the program "edit" gives "picture" from "picture", which it does not make'),
        (["programs", "edit", "steps"], [["dipn"]], "Expected `array` of (at least )?length 3"),
        (["programs", "edit", "code"], "import os", "unknown field `code`"),
        (["input", "visible_rows"], [0, 129], r"visible_rows is \[0, 129\], expected \[first, end\] within 0..128"),
        (["input", "visible_rows"], [64, 64], "visible_rows is"),
        (["input", "visible_rows"], [1, 127], "does not fall on whole rows at the working size 64"),
        (["input", "resampling"], "sinc", "Invalid enum value 'sinc'"),
        (["files", "../../etc/passwd"], {"sha256": "0" * 64, "bytes": 1}, 'the file name "../../etc/passwd" leaves the bundle'),
        (["files", "/etc/passwd"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", "C:\\x"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", "a/../b"], {"sha256": "0" * 64, "bytes": 1}, "leaves the bundle"),
        (["files", DIPN], {"sha256": "xyz", "bytes": 1}, "Expected `str` matching regex"),
        (["files", DIPN], {"sha256": "0" * 64}, "missing required field `bytes`"),
        (["files", DIPN], {"sha256": "0" * 64, "bytes": -1}, "Expected `int` >= 0"),
        (["tolerances", "fp32"], -1, r'tolerances\["fp32"\] is -1.0, expected a positive number'),
        (["tools", "torch"], 2.13, "Expected `str`, got `float`"),
    ],
)
def test_a_manifest_that_is_not_valid_is_one_sentence(data: dict[str, Any], path: list[str], value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        parsed(broken(data, *path, value=value))
    assert "\n" not in str(caught.value)
    remedy = "pip install --upgrade sdic-toolkit" if (path, value) == (["schema"], 3) else BUILD_HINT
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\x00\x01", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b'{"schema": 2, "name": "\xff"}', "is not valid JSON|is not a valid bundle manifest"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "it is not a JSON object"),
        (b"7", "it is not a JSON object"),
    ],
)
def test_what_is_no_json_object_is_one_sentence(text: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=rf"^bundle.json .*({message}).*; build it with: sdic-export build CHECKPOINT --out DIR$"):
        parse_manifest(text)


def test_a_manifest_that_would_not_read_back_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    wrong = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, visible_rows=(5, 3)))
    with pytest.raises(BundleError, match="visible_rows"):
        write_manifest(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []


def test_identity_is_that_of_the_model_not_of_what_lies_beside_it(data: dict[str, Any]) -> None:
    identity = parsed(data).identity
    assert len(identity) == 64
    same = [broken(data, "directions", value={}), broken(data, "licence", value="other"), broken(data, "name", value="renamed")]
    more = copy.deepcopy(data)
    for stage in data["stages"]:
        more["graphs"][stage]["fp16"] = [f"onnx/fp16/{stage}.onnx"]
        more["files"][f"onnx/fp16/{stage}.onnx"] = {"sha256": "1" * 64, "bytes": 1}
    more["graphs"]["dipn"]["onnxruntime-cpu"] = more["graphs"]["dipn"]["fp16"]
    more["graphs"]["generator_head:rgb"] = {"fp32": ["onnx/fp16/dipn.onnx"]}
    assert {parsed(other).identity for other in [*same, more]} == {identity}
    other_graph = broken(data, "files", "onnx/fp32/dicn.onnx", "sha256", value="2" * 64)
    other_rows = broken(data, "input", "visible_rows", value=[16, 112])
    other_weights = broken(data, "weights", value={"onnx/fp32/dicn.onnx": ["directions/smile.safetensors"]})
    others = {parsed(other).identity for other in (other_graph, other_rows, other_weights)}
    assert len(others) == 3 and identity not in others


def test_entries_are_those_of_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a.bin").write_bytes(content)
    entry = file_entries(tmp_path, ["a.bin"])["a.bin"]
    assert entry.sha256 == hashlib.sha256(content).hexdigest() and entry.bytes == len(content)


def test_equal_manifests_are_equal_texts_whatever_the_order_of_their_files(make_bundle: Callable[..., Path]) -> None:
    manifest = Bundle.open(make_bundle()).manifest
    turned = msgspec.structs.replace(manifest, files=dict(reversed(manifest.files.items())))
    assert manifest_text(turned) == manifest_text(manifest)
