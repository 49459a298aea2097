"""Engines: TensorRT-RTX builds them here without a GPU; what they hold, what is used again, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from sdic_export.cli.app import app
from sdic_export.cli.app import main as run_export
from sdic_export.graphs.bytes_graph import write_bytes_graph
from sdic_export.graphs.exporter import export_alone, weights_of
from sdic_export.half.precision import write_half
from sdic_export.tensorrt import engines
from sdic_export.tensorrt.builder import build_engine, check_settings
from sdic_export.tensorrt.census import Census, graph_census
from sdic_export.tensorrt.engines import EngineProgress, build_engines, plan_engines
from sdic_runtime.backends.cuda.driver import gpu_count
from sdic_runtime.backends.tensorrt import library
from sdic_runtime.backends.tensorrt.engine_files import SIDECAR, graph_file, graph_names, read_sidecar
from sdic_runtime.backends.tensorrt.library import load_library
from sdic_runtime.backends.tensorrt.settings import EngineSettings, Hardware, Profile, Target
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import file_entries, write_manifest
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, MissingExtraError, SdicError
from sdic_runtime.pictures import to_bytes

RTX, PROPER = Target.tensorrt_rtx, Target.tensorrt
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


def with_files(folder: Path, names: list[str], **changes: Any) -> None:
    """Change fields of the manifest in `folder`, and list the new or changed files `names`."""
    manifest = Bundle.open(folder).manifest
    write_manifest(folder, msgspec.structs.replace(manifest, files={**manifest.files, **file_entries(folder, names)}, **changes))


@pytest.fixture(scope="module")
def half_bundle(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with graphs in half precision."""
    folder = Path(shutil.copytree(built.folder, tmp_path_factory.mktemp("half") / "bundle"))
    manifest = Bundle.open(folder).manifest
    graphs = {key: dict(variants) for key, variants in manifest.graphs.items()}
    for key in sorted(key for key, variants in graphs.items() if "fp32" in variants):  # a stage comes before its outputs
        stage, _, output = key.partition(":")
        single = graphs[key]["fp32"][0]
        half = single.replace("fp32", "fp16")
        graphs[key]["fp16"] = (half,)
        if output:
            export_alone(folder / graphs[stage]["fp16"][0], output, folder / half)
        else:
            write_half(folder / single, folder / half, stage)
    made = [variants["fp16"][0] for variants in graphs.values() if "fp16" in variants]
    names = [path.relative_to(folder).as_posix() for path in (folder / "onnx/fp16").iterdir()]
    with_files(folder, names, graphs=graphs, weights={**manifest.weights, **weights_of(folder, made)})
    return folder


@pytest.fixture(scope="module")
def with_engines(half_bundle: Path) -> Path:
    """The same with TensorRT-RTX engines of all graphs; no test may change it."""
    build_engines(half_bundle, "tensorrt-rtx")
    return half_bundle


@pytest.fixture
def changeable(with_engines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_engines, tmp_path / "bundle"))


def engine_folder_of(bundle: Path) -> Path:
    (folder,) = (path.parent for path in bundle.glob(f"engines/*/{SIDECAR}"))
    return folder


# real builds --------------------------------------------------------------------------------------------------------------------------


@needs_rtx
def test_all_graphs_become_half_precision_engines_without_a_gpu(with_engines: Path) -> None:
    folder, bundle = engine_folder_of(with_engines), Bundle.open(with_engines)
    sidecar = read_sidecar(folder)
    assert sidecar.target == "tensorrt-rtx"
    assert sidecar.gpu is None
    assert list(sidecar.stages) == graph_names(bundle, "fp16") == [*bundle.manifest.stages, "generator_head:rgb", "to_bytes"]
    for name, entry in sidecar.stages.items():
        if name == "to_bytes":
            continue
        assert (folder / entry.file).stat().st_size == entry.bytes
        census = Census(**entry.census)
        assert census.source == "plan"
        asked = graph_census(graph_file(bundle, name, "fp16"))
        assert census.weight_share("float16") == pytest.approx(asked.weight_share("float16"), abs=0.15)
        assert census.capturable
    assert not list(folder.glob(".*tmp"))


