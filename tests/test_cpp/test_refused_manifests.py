"""Manifests that libsdic refuses with a sentence about the subject."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_refusals import BUNDLE, change_manifest, delete, set_key

from sdic_runtime import Bundle

ROOT = Path(__file__).parents[2]


ENTRY = {"sha256": "0" * 64, "bytes": 1}
# What is wrong -> (the change that makes it so, what the sentence must name).
MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "list": (lambda data: [data], "object"),
    "number": (lambda data: 7, "object"),
    "newer schema": (set_key("schema", 3), "update"),
    "schema 0": (set_key("schema", 0), "schema"),
    "schema text": (set_key("schema", "it's 1"), "schema"),
    "schema true": (set_key("schema", True), "schema"),
    "no schema": (delete("schema"), "schema"),
    "unknown key": (set_key("wights", 1), "wights"),
    "missing key": (delete("default_precision"), "default_precision"),
    "name number": (set_key("name", 1.5), "name"),
    "long value": (set_key("licence", ["ä" * 100]), "licence"),
    "golden list": (set_key("golden", []), "golden"),
    "faces number": (set_key("faces", 1), "faces"),
    "size lacks": (delete("sizes", "L"), "sizes"),
    "size zero": (set_key("sizes", "L", 0), "sizes"),
    "size true": (set_key("sizes", "L", True), "sizes"),
    "size text": (set_key("sizes", "L", "18"), "sizes"),
    "size float": (set_key("sizes", "L", 12.0), "sizes"),
    "size large": (set_key("sizes", "L", 65537), "sizes"),
    "size beyond": (set_key("sizes", "L", 2**70), "sizes"),
    "size negative": (set_key("sizes", "L", -(2**63)), "sizes"),
    "size N": (set_key("sizes", "N", 3), "N"),
    "size sign": (set_key("sizes", "K2", 3), "K2"),
    "tensor number": (set_key("tensors", "rgb", 3), "rgb"),
    "tensor empty": (set_key("tensors", "rgb", []), "rgb"),
    "tensor batch": (set_key("tensors", "rgb", [3, 32, 32]), "rgb"),
    "tensor batch later": (set_key("tensors", "rgb", ["N", 3, "N"]), "rgb"),
    "tensor letter": (set_key("tensors", "rgb", ["N", "X"]), "rgb"),
    "tensor zero": (set_key("tensors", "rgb", ["N", 0]), "rgb"),
    "tensor large": (set_key("tensors", "rgb", ["N", 2**40]), "rgb"),
    "tensor float": (set_key("tensors", "rgb", ["N", 3.0]), "rgb"),
    "image": (set_key("tensors", "image", ["N", 3, "R", "R"]), "image"),
    "no picture": (delete("tensors", "picture"), "picture"),
    "stage colon": (lambda data: data["stages"].update({"a:b": data["stages"]["dipn"]}), "a:b"),
    "stage unknown tensor": (set_key("stages", "dipn", "inputs", ["image", "nothing"]), "nothing"),
    "stage no output": (set_key("stages", "dipn", "outputs", []), "dipn"),
    "stage twice": (set_key("stages", "dipn", "outputs", ["image"]), "dipn"),
    "stage key": (set_key("stages", "dipn", "more", 1), "more"),
    "stage list": (set_key("stages", []), "stages"),
    "takes unknown": (set_key("programs", "edit", "takes", ["nothing"]), "nothing"),
    "takes unkept": (set_key("programs", "baseline", "takes", ["latent", "residual", "rgb"]), "rgb"),
    "zeros untaken": (set_key("programs", "baseline", "zeros", ["feature"]), "baseline"),
    "steps object": (set_key("programs", "edit", "steps", {}), "steps"),
    "step short": (set_key("programs", "edit", "steps", 1, ["generator_head"]), "edit"),
    "step number": (set_key("programs", "edit", "steps", 1, 0, 3), "edit"),
    "step no stage": (set_key("programs", "edit", "steps", 0, 0, "gan"), "gan"),
    "step unbound": (set_key("programs", "edit", "steps", 0, 1, {}), "generator_head"),
    "step other value": (set_key("programs", "edit", "steps", 0, 1, "latent", "rgb"), "rgb"),
    "step other axes": (set_key("programs", "edit", "steps", 0, 1, "latent", "residual"), "residual"),
    "step nothing": (set_key("programs", "edit", "steps", 0, 2, {}), "step 1"),
    "step output": (set_key("programs", "edit", "steps", 0, 2, {"picture": "picture"}), "picture"),
    "step again": (set_key("programs", "edit", "steps", 0, 2, {"feature": "latent"}), "latent"),
    "gives unmade": (set_key("programs", "edit", "gives", {"picture": "rgb"}), "rgb"),
    "gives nothing": (set_key("programs", "edit", "gives", {}), "edit"),
    "gives unknown": (set_key("programs", "edit", "gives", "other", "picture"), "other"),
    "no invert": (delete("programs", "invert"), "invert"),
    "invert takes": (set_key("programs", "invert", "takes", ["image", "latent"]), "invert"),
    "keeps unknown": (set_key("keeps", ["picture", "nothing"]), "nothing"),
    "keeps no picture": (set_key("keeps", ["latent"]), "picture"),
    "keeps object": (set_key("keeps", {}), "keeps"),
    "move program": (set_key("moves", "paper", "program", "nothing"), "nothing"),
    "move code": (set_key("moves", "paper", "codes", ["feature"]), "feature"),
    "move untaken": (set_key("moves", "released", "codes", ["latent"]), "latent"),
    "move empty": (set_key("moves", "paper", "codes", []), "paper"),
    "move kind": (set_key("moves", "paper", "kinds", ["text"]), "text"),
    "move no kind": (set_key("moves", "paper", "kinds", []), "paper"),
    "rows object": (set_key("input", "visible_rows", {}), "visible_rows"),
    "rows three": (set_key("input", "visible_rows", [0, 1, 2]), "visible_rows"),
    "rows empty": (set_key("input", "visible_rows", [5, 5]), "visible_rows"),
    "rows beyond": (set_key("input", "visible_rows", [0, 129]), "visible_rows"),
    "rows fraction": (set_key("input", "visible_rows", [0.5, 128]), "visible_rows"),
    "rows odd": (set_key("input", "visible_rows", [1, 128]), "visible_rows"),
    "resampling": (set_key("input", "resampling", "box"), "box"),
    "file outside": (set_key("files", "../evil", ENTRY), "../evil"),
    "file absolute": (set_key("files", "/etc/passwd", ENTRY), "/etc/passwd"),
    "file doubled": (set_key("files", "a//b", ENTRY), "a//b"),
    "file drive": (set_key("files", "C:x", ENTRY), "C:x"),
    "file hash": (set_key("files", "x", {"sha256": "0" * 63, "bytes": 1}), "x"),
    "file bytes": (set_key("files", "x", {"sha256": "0" * 64, "bytes": -1}), "x"),
    "file list": (set_key("files", "x", [1e-7, 0.1]), "x"),
    "graphs lack": (delete("graphs", "dicn"), "dicn"),
    "graphs empty": (set_key("graphs", "dicn", {}), "dicn"),
    "graphs unknown": (set_key("graphs", "gan", {"fp32": ["onnx/fp32/dipn.onnx"]}), "gan"),
    "graphs output": (set_key("graphs", "dipn:picture", {"fp32": ["onnx/fp32/dipn.onnx"]}), "dipn:picture"),
    "graphs no output": (set_key("graphs", "dipn:", {"fp32": ["onnx/fp32/dipn.onnx"]}), "dipn:"),
    "graphs no file": (set_key("graphs", "dipn", "onnxruntime-cpu", []), "onnxruntime-cpu"),
    "graphs text": (set_key("graphs", "dipn", "fp32", "onnx/fp32/dipn.onnx"), "dipn"),
    "graphs number": (set_key("graphs", "dipn", "fp32", [1]), "dipn"),
    "graphs unlisted": (set_key("graphs", "dipn", "fp32", ["other.onnx"]), "other.onnx"),
    "weights unlisted": (set_key("weights", {"onnx/fp32/dipn.onnx": ["other.data"]}), "other.data"),
    "weights text": (set_key("weights", {"onnx/fp32/dipn.onnx": "other.data"}), "weights"),
    "direction number": (set_key("directions", "smile", 1), "smile"),
    "direction unlisted": (set_key("directions", "smile", "directions/frown.safetensors"), "frown"),
    "golden unlisted": (set_key("golden", "golden.safetensors"), "golden.safetensors"),
    "tolerance zero": (set_key("tolerances", "fp32", 0), "fp32"),
    "tolerance text": (set_key("tolerances", "fp32", "much"), "fp32"),
    "psnr text": (set_key("psnr", {"fp32": "much"}), "psnr"),
    "tool number": (set_key("tools", {"torch": 2}), "torch"),
    "checkpoint number": (set_key("checkpoint", {"path": 2}), "path"),
    "precision": (set_key("default_precision", "fp16"), "fp16"),
}
FIRST_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (set_key("graphs", {}), "graphs"),
    "missing key": (delete("stages"), "stages"),
    "size unknown": (set_key("sizes", "depth", 3), "depth"),
    "stage unknown": (set_key("stages", "gan", {"fp32": "x"}), "gan"),
    "stage missing": (delete("stages", "dicn"), "dicn"),
    "stage number": (set_key("stages", "dipn", 3), ""),
    "stage list": (set_key("stages", "dipn", {"fp32": ["x"]}), "array"),
    "partial unlisted": (set_key("partials", {"generator_head:rgb": {"fp32": "other.onnx"}}), "other.onnx"),
    "partials null": (set_key("partials", None), "object"),
    "partial text": (set_key("partials", {"generator_head:rgb": ""}), "object"),
    "cpu number": (set_key("cpu", {"dipn": 1}), ""),
    "cpu list": (set_key("cpu", []), ""),
    "files list": (set_key("files", []), ""),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_schema_2_does_not_allow(library: Any, refused: Any, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    change, subject = MANIFESTS[name]
    shutil.copy(tiny_bundle / "bundle.json", tmp_path)
    change_manifest(tmp_path, change)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, subject, python=lambda: Bundle.open(tmp_path))


@pytest.mark.parametrize("name", FIRST_MANIFESTS)
def test_a_manifest_that_schema_1_does_not_allow(library: Any, refused: Any, tmp_path: Path, name: str) -> None:
    change, subject = FIRST_MANIFESTS[name]
    shutil.copy(ROOT / "tests/data/schema1/bundle.json", tmp_path)
    change_manifest(tmp_path, change)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, subject, python=lambda: Bundle.open(tmp_path))


def many_keys(text: str) -> str:
    return text.replace("{", "{" + "".join(f'"k{number}": 1, ' for number in range(30_000)), 1)


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 1,}', "nonsense", "\ufeff{}", "[" * 5000, "[" * 99, many_keys('{"a": 1}'), f"[{'1,' * 200_000}1]"]
)
def test_a_manifest_that_is_no_json(library: Any, refused: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    refused(BUNDLE, lambda: library.open(tmp_path), tmp_path, python=lambda: Bundle.open(tmp_path))


def test_there_is_no_bundle(library: Any, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/bundle.json").mkdir(parents=True)
    for path in (tmp_path, f"{tmp_path}//./", tmp_path / "nowhere", tmp_path / "file", tmp_path / "taken"):
        refused(BUNDLE, lambda path=path: library.open(path), tmp_path, python=lambda path=path: Bundle.open(path))
