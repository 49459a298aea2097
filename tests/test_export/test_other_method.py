"""A method that no package has heard of is exported and used without a change to them, with the numbers of its plain Python chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import other_method as other
import pytest
import torch
from PIL import Image
from triton_steps import carried_out, parsed

from sdic_export.cli import app
from sdic_export.half.stages import add_precision
from sdic_export.inspect import inspect_bundle, work
from sdic_export.triton.repository import TritonOptions, write_repository
from sdic_export.verify import CHECKPOINT, GOLDEN, verify
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import GanSpaceEdit
from sdic_runtime.inversion import Inversion
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.tools.bench import Plan, measure
from sdic_runtime.tools.compare import compare_backends

CLOSE = 1e-5
STRENGTH = 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other.built(tmp_path_factory)


@pytest.fixture(scope="module")
def networks(folder: Path) -> other.Sketches:
    return other.load(folder.parent / "sketches.safetensors", None)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(folder, "onnxruntime", threads=1)


@pytest.fixture(scope="module")
def inversion(pipeline: Pipeline) -> Inversion:
    return pipeline.invert(other.images(2))


def assert_close(found: np.ndarray, want: torch.Tensor) -> None:
    assert found.dtype == np.float32 and found.shape == tuple(want.shape)
    assert np.abs(found - want.numpy()).max() < CLOSE


def moved(networks: other.Sketches, inversion: Inversion, strength: float) -> torch.Tensor:
    offset = torch.from_numpy(strength * other.direction().vector[None])
    image, code, second = (torch.from_numpy(inversion.tensors[name].host()) for name in ("image", "code", "offset"))
    return other.plain_edit(networks, image, code + offset, second + offset)


def test_what_was_written(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert manifest.method == other.NAME and manifest.sizes["Q"] == other.CHANNELS
    assert [step.stage for step in manifest.programs["invert"].steps] == ["start", *["draw", "refine"] * 3, "draw", "compare", "paint"]
    assert manifest.programs["turn"].zeros == ("detail",)
    variants = {key: sorted(choices) for key, choices in manifest.graphs.items()}
    both, one = ["fp32", "onnxruntime-cpu"], ["fp32"]
    # "draw:sketch" is asked for too, but has almost all of the stage's work.
    wanted = {"start": one, "draw": both, "draw:draft": both, "refine": one, "compare": one, "compare:detail": one, "paint": both}
    assert variants == wanted
    assert len(manifest.graphs["paint"]["onnxruntime-cpu"]) == 2


def test_inversions_are_the_plain_chains(inversion: Inversion, networks: other.Sketches, tmp_path: Path) -> None:
    want = other.plain_inversion(networks, torch.from_numpy(other.images(2)))
    inversion.save(tmp_path / "two.safetensors")
    for found in (inversion, Inversion.load(tmp_path / "two.safetensors")):
        assert set(found.tensors) == set(want)
        for name, tensor in want.items():
            assert_close(found.tensors[name].host(), tensor)


def test_edits_are_the_plain_chains(pipeline: Pipeline, inversion: Inversion, networks: other.Sketches, tmp_path: Path) -> None:
    inversion.save(tmp_path / "two.safetensors")
    want = moved(networks, inversion, STRENGTH)
    assert float((want - torch.from_numpy(inversion.pixels)).abs().max()) > 0.1
    for source in (inversion, Inversion.load(tmp_path / "two.safetensors")):
        assert_close(pipeline.edit(source, "along", STRENGTH).pixels, want)
    assert np.array_equal(pipeline.edit(inversion, "along", 0.0).pixels, inversion.pixels)


def test_a_ganspace_edit_runs_a_program_of_its_own(pipeline: Pipeline, inversion: Inversion, networks: other.Sketches) -> None:
    found = pipeline.edit(inversion, GanSpaceEdit(other.basis(), 1, 0, other.ROWS, 2.0))
    want = other.plain_turn(networks, torch.from_numpy(found.latent), torch.from_numpy(inversion.offset))
    assert not np.allclose(found.latent, inversion.code)
    assert_close(found.pixels, want)


def test_it_is_verified_against_golden_tensors_and_checkpoint(folder: Path) -> None:
    result = verify(folder, checkpoint=folder.parent / "sketches.safetensors", options={"threads": 1})
    assert not result.failures and {check.against for check in result.checks} == {GOLDEN, CHECKPOINT}
    graphs = {check.difference.where for check in result.checks}
    assert {"draw:draft", "draw:draft (onnxruntime-cpu)", "draw (onnxruntime-cpu)", "paint (onnxruntime-cpu)", "refine"} <= graphs
    assert {"refined_3", "edited.plain.picture", "edited.turned.picture"} <= {check.difference.tensor for check in result.checks}


def test_a_wrong_network_is_found_in_its_stage(folder: Path, tmp_path: Path) -> None:
    networks = other.model(other.SEED)
    networks.refine.start.linear.bias += 0.01
    failures = verify(folder, checkpoint=other.save(tmp_path / "wrong.safetensors", networks), options={"threads": 1}).failures
    assert failures[0].stage == "refine" and failures[0].against == CHECKPOINT


def test_half_precision(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    assert add_precision(copy).picture.psnr > 50
    assert Bundle.open(copy).manifest.precisions == ["fp16", "fp32"]
    assert not verify(copy, precision="fp16", options={"threads": 1}).failures


def test_the_work_of_programs_is_counted(folder: Path) -> None:
    contents = inspect_bundle(folder)[1]
    runs = {item.graph: item.runs for item in contents if item.variant == "fp32"}
    assert runs["draw"] == {"invert": 1, "edit": 1, "turn": 1} and runs["draw:draft"] == {"invert": 3}
    gmac = {item.graph: item.gmac for item in contents if item.variant == "fp32"}
    assert work(contents, "fp32", "edit") == pytest.approx(gmac["draw"] + gmac["compare:detail"] + gmac["paint"])


def test_comparison_with_pytorch(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(to_bytes(other.images(1))[0]).save(tmp_path / "one.png")
    checkpoint = folder.parent / "sketches.safetensors"
    found = compare_backends(folder, tmp_path / "one.png", "onnxruntime:threads=1", "torch", checkpoint=checkpoint)
    assert found.passed and {item.where for item in found.differences} == {*Bundle.open(folder).manifest.stages, "inversion", "edit"}


def test_benchmark(folder: Path) -> None:
    found = measure(Plan(str(folder), "onnxruntime:threads=1", None, None, (1, 2), 1, 0))
    assert [set(batch["stages"]) for batch in found["batches"]] == [set(Bundle.open(folder).manifest.stages)] * 2


def test_triton_repository(folder: Path, pipeline: Pipeline, inversion: Inversion, tmp_path: Path) -> None:
    write_repository(TritonOptions(folder, tmp_path / "models"))
    configs = parsed(tmp_path / "models")
    inverted = carried_out(tmp_path / "models", configs, "bundle_invert", {"image": other.images(2)})
    for name in ("code", "offset", "picture"):
        assert np.abs(inverted[name] - inversion.tensors[name].host()).max() < CLOSE
    given: dict[str, Any] = {name: inversion.tensors[name].host() for name in ("image", "code", "offset")}
    given |= {"direction": np.stack([other.direction().vector] * 2), "strength": np.full((2, 1), STRENGTH, np.float32)}
    edited = carried_out(tmp_path / "models", configs, "bundle_edit", given)
    assert np.abs(edited["picture"] - pipeline.edit(inversion, "along", STRENGTH).pixels).max() < CLOSE
    assert np.array_equal(edited["bytes"], to_bytes(edited["picture"]))


def test_the_command_lists_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["method"] == other.NAME


def test_a_stage_for_one_output_computes_less(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "onnx/fp32/draw.draft.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["draft"]
