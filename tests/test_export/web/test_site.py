"""What a site is made of, and what is refused."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_bundle import SDIC, change_manifest, write_bundle

from sdic_export.cli.app import main
from sdic_export.web import runtime, site
from sdic_export.web.halves import HalfWriter
from sdic_export.web.site import WebOptions, check_site, write_site
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BundleError, FileError
from sdic_runtime.program import Cut, Step


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that looks like the npm package, unpacked."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": runtime.PACKAGE, "version": runtime.VERSION}))
    for name in (*runtime.WASM, *runtime.WEBGPU):
        (folder / "dist" / name).write_bytes(b"code")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


def test_a_site_holds_the_page_the_runtime_and_a_bundle(tiny: Path, package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    made = write_site(WebOptions(tiny, folder, package))
    assert {path.name for path in folder.iterdir()} >= {
        "index.html",
        "page.js",
        "worker.js",
        "studio.css",
        "site.json",
        "check.safetensors",
    }
    assert {path.name for path in (folder / "onnxruntime").iterdir()} == {*runtime.WASM, *runtime.WEBGPU, "NOTICE.txt"}
    bundle = Bundle.open(folder / "bundle")
    bundle.check()
    assert made.worst <= site.WORST and made.bundle_bytes == sum(entry.bytes for entry in bundle.manifest.files.values())
    described = json.loads((folder / "site.json").read_text())
    assert [edit["name"] for edit in described["edits"]] == ["age", "smile"] and described["examples"] == []
    without = tmp_path / "without"
    write_site(WebOptions(tiny, without, package, webgpu=False, weights="float32", pictures=[]))
    assert {path.name for path in (without / "onnxruntime").iterdir()} == {*runtime.WASM, "NOTICE.txt"}
    head = next((without / "bundle").rglob("generator_head.onnx"))
    assert not any(item.data_type == TensorProto.FLOAT16 for item in onnx.load(head).graph.initializer)


def test_examples_of_one_name_and_of_any_name_are_all_there(tiny: Path, package: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "one/a.png", tmp_path / "two/a.png", tmp_path / "two/b #1 %41?.png"]
    for shade, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
    write_site(WebOptions(tiny, tmp_path / "site", package, pictures=paths))
    names = json.loads((tmp_path / "site/site.json").read_text())["examples"]
    assert names == ["examples/1_a.png", "examples/2_a.png", "examples/3_b__1__41_.png"]
    assert [Image.open(tmp_path / "site" / name).getpixel((0, 0))[0] for name in names] == [0, 1, 2]


def test_a_site_has_no_parts_of_stages(package: Path, tmp_path: Path) -> None:
    part = {"dipn_part": SDIC.stages["dipn"]}
    step = Step("dipn_part", {name: name for name in SDIC.stages["dipn"].inputs}, {"discrepancy": "discrepancy"})
    graphs = {"dipn_part": {"fp32": ("onnx/fp32/dipn.onnx",)}}
    rows = {"generator_head": 7, "dipn_part": 3}
    source = write_bundle(tmp_path / "cut", cuts={"dipn": Cut(part, (step,))}, part_graphs=graphs, rows=rows)
    write_site(WebOptions(source, tmp_path / "site", package))
    manifest = Bundle.open(tmp_path / "site/bundle").manifest
    assert not manifest.cuts and not manifest.part_graphs and manifest.rows == {"generator_head": 7}


def test_no_page_names_an_address_of_elsewhere() -> None:
    for path in [*site.PAGE.iterdir(), *(site.STUDIO / name for name in site.FROM_STUDIO)]:
        assert "://" not in path.read_text().replace("http://www.w3.org/2000/svg", ""), path.name


def graph(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """A graph that adds up its input and all weights."""
    sums = ["x", *(f"sum_{name}" for name in weights)]
    nodes = [helper.make_node("Add", [before, name], [after]) for name, before, after in zip(weights, sums, sums[1:], strict=False)]
    borders = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [300])] for name in (sums[0], sums[-1])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "sums", *borders, tensors), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, path)
    return path


def run(path: Path) -> np.ndarray:
    import onnxruntime

    result: np.ndarray = onnxruntime.InferenceSession(path).run(None, {"x": np.zeros(300, np.float32)})[0]
    return result


def test_weights_of_any_size_are_stored_in_halves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for factor in (1.0, 1e-6, 1e6, 1e-30, 0.0):
        weight = (rng.standard_normal(300) * factor).astype(np.float32)
        source, target = graph(tmp_path / "source.onnx", {"w": weight}), tmp_path / "target.onnx"
        HalfWriter().write(source, target)
        assert target.stat().st_size < source.stat().st_size - 400
        assert np.abs(run(target) - weight).max() <= 2**-11 * np.abs(weight).max() * 1.01, factor
    with pytest.raises(BundleError, match=r'the weight "w" of .* holds NaN or infinite values; build the bundle again'):
        HalfWriter().write(graph(tmp_path / "nan.onnx", {"w": np.full(300, np.nan, np.float32)}), target)


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(1), tmp_path / "out"
    weights = {name: rng.standard_normal(300).astype(np.float32) for name in "ab"}
    model = onnx.load(graph(tmp_path / "one.onnx", weights))
    onnx.save(model, tmp_path / "one.onnx", save_as_external_data=True, location="one.data", size_threshold=0)
    two = onnx.load(tmp_path / "one.onnx", load_external_data=False)
    two.graph.node[0].name = "another"
    (tmp_path / "two.onnx").write_bytes(two.SerializeToString())
    writer = HalfWriter()
    for name in ("one.onnx", "two.onnx"):
        writer.write(tmp_path / name, folder / name)
    assert (folder / "one.data").stat().st_size == 2 * 300 * 2
    for name in ("one.onnx", "two.onnx"):
        assert np.abs(run(folder / name) - weights["a"] - weights["b"]).max() < 2e-3


def test_pictures_that_differ_too_much_are_refused(tiny: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "WORST", -1)
    with pytest.raises(
        BundleError, match=r"with weights in float16 the picture .* of 255 levels, and -1 are allowed; use --weights float32"
    ):
        write_site(WebOptions(tiny, tmp_path / "site", package))
    assert not (tmp_path / "site").exists() and not list(tmp_path.glob(".site*"))


def test_places_bundles_and_packages_that_are_refused(tiny: Path, package: Path, tmp_path: Path) -> None:
    def refused(match: str, kind: type[Exception] = ArgumentError, **changes: Any) -> None:
        with pytest.raises(kind, match=match):
            write_site(WebOptions(**{"bundle": tiny, "folder": tmp_path / "site", "runtime": package, **changes}))

    (tmp_path / "file").write_text("text")
    refused("is a file; name a folder", folder=tmp_path / "file")
    refused("with other files in it", folder=tmp_path)
    refused("is not onnxruntime-web 1.30.0 as npm has it: its SHA-512", runtime=tmp_path / "file")
    refused("cannot read .*missing.tgz: no such file", runtime=tmp_path / "missing.tgz")
    refused("is not the unpacked npm package", runtime=tiny)
    refused('the weights are "int8"; use float16 or float32', weights="int8")
    (package / "dist" / runtime.WASM[1]).unlink()
    refused(f"lacks dist/{runtime.WASM[1]} .*; get onnxruntime-web 1.30.0 again", FileError)
    (package / "package.json").write_text(json.dumps({"name": runtime.PACKAGE, "version": "1.0.0"}))
    refused("holds onnxruntime-web 1.0.0, and the site is made for onnxruntime-web 1.30.0")
    other = write_bundle(tmp_path / "other")
    manifest = Bundle.open(other).manifest
    graphs = {key: {"fp16": variants["fp32"]} for key, variants in manifest.graphs.items()}
    change_manifest(other, graphs=graphs, default_precision="fp16")
    refused("has no complete set of stages in fp32, which browsers run", BundleError, bundle=other)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/site.json").write_text("{}")
    with pytest.raises(ArgumentError, match=r"already a site at .*; replace it with --force"):
        check_site(tmp_path / "old", force=False)
    check_site(tmp_path / "old", force=True)
    assert not (tmp_path / "site").exists()


def test_without_npm_one_sentence_says_what_to_do(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["web", str(tiny), str(tmp_path / "site")]) == 2
    assert "there is no npm to get it with; install npm, or get onnxruntime-web-1.30.0.tgz elsewhere" in capsys.readouterr().err
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('npm error network: it is down')\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    assert subprocess.run([npm], check=False, capture_output=True).returncode == 1
    assert main(["web", str(tiny), str(tmp_path / "site")]) == 2
    assert "npm pack onnxruntime-web@1.30.0 failed (npm error network: it is down)" in capsys.readouterr().err
