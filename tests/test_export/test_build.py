"""A checkpoint becomes a bundle that the runtime runs with PyTorch's numbers, or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from torch import nn

from sdic_export import build as building
from sdic_export import report as reporting
from sdic_export.build import BuildOptions, Progress, StageReport, alignment, build
from sdic_export.cli.app import main
from sdic_export.golden import read_golden, smooth_pictures
from sdic_export.graphs.exporter import save_graph
from sdic_export.graphs.fusion import HALF_FROM
from sdic_export.verify import verify
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, OPENVINO, graph_keys
from sdic_runtime.bundle.manifest import Manifest
from sdic_runtime.errors import ArgumentError, BundleError, CheckpointError, FileError, MissingExtraError, PictureError, SdicError
from sdic_runtime.files import sha256
from sdic_runtime.pipeline import Pipeline
from sdic_train.config import CARS, DEMO, FACES, ModelConfig
from sdic_train.networks.sdic.model import SDIC


def optimized(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The CPU-optimized graphs of a bundle."""
    return {key: manifest.graphs[key][ONNXRUNTIME_CPU] for key in graph_keys(manifest, ONNXRUNTIME_CPU)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_bundle_is_complete_and_sound(built: Any, checkpoint: Path) -> None:
    bundle = Bundle.open(built.folder)
    bundle.check()
    manifest = bundle.manifest
    assert manifest.name == "tiny" and manifest.domain == "portraits" and manifest.default_precision == "fp32"
    assert manifest.method == "sdic" and manifest.tolerances == {"fp32": 2e-4} and manifest.faces is None
    on_disk = {path.relative_to(built.folder).as_posix() for path in built.folder.rglob("*") if path.is_file()}
    assert on_disk == {"bundle.json", *manifest.files}
    # The feature is asked for alone too, but needs almost all of the head.
    assert set(manifest.graphs) == {*manifest.stages, "generator_head:rgb"}
    assert manifest.graphs["generator_head:rgb"]["fp32"] == ("onnx/fp32/generator_head.rgb.onnx",)
    head = ("onnx/fp32/generator_head.onnx.data",)
    assert manifest.weights == {f"onnx/fp32/generator_head{form}.onnx": head for form in ("", ".rgb")}
    assert {"torch", "onnx", "onnxruntime", "sdic"} <= set(manifest.tools)
    recorded = built.folder / manifest.checkpoint["path"]  # of whichever process built it first
    assert recorded.name == checkpoint.name and manifest.checkpoint["sha256"] == sha256(recorded)
    assert manifest.checkpoint["weights"] == "float32"


def test_every_stage_is_reported_with_its_check(built: Any) -> None:
    manifest = built.report.manifest
    stages = {**manifest.stages, **manifest.parts}
    assert [report.stage for report in built.report.stages] == list(stages)
    for report in built.report.stages:
        assert 0 < report.worst.ratio < 1e-4 and report.worst.tensor in stages[report.stage].outputs
        assert report.seconds > 0
    sizes = {name: entry.bytes for name, entry in built.report.manifest.files.items()}
    head = next(report for report in built.report.stages if report.stage == "generator_head")
    assert head.bytes == sum(size for name, size in sizes.items() if "generator_head" in name)


def test_the_runtime_gives_the_numbers_of_pytorch(built: Any, model: SDIC) -> None:
    pipeline = Pipeline.load(built.folder, backend="onnxruntime", threads=1)
    image = smooth_pictures(64, 3)
    delta = np.random.default_rng(1).standard_normal((1, 12, 16)).astype(np.float32) * np.float32(0.3)
    inversion = pipeline.invert(image)
    with torch.no_grad():
        want = model.invert(torch.from_numpy(image))
        edits = {form: model.edit(want, torch.from_numpy(2 * delta), form) for form in ("paper", "released")}
    got = {
        "latent": inversion.latent,
        "feature": inversion.feature,
        "reconstruction": inversion.reconstruction,
        "discrepancy": inversion.discrepancy,
        "latent_enhanced": inversion.latent_enhanced,
        "residual": inversion.residual,
        "picture": inversion.pixels,
    }
    pairs = [(name, value, getattr(want, name)) for name, value in got.items()]
    pairs += [(form, pipeline.edit(inversion, delta, 2.0, eq6=form).pixels, picture) for form, picture in edits.items()]
    for name, value, reference in pairs:
        assert float(np.abs(value - reference.numpy()).max()) <= 2e-4 * float(reference.std()), name
    zero = pipeline.edit(inversion, delta, 0.0, eq6="paper")
    assert float(np.abs(zero.pixels - inversion.pixels).max()) < 1e-5


def test_options_end_up_in_the_bundle(copies: Any, checkpoint: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "smile.npy", np.ones(16, np.float32))
    Image.new("RGB", (90, 50), (200, 30, 60)).save(tmp_path / "red.png")
    out = tmp_path / "place" / "bundle"
    said: list[str] = []
    done: list[StageReport] = []
    options = BuildOptions(checkpoint, out, "mine", directions=[tmp_path / "smile.npy"], pictures=[tmp_path / "red.png"], licence="Mine.")
    build(options, Progress(said.append, done.append))
    manifest = Bundle.open(out).manifest
    assert (manifest.name, manifest.licence) == ("mine", "Mine.")
    assert dict(manifest.directions) == {"smile": "directions/smile.safetensors"}
    golden = read_golden(Bundle.open(out).file(str(manifest.golden)), manifest)
    assert golden.tensors["image"].shape == (2, 3, 64, 64)
    np.testing.assert_allclose(golden.tensors["image"][0, :, 5, 5], np.array([200, 30, 60]) / 127.5 - 1, atol=1e-6)
    exported = [*manifest.stages, *manifest.parts]
    assert [report.stage for report in done] == exported
    assert [step for step in said if step.startswith("exporting")] == [f"exporting {name}" for name in exported]


def test_float16_weights_are_checked_against_pytorch_with_the_same_weights(
    built: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(module: Any, stage: Any, method: Any, path: Path, opset: int, half: bool, share_weights: bool, alone: bool) -> None:
        """The graph of an earlier build with the weights that `module` must have: rounded where they are large."""
        graph = ir.load(built.folder / "onnx/fp32" / path.name)
        for value in graph.graph.initializers.values():
            array = value.const_value.numpy()
            if array.dtype == np.float32 and array.size >= HALF_FROM:
                value.const_value = ir.tensor(array.astype(np.float16).astype(np.float32), name=value.name)
        save_graph(graph, path, half, share_weights)

    monkeypatch.setattr(building, "export_stage", export)
    report = build(BuildOptions(checkpoint, tmp_path / "bundle", weights="float16"))
    assert max(item.worst.ratio for item in report.stages) < 1e-4
    assert report.rounding is not None and 1e-4 < report.rounding.ratio < 0.1
    small, large = (sum(path.stat().st_size for path in (folder / "onnx").rglob("*")) for folder in (tmp_path / "bundle", built.folder))
    assert small < 0.75 * large
    assert Bundle.open(tmp_path / "bundle").manifest.checkpoint["weights"] == "float16"
    result = verify(tmp_path / "bundle", checkpoint=checkpoint, options={"threads": 1})
    assert not result.failures


def test_a_stage_that_differs_from_pytorch_fails_the_build(copies: Callable[[str], None], checkpoint: Path, tmp_path: Path) -> None:
    copies("dicn")
    sentence = r"of dicn is off by \S+ of its standard deviation \(largest difference \S+\), and 2\.0e-04 is allowed$"
    with pytest.raises(SdicError, match=r'^"(residual|latent_enhanced)" ' + sentence):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert names(tmp_path) == []


def test_an_interrupted_build_leaves_nothing(copies: Any, checkpoint: Path, tmp_path: Path) -> None:
    def interrupt(report: StageReport) -> None:
        if report.stage == "dipn":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(BuildOptions(checkpoint, tmp_path / "bundle"), Progress(done=interrupt))
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_a_build_that_is_asked_to_end_leaves_nothing(
    copies: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(reporting, "show_stage", lambda stage: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["build", str(checkpoint), "--out", str(tmp_path / "bundle")]) == 143
    assert names(tmp_path) == [] and signal.getsignal(signal.SIGTERM) is before


def test_a_bundle_is_replaced_only_with_force(copies: Any, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "bundle.json").write_text("{}")
    options = BuildOptions(checkpoint, out)
    with pytest.raises(SdicError, match="there is already a bundle at"):
        build(options)
    assert (out / "bundle.json").read_text() == "{}"
    build(dataclasses.replace(options, force=True))
    assert json.loads((out / "bundle.json").read_text())["name"] == "bundle" and names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("field", ["checkpoint", "others", "directions", "pictures"])
def test_what_a_build_reads_is_not_replaced_by_it(field: str, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    inside = out / "given/file"
    inside.parent.mkdir(parents=True)
    inside.write_text("mine")
    (out / "bundle.json").write_text("{}")
    changes: dict[str, Any] = {field: inside if field == "checkpoint" else [inside]}
    options = BuildOptions(**{"checkpoint": checkpoint, "out": out, "force": True, **changes})
    what = {"checkpoint": "checkpoint", "others": "file", "directions": "direction", "pictures": "picture"}[field]
    with pytest.raises(ArgumentError, match=f"^the {what} {inside} would go with what is at {out}; move it out of there or name another"):
        build(options)
    assert inside.read_text() == "mine"


def test_bad_input_is_refused_before_any_work(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "run_all", lambda *_: pytest.fail("work was begun"))
    np.save(tmp_path / "wide.npy", np.ones(512, np.float32))
    (tmp_path / "notes.png").write_text("text")
    (tmp_path / "mine.toml").write_text('type = "float16"\n[limits]\nstage = 50\nchain = 50\nlargest = 0.5\n[tail]\naxes = 2')
    cases: list[tuple[dict[str, Any], type[SdicError], str]] = [
        ({"checkpoint": tmp_path / "none.pt"}, CheckpointError, 'there is no file ".*none.pt"'),
        ({"weights": "int8"}, ArgumentError, 'the weights are "int8"; use float32 or float16'),
        ({"method": "hfgi2"}, BundleError, 'the method "hfgi2" cannot be exported here; known are: sdic'),
        ({"policy": tmp_path / "mine.toml"}, ArgumentError, '"mine" has rules for the stage "tail", and the stages are every, e4e, gen'),
        ({"directions": [tmp_path / "wide.npy"]}, FileError, r"wide\.npy does not fit this model"),
        ({"pictures": [tmp_path / "notes.png"]}, PictureError, r"notes\.png is not a picture"),
    ]
    for changes, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            build(dataclasses.replace(BuildOptions(checkpoint, tmp_path / "bundle"), **changes))
        assert not (tmp_path / "bundle").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest))
    sentence = r'sdic-export build needs the package "onnxscript"; install it with: pip install "sdic-toolkit\[export\]"'
    with pytest.raises(MissingExtraError, match=sentence):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))