@needs_rtx
def test_what_fits_is_used_again(with_engines: Path) -> None:
    folder = engine_folder_of(with_engines)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    plan = plan_engines(with_engines, "tensorrt-rtx")
    assert plan.folder == folder
    assert {(item.action, item.reason) for item in plan.graphs} == {("reuse", "it fits its graph")}
    build_engines(with_engines, "tensorrt-rtx")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@needs_rtx
def test_only_what_is_stale_is_built_again_and_says_why(changeable: Path) -> None:
    bundle, folder = Bundle.open(changeable), engine_folder_of(changeable)
    (folder / "e4e.engine").write_bytes(b"short")
    (folder / "dipn.engine").unlink()
    (name,) = bundle.manifest.graphs["dicn"]["fp16"]
    model = (changeable / name).read_bytes()
    (changeable / name).write_bytes(model + b"\x32\x00")  # an empty field that ONNX readers pass over
    with_files(changeable, [name])
    plan = plan_engines(changeable, "tensorrt-rtx")
    why = {item.graph: item.reason for item in plan.to_build}
    assert why == {
        "e4e": f"e4e.engine has 5 bytes instead of {read_sidecar(folder).stages['e4e'].bytes}",
        "dipn": "dipn.engine is missing",
        "dicn": "the ONNX file changed since",
    }
    begun: list[str] = []
    progress = EngineProgress(begin=lambda item: begun.append(f"{item.action} {item.graph}"))
    report = build_engines(changeable, "tensorrt-rtx", progress=progress)
    assert [item for item in begun if item.startswith("build")] == ["build e4e", "build dipn", "build dicn"]
    assert not plan_engines(changeable, "tensorrt-rtx").to_build
    assert set(report.sidecar.stages) == set(graph_names(bundle, "fp16"))


@needs_rtx
def test_other_settings_are_other_engines(with_engines: Path) -> None:
    others: tuple[dict[str, Any], ...] = (
        {"profile": Profile(1, 2, 8)},
        {"compute_capabilities": ("8.9",)},
        {"precision": "fp32"},
        {"workspace_bytes": 1 << 30},
    )
    for other in others:
        plan = plan_engines(with_engines, "tensorrt-rtx", EngineSettings(**other))
        assert plan.folder != engine_folder_of(with_engines)
        assert {item.reason for item in plan.graphs} == {"there are no engines for these settings yet"}
    assert {item.reason for item in plan_engines(with_engines, "tensorrt-rtx", force=True).graphs} == {"it was asked for"}


@needs_rtx
def test_a_float32_graph_that_is_passed_off_as_half_fails(half_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(half_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))
    monkeypatch.setattr(engines, "graph_file", lambda bundle, graph, precision: graph_file(bundle, graph, "fp32"))
    monkeypatch.setattr(engines, "graph_census", lambda path: Census("graph", {}, {"float16": 100}, 1))
    with pytest.raises(
        SdicError,
        match='^the engine of "e4e" was asked for in fp16 and is not: 0% of its tensors and 0% of its weights '
        "are float16, and at least 50% of the weights are expected$",
    ):
        build_engines(folder, "tensorrt-rtx")
    assert not list(folder.glob("engines/*/*.engine"))


