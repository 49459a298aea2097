"""The same of bundles."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fuzz.seeds import HUGE, endless, put_dipn, reading, refused
from fuzz.targets import read_bundle
from sdic_runtime.backends import sessions
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.errors import BundleError, SdicError
from sdic_runtime.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("at_once")


# Bundles.


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'"schema"', b'"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "schema"', "is not valid JSON"),
        (b'"schema"', b'"x": ' + b"[" * 100 + b"]" * 100 + b', "schema"', "is nested more than 64 levels deep"),
        (b'"tiny"', b'"\\ud800"', "is not valid JSON"),
        (b'"R": 128', f'"R": {HUGE}'.encode(), "holds a number of more than 64 bits"),
        (b'"R": 128', b'"R": 1e400', "is not valid JSON"),
        (b'"R": 128', b'"R": Infinity', "is not valid JSON"),
        (b'"S": 64', b'"S": 65536', "values for one picture, and the limit is"),
        (b'"tiny"', b'"' + b"x" * (17 << 20) + b'"', "and the limit is 16777216"),
        (b'"fp32"', b'"\\u001b[31m' + b"x" * 900_000 + b'"', "is not a valid bundle manifest"),
    ],
    ids=["deep", "deeper than any", "half a pair", "10**400", "1e400", "Infinity", "hangs", "large", "control codes"],
)
def test_a_manifest_is_checked_beyond_its_json(old: bytes, new: bytes, sentence: str, bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    refused(BundleError, sentence, Bundle.open, bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("name", [MANIFEST_NAME, "onnx/fp32/dipn.onnx", "directions/age.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_bundle_is_refused(name: str, kind: str, bundle: Path) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name) if kind == "pipe" else (bundle / name).symlink_to("/dev/zero")
    refused(BundleError, "it is a pipe or a device and not a file", lambda: Bundle.open(bundle).check())


@pytest.mark.parametrize("location", ["w.data", "../../../w.data", "/absolute", "../fp32/w.data", "*/_ORT_MEM_ADDR_/*"])
def test_weights_that_the_bundle_does_not_list_are_not_read(location: str, bundle: Path, tmp_path: Path) -> None:
    location = str(tmp_path / "w.data") if location == "/absolute" else location
    if location.startswith("*"):
        (bundle / "onnx/fp32/*/_ORT_MEM_ADDR_").mkdir(parents=True)
    reading(bundle, location)
    sentence = f'reads "{re.escape(location)}", which the bundle does not list as its weights'
    refused(BundleError, sentence, read_bundle, bundle)


@pytest.mark.parametrize("store", ["../store", "store"])
def test_listed_weights_are_read_and_a_link_is_followed_by_its_hash(store: str, bundle: Path, tmp_path: Path) -> None:
    place = reading(bundle, "w.data", listed=True)
    want = read_bundle(bundle).pixels
    moved = Path(os.path.abspath(bundle / store / "4e07"))
    moved.parent.mkdir()
    place.rename(moved)
    place.symlink_to(moved)
    if hasattr(__import__("onnxruntime").SessionOptions(), sessions.NEEDED_FOR_LINKS):
        np.testing.assert_array_equal(read_bundle(bundle).pixels, want)
    else:
        refused(BundleError, "is a link out of its folder, which this ONNX Runtime does not follow", read_bundle, bundle)
    if find_spec("openvino"):
        sentence = "w.data is a link out of its folder, which OpenVINO does not follow; use a copy: cp -rL"
        refused(BundleError, sentence, Pipeline.load, bundle, "openvino")
    moved.write_bytes(b"\0" * moved.stat().st_size)
    for verify in (True, False) if store.startswith("..") else (True,):  # outside the bundle, the hash is compared in any case
        refused(BundleError, "its SHA-256 is not the one in", Bundle.open(bundle, verify).file, "onnx/fp32/w.data")


def test_a_loop_is_refused_unless_the_bundle_is_trusted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(bundle)
    refused(BundleError, "runs Loop, which may do anything or never end; if you know who made it, use: --trust", read_bundle, bundle)
    assert Bundle.open(bundle, trust=True).file("onnx/fp32/dipn.onnx").is_file()
    monkeypatch.setenv("SDIC_TRUST", "1")
    assert Bundle.open(bundle).file("onnx/fp32/dipn.onnx").is_file()


def test_an_operator_of_another_domain_is_refused(bundle: Path) -> None:
    from onnx import helper

    node = helper.make_node(
        "EPContext", ["image", "reconstruction"], ["discrepancy"], domain="com.microsoft", ep_cache_context="/etc/passwd"
    )
    put_dipn(bundle, [node], {})
    refused(BundleError, "runs com.microsoft:EPContext, which may do anything", read_bundle, bundle)


def test_a_graph_that_asks_for_more_memory_than_there_is(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["zz"], keepdims=0),
        helper.make_node("Sub", ["image", "reconstruction"], ["d"]),
        helper.make_node("Add", ["d", "zz"], ["discrepancy"]),
    ]
    put_dipn(bundle, nodes, {"s": np.array([1 << 20, 1 << 20], np.int64)})
    refused(SdicError, "not enough memory", read_bundle, bundle)