def test_cpu_optimized_graphs_lie_beside_the_standard_ones(arranged: Any, built: Any) -> None:
    bundle = Bundle.open(arranged.folder)
    bundle.check()
    assert optimized(bundle.manifest) == {
        "generator_head": ("onnx/fp32/generator_head.cpu.onnx",),
        "dicn": ("onnx/fp32/dicn.cpu.onnx",),
        "generator_head:rgb": ("onnx/fp32/generator_head.cpu.rgb.onnx",),
    }
    # What the optimized head needs besides the weights of the standard one is small, and lies in its own file.
    assert bundle.manifest.weights["onnx/fp32/generator_head.cpu.onnx"] == ("onnx/fp32/generator_head.onnx.data",)
    own = {name: entry for name, entry in built.report.manifest.files.items() if not {"cpu", "openvino"} & set(name.split("."))}
    for name, entry in own.items():  # the standard graphs are as they were
        if name.startswith("onnx/"):
            assert bundle.manifest.files[name] == entry
    added = set(bundle.manifest.files) - set(own)
    for_openvino = {key: bundle.manifest.graphs[key][OPENVINO] for key in graph_keys(bundle.manifest, OPENVINO)}
    assert for_openvino == {**optimized(bundle.manifest), "dicn": ("onnx/fp32/dicn.openvino.onnx",)}
    assert added == {name for names in (*optimized(bundle.manifest).values(), *for_openvino.values()) for name in names}
    reports = {report.stage: report for report in arranged.report.stages}
    for stage, report in reports.items():
        assert (report.cpu is not None) == (stage in optimized(bundle.manifest))
        files = [entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith(f"onnx/fp32/{stage}.")]
        assert report.bytes == sum(files)
    found = reports["dicn"].cpu
    assert found is not None and found.where in ("dicn (onnxruntime-cpu)", "dicn (openvino)") and 0 < found.ratio < 1e-4