@needs_rtx
def test_progress_rises_to_one(half_bundle: Path) -> None:
    seen: list[float] = []
    build_engine(half_bundle / "onnx/fp16/dicn.onnx", RTX, EngineSettings(), lambda phase, done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == pytest.approx(1)


@needs_rtx
def test_ctrl_c_stops_cleanly_and_the_next_build_goes_on(half_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(half_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))

    def interrupt(graph: str, phase: str, done: float) -> None:
        if graph == "generator_preview":
            os.kill(os.getpid(), signal.SIGINT)

    def begin_late(planned: Any) -> None:
        if planned.graph == "dipn":
            pytest.fail("the build went on")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engines(folder, "tensorrt-rtx", progress=EngineProgress(step=interrupt, begin=begin_late))
    assert signal.getsignal(signal.SIGINT) is before
    made = engine_folder_of(folder)
    assert sorted(path.name for path in made.glob("*.engine")) == ["e4e.engine", "generator_head.engine"]
    assert not list(made.glob(".*tmp"))
    assert plan_engines(folder, "tensorrt-rtx").to_build[0].graph == "generator_preview"


@needs_rtx
def test_two_builds_at_once(changeable: Path) -> None:
    from filelock import FileLock

    folder = engine_folder_of(changeable)
    (folder / "dicn.engine").unlink()
    with FileLock(folder / ".lock"), pytest.raises(BackendError, match=f"^another process is building in {folder}; wait for it to end$"):
        build_engines(changeable, "tensorrt-rtx")


@needs_rtx
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EngineSettings(compute_capabilities=("9.0",)), "does not build for compute capability 9.0; it builds for 7.5, 8.0, .* tensorrt$"),
        (EngineSettings(workspace_bytes=-5), "^the workspace is -5 bytes; give at least 1 MB$"),
        (EngineSettings(weights="stripped"), "^TensorRT-RTX .* cannot build dicn.onnx: IBuilder::buildSerializedNetwork: "),
    ],
)
def test_what_the_builder_refuses(half_bundle: Path, settings: EngineSettings, message: str) -> None:
    if settings.weights == "stripped" and gpu_count():
        pytest.skip("with a GPU it can")
    with pytest.raises(SdicError, match=message):
        build_engine(half_bundle / "onnx/fp16/dicn.onnx", RTX, settings)


@needs_rtx
def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_text("this is not a graph")
    with pytest.raises(SdicError, match=f"^({path} holds no graph; build it again|TensorRT-RTX .* cannot parse {path}: )"):
        build_engine(path, RTX, EngineSettings())


@pytest.mark.parametrize("rows", [(0, 128), (16, 112)])
def test_the_graph_of_bytes_makes_what_the_host_makes(tmp_path: Path, rows: tuple[int, int]) -> None:
    write_bytes_graph(tmp_path / "bytes.onnx", 128, rows)
    picture = np.random.default_rng(0).normal(0, 1, (2, 3, 128, 128)).astype(np.float32)
    picture[0, 0, rows[0], :4] = np.float32([-1, 1, 0, 1 / 255])
    session = onnxruntime.InferenceSession(str(tmp_path / "bytes.onnx"), providers=["CPUExecutionProvider"])
    made, total = session.run(["bytes", "total"], {"picture": picture})
    np.testing.assert_array_equal(made, to_bytes(picture, rows))
    np.testing.assert_allclose(total, np.abs(picture).sum((1, 2, 3)), rtol=1e-4)
    picture[1, 2, 0, 0] = np.inf
    assert np.isfinite(session.run(["total"], {"picture": picture})[0]).tolist() == [True, False]


