"""The files for Polygraphy: its own tools read them, pass on sound graphs and find what is wrong with others."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from polygraphy.comparator import RunResults
from polygraphy.json import load_json
from polygraphy.tools._main import main as polygraphy_main

from sdic_export.build import finish
from sdic_export.golden import makers, read_golden
from sdic_export.polygraphy_files import BISECT, EVERY, INPUTS, LOADER, OUTPUTS, REDUCED, RUNNERS, PolygraphyOptions, write_polygraphy
from sdic_runtime.bundle.bundle import DEMO_FOLDER, Bundle
from sdic_runtime.bundle.manifest import MANIFEST_NAME
from sdic_runtime.errors import ArgumentError, BundleError, MissingExtraError

METHOD = Bundle.open().manifest
DIPN = DEMO_FOLDER / "onnx/fp32/dipn.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("polygraphy") / "demo"
    said: list[str] = []
    assert write_polygraphy(PolygraphyOptions(DEMO_FOLDER, folder), said.append) == list(METHOD.stages)
    assert said == ["computing the stages", *(f"writing {stage}" for stage in METHOD.stages)]
    return folder


def words(script: Path) -> list[str]:
    """What the last line of a script runs, without `polygraphy` and "$@"."""
    return shlex.split(script.read_text().splitlines()[-1])[1:-1]


def polygraphy(arguments: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Polygraphy's own command, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["polygraphy", *arguments])
    with pytest.raises(SystemExit) as ended:
        sys.exit(polygraphy_main())
    return int(ended.value.code or 0)


def test_every_stage_has_its_files(folder: Path) -> None:
    files = {INPUTS, OUTPUTS, LOADER, BISECT, EVERY, *(f"{name}.sh" for name in RUNNERS)}
    for name, stage in METHOD.stages.items():
        assert {path.name for path in (folder / name).iterdir()} == files
        (inputs,) = load_json(str(folder / name / INPUTS))
        assert {tensor: array.shape for tensor, array in inputs.items()} == {tensor: METHOD.shape(tensor, 1) for tensor in stage.inputs}
        assert all(array.dtype == np.float32 for array in inputs.values())
        ((outputs,),) = RunResults.load(str(folder / name / OUTPUTS)).values()
        assert {tensor: outputs[tensor].shape for tensor in outputs} == {tensor: METHOD.shape(tensor, 1) for tensor in stage.outputs}
        assert os.access(folder / name / BISECT, os.X_OK)
    rtx = (folder / "dipn/tensorrt-rtx.sh").read_text().splitlines()
    assert rtx[-2] == "export POLYGRAPHY_USE_TENSORRT_RTX=1" and "--trt --strongly-typed" in rtx[-1]
    assert "| `every_tensor.sh` |" in (folder / "README.md").read_text()


def test_the_stages_pass_on_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in METHOD.stages:
        assert polygraphy(words(folder / stage / "onnxruntime.sh"), folder / stage, monkeypatch) == 0


def test_the_loader_script_is_read_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = words(folder / "dipn" / "onnxruntime.sh")
    place = arguments.index("--load-inputs")
    arguments[place : place + 2] = ["--data-loader-script", LOADER]
    assert polygraphy(arguments, folder / "dipn", monkeypatch) == 0


def test_another_graph_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = words(folder / "dipn" / "onnxruntime.sh")
    arguments[1] = str(damaged(DIPN, tmp_path, 1.01)[0])
    assert polygraphy(arguments, folder / "dipn", monkeypatch) != 0


def test_the_script_is_one(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", folder / "dipn/onnxruntime.sh", "-v"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "PASSED" in done.stdout


def test_the_expected_outputs_are_golden_where_there_are_such(tmp_path: Path) -> None:
    write_polygraphy(PolygraphyOptions(DEMO_FOLDER, tmp_path / "new", backend="torch-plain", pictures=2))
    golden, seen = read_golden(Bundle.open().file(METHOD.golden or ""), METHOD), set()
    for value, step in makers(METHOD).items():
        ((outputs,),) = RunResults.load(str(tmp_path / "new" / step.stage / OUTPUTS)).values()
        tensor = next((name for name, made in step.outputs.items() if made == value), None)
        thinned = golden.thinned(value, outputs[tensor]) if tensor in outputs else None
        if thinned is not None and thinned.shape == golden.tensors[value].shape and np.array_equal(thinned, golden.tensors[value]):
            seen.add(value)
    assert len(seen) >= 5
    shape = str(list(METHOD.shape("latent", 2))).replace(" ", "")
    for name in ("tensorrt.sh", "onnxruntime.sh", EVERY, BISECT):
        lines = (tmp_path / "new/generator_head" / name).read_text().splitlines()
        runs = [line for line in lines if "--load-inputs" in line]
        assert runs and all(f"--input-shapes 'latent:{shape}' --load-inputs" in line for line in runs if "debug reduce" not in line), runs
    script, readme = (tmp_path / "new/dipn/onnxruntime.sh").read_text(), (tmp_path / "new/README.md").read_text()
    for text in (script, readme):
        assert "PyTorch gave" in text and "plain generator" in text


def test_expected_outputs_of_a_reduced_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match='expected outputs must be computed in fp32, and "torch:precision=bf16" computes in bf16; name another'
    ):
        write_polygraphy(PolygraphyOptions(DEMO_FOLDER, tmp_path / "new", backend="torch:precision=bf16"))
    assert not (tmp_path / "new").exists()


@pytest.mark.full
def test_bisection_of_a_sound_graph_says_that_nothing_is_off(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder / "dipn", tmp_path / "dipn"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", place / BISECT, "--onnxrt"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("nothing is off: the outputs are ")
    assert "Minimum Bad Model" not in done.stdout and not (place / REDUCED).exists()


@pytest.mark.full
@pytest.mark.parametrize("mode", ["bisect", "linear"])
def test_bisection_finds_a_damaged_node(folder: Path, tmp_path: Path, mode: str) -> None:
    tail = DEMO_FOLDER / "onnx/fp32/generator_tail.onnx"
    model, tensor = damaged(tail, tmp_path, 1.3)
    place = Path(shutil.copytree(folder / "generator_tail", tmp_path / "tail"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODEL": str(model),
        "MODE": mode,
    }
    subprocess.run(["sh", place / BISECT, "--onnxrt"], capture_output=True, text=True, env=environment, check=True)
    reduced = onnx.load(str(place / REDUCED))
    made = [output for node in reduced.graph.node for output in node.output]
    assert tensor in made and len(reduced.graph.node) < len(onnx.load(str(tail)).graph.node)
    if mode == "linear":
        assert [output.name for output in reduced.graph.output] == [tensor]
    found = subprocess.run(["sh", place / EVERY, "--onnxrt"], capture_output=True, text=True, env=environment, check=False)
    assert found.returncode != 0 and f"FAILED | Output: '{tensor}'" in found.stdout


def damaged(graph: Path, folder: Path, factor: float) -> tuple[Path, str]:
    """A copy with the weights of its first convolution multiplied, and that node's output."""
    model = onnx.load(str(graph))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, str(folder / graph.name))
    return folder / graph.name, node.output[0]


def test_places_and_values_that_cannot_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="there is already something at .*; replace it with --force or name another folder"):
        write_polygraphy(PolygraphyOptions(DEMO_FOLDER, folder))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="there is already something at .*; name a new folder"):
        write_polygraphy(PolygraphyOptions(DEMO_FOLDER, tmp_path / "other", force=True))
    with pytest.raises(ArgumentError, match=r"9 pictures were asked for, and the bundle has \d+ golden ones"):
        write_polygraphy(PolygraphyOptions(DEMO_FOLDER, tmp_path / "new", pictures=9))
    assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", None)
    with pytest.raises(MissingExtraError, match="polygraphy"):
        write_polygraphy(PolygraphyOptions(DEMO_FOLDER, tmp_path / "new"))


def test_a_backend_that_is_off_is_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "bundle"))
    damaged(copy / "onnx/fp32/dipn.onnx", copy / "onnx/fp32", 1.1)
    manifest = Bundle.open(copy).manifest
    (copy / MANIFEST_NAME).unlink()
    finish(copy, manifest)
    with pytest.raises(BundleError, match="is off by .* of its standard deviation"):
        write_polygraphy(PolygraphyOptions(copy, tmp_path / "new"))