def test_the_runtime_takes_the_cpu_optimized_graphs(arranged: Any, built: Any) -> None:
    image = smooth_pictures(64, 1)
    pipelines = [Pipeline.load(folder, backend="onnxruntime", threads=1) for folder in (arranged.folder, built.folder)]
    assert pipelines[0].backend.description.endswith(", CPU-optimized graphs of dicn, generator_head, generator_head:rgb")
    got, want = (pipeline.invert(image) for pipeline in pipelines)
    for name in ("latent_enhanced", "residual", "pixels"):
        value, reference = getattr(got, name), getattr(want, name)
        assert float(np.abs(value - reference).max()) <= 2e-4 * float(reference.std()), name


def test_without_cpu_optimized_graphs_there_are_none(copies: Any, checkpoint: Path, tmp_path: Path, cpu_table: Any) -> None:
    cpu_table({"dicn": lambda *_: pytest.fail("it was asked for")})
    build(BuildOptions(checkpoint, tmp_path / "bundle", cpu_graphs=False))
    assert optimized(Bundle.open(tmp_path / "bundle").manifest) == {}
    assert not list((tmp_path / "bundle").rglob("*.cpu.onnx"))


class PaleHead(nn.Module):
    """The head with a weight of its own, and an error in the smaller of its outputs."""

    def __init__(self, head: nn.Module, error: float) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("one", torch.ones(1, 12, 32) / 32)
        self.register_buffer("error", torch.full((3, 32, 32), error))

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature, rgb = self.head((latent[..., None] * self.one[..., None, :]).sum(-1))
        return feature, rgb + self.error