# without a build ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (RTX, EngineSettings(hardware=Hardware.ampere_plus), "^TensorRT-RTX has no setting hardware; omit it or use --target tensorrt$"),
        (PROPER, EngineSettings(compute_capabilities=("8.9",)), "^TensorRT has no setting compute capabilities; .* --target tensorrt-rtx$"),
        (RTX, EngineSettings(compute_capabilities=("89",)), '^the compute capability "89" is no version; give N.N, such as 8.9$'),
        (RTX, EngineSettings(compute_capabilities=("1.20",)), '^the compute capability "1.20" is no version; give N.N, such as 8.9$'),
        (RTX, EngineSettings(compute_capabilities=("8.9", "12.0", "8.9")), '^the compute capability "8.9" is given twice; give each once$'),
    ],
)
def test_settings_that_a_target_does_not_have(target: Any, settings: EngineSettings, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check_settings(target, settings)


def test_libraries_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError("no", name=name)

    monkeypatch.setattr(library.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match='^TensorRT needs the package "tensorrt"; install it with: pip'):
        load_library(PROPER)
    old = type("Module", (), {"__version__": "10.3.0"})
    monkeypatch.setattr(library.importlib, "import_module", lambda name: old)
    with pytest.raises(
        BackendError, match=r"^TensorRT 10.3.0 is installed and 10.12 is the oldest that works; update it with: pip install"
    ):
        load_library(PROPER)


def test_tensorrt_needs_the_gpu_it_builds_for(half_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "load_library", lambda target: type("Module", (), {"__version__": "11.4.0"}))
    monkeypatch.setattr(engines, "gpu_count", lambda: 0)
    with pytest.raises(
        BackendError, match="^TensorRT builds for the GPU of this machine, and there is none; run the command where the GPU"
    ):
        plan_engines(half_bundle, "tensorrt")


@pytest.mark.parametrize(
    ("target", "precision", "kind", "message"),
    [
        ("cuda", "fp16", ArgumentError, '^there is no target "cuda"; use tensorrt or tensorrt-rtx$'),
        ("tensorrt-rtx", "fp16", BundleError, "has no graphs in fp16, only in fp32; add them with: sdic-export half .* --policy fp16$"),
        ("tensorrt-rtx", "int8", BundleError, "has no graphs in int8, only in fp32; choose one of them with --precision$"),
    ],
)
def test_what_cannot_be_planned(built: Any, target: str, precision: str, kind: type[SdicError], message: str) -> None:
    with pytest.raises(kind, match=message):
        plan_engines(built.folder, target, EngineSettings(precision=precision))


# the command --------------------------------------------------------------------------------------------------------------------------


@needs_rtx
def test_a_dry_run_prints_and_writes_nothing(changeable: Path) -> None:
    (engine_folder_of(changeable) / "dicn.engine").unlink()
    before = sorted(path.name for path in changeable.rglob("*"))
    result = CliRunner().invoke(app, ["engines", str(changeable), "--target", "tensorrt-rtx", "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("TensorRT-RTX ")
    assert "reuse  e4e                  it fits its graph" in lines
    assert "build  dicn                 dicn.engine is missing" in lines
    assert sorted(path.name for path in changeable.rglob("*")) == before


@needs_rtx
def test_batches_of_graphs_for_one_picture_are_refused(
    half_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "_for_one", lambda bundle, precision: "refine")
    assert plan_engines(half_bundle, "tensorrt-rtx").settings.profile == Profile(1, 1, 1)
    for batch in ("1,1,4", "1,2,8"):
        assert run_export(["engines", str(half_bundle), "--target", "tensorrt-rtx", "--batch", batch, "--dry-run"]) == 2
        sentence = f'error: the batch profile is {batch}, and the stage "refine" is for one picture at a time; omit --batch\n'
        assert capsys.readouterr().err == sentence
    with pytest.raises(ArgumentError, match="is for one picture at a time; omit --batch"):
        plan_engines(half_bundle, "tensorrt-rtx", EngineSettings(profile=Profile(1, 2, 8)))
    assert run_export(["engines", str(half_bundle), "--target", "tensorrt-rtx", "--batch", "1,1,1", "--dry-run"]) == 0


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_graph_is_one_sentence(damage: str, half_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(half_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))
    path = folder / "onnx/fp16/dipn.onnx"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"dipn\.onnx"):
        plan_engines(folder, "tensorrt-rtx")


@needs_rtx
def test_the_command_says_what_each_engine_holds(changeable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (engine_folder_of(changeable) / "dicn.engine").unlink()
    assert run_export(["engines", str(changeable), "--target", "tensorrt-rtx"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{engine_folder_of(changeable)}\n"
    assert "as it was" in next(line for line in output.err.splitlines() if line.startswith("e4e"))
    assert "% float16" in next(line for line in output.err.splitlines() if line.startswith("dicn "))


def test_bad_input_is_one_sentence(half_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_export(["engines", str(half_bundle / "nowhere"), "--target", "tensorrt-rtx"]) == 2
    assert "error: there is no bundle at" in capsys.readouterr().err
    assert run_export(["engines", str(half_bundle), "--target", "tensorrt-rtx", "--batch", "4,1,1"]) == 2
    assert capsys.readouterr().err == "error: the batch profile is 4,1,1; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,1,4\n"
