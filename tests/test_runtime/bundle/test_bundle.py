from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sdic_runtime.bundle.bundle
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, files_in
from sdic_runtime.errors import ArgumentError, BundleError


def stage_file(bundle: Bundle, stage: str) -> Path:
    _, (path,) = bundle.graph(stage, bundle.manifest.stages[stage].outputs, ["fp32"])
    return path


def test_the_manifest_itself_names_the_bundle(tiny_bundle: Path) -> None:
    assert Bundle.open(tiny_bundle / "bundle.json").path == tiny_bundle


def test_a_bundle_shows_what_it_is(tiny_bundle: Path) -> None:
    assert repr(Bundle.open(tiny_bundle)) == f'<Bundle "tiny" (sdic) at {tiny_bundle}>'


def _circle(folder: Path) -> Path:
    (folder / "circle").symlink_to("circle")
    return folder / "circle"


def test_what_is_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", "there is no bundle at"),
        (tmp_path / "a\0b", "there is no bundle at"),
        (tmp_path / ("a" * 300), "file name too long; build it with"),
        (_circle(tmp_path), "too many levels of symbolic links; build it with"),
        (tmp_path, "is not a bundle, it has no bundle.json"),
    ):
        with pytest.raises(BundleError, match=message):
            Bundle.open(path)
    file = tmp_path / "model.pt"
    file.write_text("x")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(file)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=f"^{tmp_path / 'bundle.json'} is not valid JSON"):
        Bundle.open(tmp_path)
    (tmp_path / "bundle.json").unlink()
    (tmp_path / "bundle.json").mkdir()
    with pytest.raises(BundleError, match="^cannot read .*bundle.json: is a directory$"):
        Bundle.open(tmp_path)


def test_damaged_files_are_named_with_the_command_that_shows_all(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    flipped, short, missing = (folder / f"onnx/fp32/{stage}.onnx" for stage in ("e4e", "dipn", "dicn"))
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    length = short.stat().st_size
    short.write_bytes(short.read_bytes()[:-1])
    missing.unlink()
    bundle = Bundle.open(folder)
    for stage, damage in (
        ("e4e", "its SHA-256 is not the one in bundle.json"),
        ("dipn", f"it has {length - 1} bytes instead of {length}"),
        ("dicn", "it is missing"),
    ):
        with pytest.raises(BundleError) as caught:
            stage_file(bundle, stage)
        assert str(caught.value) == (
            f"{folder / 'onnx/fp32' / stage}.onnx is damaged: {damage}; see the whole extent with: sdic-export verify {folder}"
        )
    assert stage_file(bundle, "generator_tail").is_file()
    with pytest.raises(BundleError, match="is damaged"):
        bundle.check()


def test_a_file_that_is_not_listed_is_never_handed_out(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    (folder / "extra.onnx").touch()
    for name in ("extra.onnx", "../tiny/bundle.json", "bundle.json"):
        with pytest.raises(BundleError, match=f'bundle.json lists no file "{name}"'):
            Bundle.open(folder).file(name)


def test_without_verify_only_sizes_are_compared(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    graph = folder / "onnx/fp32/e4e.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])
    assert stage_file(Bundle.open(folder, verify=False), "e4e") == graph
    graph.write_bytes(b"")
    with pytest.raises(BundleError, match="it has 0 bytes"):
        stage_file(Bundle.open(folder, verify=False), "e4e")


def test_each_file_is_hashed_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    plain = sdic_runtime.bundle.bundle.sha256
    monkeypatch.setattr(sdic_runtime.bundle.bundle, "sha256", lambda path: hashed.append(path) or plain(path))
    bundle = Bundle.open(tiny_bundle)
    assert hashed == []
    bundle.check()
    for stage in bundle.manifest.stages:
        stage_file(bundle, stage)
    assert sorted(hashed) == sorted(tiny_bundle / name for name in bundle.manifest.files)


def test_a_graph_brings_its_checked_weights(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> None:
    """A standard graph its own, a CPU-optimized one in bands those of all its bands."""
    folder = make_bundle()
    bands, weights = ["e4e.cpu.1.onnx", "e4e.cpu.0.onnx"], ["onnx/fp32/e4e.onnx.data", "e4e.cpu.0.onnx.data"]
    for name in (*bands, *weights):
        (folder / name).write_bytes(b"\x08\x0a")  # an ONNX file of a version alone
    graphs = Bundle.open(folder).manifest.graphs
    change(
        folder,
        [*bands, *weights],
        graphs={**graphs, "e4e": {**graphs["e4e"], ONNXRUNTIME_CPU: tuple(bands)}},
        weights={"onnx/fp32/e4e.onnx": (weights[0],), bands[1]: tuple(weights)},
    )
    manifest = Bundle.open(folder).manifest
    assert {"onnx/fp32/e4e.onnx", weights[0]} <= set(files_in(manifest, ["fp32"])) and not {*bands} & set(files_in(manifest, ["fp32"]))
    assert {*bands, *weights} <= set(files_in(manifest, [ONNXRUNTIME_CPU, "fp32"]))
    graph, paths = Bundle.open(folder).graph("e4e", ["latent"], [ONNXRUNTIME_CPU, "fp32"])
    assert (graph.key, graph.variant, paths) == ("e4e", ONNXRUNTIME_CPU, [folder / name for name in bands])
    for name in (*bands, *weights):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b"\x0b")
        with pytest.raises(BundleError, match=f"{name} is damaged: its SHA-256"):
            Bundle.open(folder).graph("e4e", ["latent"], [ONNXRUNTIME_CPU, "fp32"])
        if name != weights[0]:
            assert stage_file(Bundle.open(folder), "e4e").is_file(), "the standard graph reads none of these"
        (folder / name).write_bytes(content)
    (folder / weights[0]).unlink()
    with pytest.raises(BundleError, match=r"e4e\.onnx\.data is damaged: it is missing; see"):
        stage_file(Bundle.open(folder), "e4e")


def test_a_precision_that_is_not_there_lists_those_that_are(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.precision() == bundle.precision("fp32") == "fp32"
    with pytest.raises(ArgumentError, match=r'has no complete set of stages in precision "fp16"; it has: fp32$'):
        bundle.precision("fp16")