def test_an_optimized_graph_of_one_output_shares_the_weights_of_both_variants(
    copies: Any, checkpoint: Path, tmp_path: Path, cpu_table: Any
) -> None:
    cpu_table({"generator_head": lambda head, *_: [PaleHead(head, 0)]})
    report = build(BuildOptions(checkpoint, tmp_path / "bundle"))
    folder = tmp_path / "bundle/onnx/fp32"
    whole, part = (ir.load(folder / f"generator_head.cpu{form}.onnx").graph for form in ("", ".rgb"))
    assert [[value.name for value in graph.outputs] for graph in (whole, part)] == [["feature", "rgb"], ["rgb"]]
    held = {value.name: value.const_value for value in part.initializers.values()}
    large = {str(tensor.location) for tensor in held.values() if isinstance(tensor, ir.ExternalTensor)}
    assert large == {"generator_head.onnx.data", "generator_head.cpu.onnx.data"}
    assert all(isinstance(tensor, ir.ExternalTensor) or tensor.nbytes <= 1024 for tensor in held.values())
    assert set(optimized(report.manifest)) == {"generator_head", "generator_head:rgb"}
    assert {name.rpartition("/")[2] for name in report.manifest.weights["onnx/fp32/generator_head.cpu.rgb.onnx"]} == large
    assert len(part) < len(whole)
    pipeline = Pipeline.load(tmp_path / "bundle", backend="onnxruntime", threads=1)
    assert pipeline.invert(smooth_pictures(64, 2)).pixels.shape == (2, 3, 128, 128)


def test_an_error_in_the_optimized_rgb_fails_the_build(copies: Any, checkpoint: Path, tmp_path: Path, cpu_table: Any) -> None:
    cpu_table({"generator_head": lambda head, *_: [PaleHead(head, 0.1)]})
    with pytest.raises(BundleError, match=r'^"rgb" of generator_head \(onnxruntime-cpu\) is off by \S+ of its standard deviation'):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert names(tmp_path) == []


class Shifted(nn.Module):
    """DIPN with an error."""

    def __init__(self, dipn: nn.Module) -> None:
        super().__init__()
        self.dipn = dipn

    def forward(self, image: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        return self.dipn(image, reconstruction) + 0.1 * image


def test_an_optimized_graph_that_differs_fails_the_build(copies: Any, checkpoint: Path, tmp_path: Path, cpu_table: Any) -> None:
    cpu_table({"dipn": lambda dipn, *_: [Shifted(dipn)]})
    with pytest.raises(BundleError, match=r'^"discrepancy" of dipn \(onnxruntime-cpu\) is off by \S+ of its standard deviation'):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert names(tmp_path) == []


def test_bands_of_a_stage_lie_beside_its_graph_and_share_its_weights(in_bands: Any) -> None:
    bundle = Bundle.open(in_bands.folder)
    bundle.check()
    graphs = tuple(f"onnx/fp32/generator_tail.cpu.{band}.onnx" for band in (0, 1))
    assert optimized(bundle.manifest) == {"generator_tail": graphs}
    report = next(report for report in in_bands.report.stages if report.stage == "generator_tail")
    assert report.cpu is not None and report.cpu.where == "generator_tail (onnxruntime-cpu)" and report.cpu.ratio < 1e-4
    added = {name for name in bundle.manifest.files if ".cpu." in name}
    assert set(graphs) <= added and all(name.removesuffix(".data") in graphs for name in added)
    files = {name: entry.bytes for name, entry in bundle.manifest.files.items()}
    assert files[graphs[0] + ".data"] > 10 * files.get(graphs[1] + ".data", 0)  # the second band reads the weights of the first
    pictures = [ir.load(in_bands.folder / graph).graph for graph in graphs]
    assert [list(graph.outputs[0].shape.numpy()) for graph in pictures] == [[1, 3, 96, 128], [1, 3, 32, 128]]
    assert all(value.shape.numpy()[0] == 1 for graph in pictures for value in graph.inputs)


@pytest.mark.parametrize("count", [1, 3])
def test_the_runtime_puts_bands_together(count: int, in_bands: Any, built: Any) -> None:
    image = np.random.default_rng(count).uniform(-1, 1, (count, 3, 64, 64)).astype(np.float32)
    pipelines = [Pipeline.load(folder, backend="onnxruntime", threads=2) for folder in (in_bands.folder, built.folder)]
    assert pipelines[0].backend.description.endswith(", CPU-optimized graphs of generator_tail")
    got, want = (pipeline.invert(image).pixels for pipeline in pipelines)
    assert got.shape == want.shape and float(np.abs(got - want).max()) <= 2e-4 * float(want.std())


def test_bands_that_omit_rows_fail_the_build(copies: Any, checkpoint: Path, tmp_path: Path, tail_band: Any, cpu_table: Any) -> None:
    cpu_table({"generator_tail": lambda tail, *_: [tail_band(tail, *rows) for rows in ((0, 64), (64, 120))]})
    with pytest.raises(
        BundleError,
        match=r'^the bands of the stage "generator_tail \(onnxruntime-cpu\)" give picture as \[1, 3, 64, 128\], '
        r"\[1, 3, 56, 128\], which do not add up to the rows of \[1, 3, 128, 128\]; build it again",
    ):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert names(tmp_path) == []


class LateTail(nn.Module):
    """The lower half of the tail's picture with an error in its last row."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = tail
        self.register_buffer("error", torch.cat([torch.zeros(63), torch.ones(1)])[:, None])

    def forward(self, feature: torch.Tensor, residual: torch.Tensor, rgb: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        picture: torch.Tensor = self.tail(feature, residual, rgb, latent)[:, :, 64:] + self.error
        return picture


def test_an_error_in_one_band_fails_the_build(copies: Any, checkpoint: Path, tmp_path: Path, tail_band: Any, cpu_table: Any) -> None:
    cpu_table({"generator_tail": lambda tail, *_: [tail_band(tail, 0, 64), LateTail(tail)]})
    with pytest.raises(BundleError, match=r'^"picture" of generator_tail \(onnxruntime-cpu\) is off by \S+ of its standard deviation'):
        build(BuildOptions(checkpoint, tmp_path / "bundle"))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "config", "expected"),
    [
        (None, FACES, "ffhq"),
        (None, CARS, None),
        (None, DEMO, None),
        (None, replace(FACES, resolution=256), None),
        ("none", FACES, None),
        ("ffhq", DEMO, "ffhq"),
    ],
)
def test_the_alignment_of_faces_by_domain_and_by_wish(wanted: str | None, config: ModelConfig, expected: str | None) -> None:
    assert alignment(wanted, config.domain, config.resolution) == expected


def test_an_unknown_alignment_is_refused() -> None:
    with pytest.raises(ArgumentError, match='the alignment of faces is "mtcnn"; use ffhq or none'):
        alignment("mtcnn", FACES.domain, FACES.resolution)
