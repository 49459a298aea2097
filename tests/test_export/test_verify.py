"""A bundle verified, and the damage that is found."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch

from sdic_export import verify as verifying
from sdic_export.build import finish
from sdic_export.golden import makers, pictures, run_chain
from sdic_export.report import show_verification
from sdic_export.verify import CHECKPOINT, GOLDEN, verify
from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.graphs import ONNXRUNTIME_CPU, graph_keys
from sdic_runtime.errors import ArgumentError, BundleError, CheckpointError
from sdic_train.checkpoints.load import load_sdic
from sdic_train.config import TINY
from sdic_train.networks.sdic.model import SDIC

VALUES, PICTURES = 11, 3  # golden values of SDIC, and those of its tail, which is checked in parts too


@pytest.fixture
def copy(built: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.folder, tmp_path / "bundle"))


def rehash(folder: Path, **changes: Any) -> None:
    """Write the manifest again, with the hashes that the files have now."""
    manifest = msgspec.structs.replace(Bundle.open(folder).manifest, **changes)
    (folder / "bundle.json").unlink()
    finish(folder, manifest)


def test_options_stand_in_the_name_of_the_backend(built: Any) -> None:
    for backend, precision in (("onnxruntime:threads=1,precision=fp32", None), ("onnxruntime:threads=1,precision=fp32", "fp32")):
        assert not verify(built.folder, backend, precision).failures
    with pytest.raises(ArgumentError, match='^precision is "fp32" in "onnxruntime:precision=fp32" and "fp16" beside it; give one of them$'):
        verify(built.folder, "onnxruntime:precision=fp32", "fp16")


def test_a_sound_bundle_passes_in_every_tensor_at_both_batch_sizes(built: Any) -> None:
    result = verify(built.folder, options={"threads": 1})
    assert not result.failures and result.files == len(Bundle.open(built.folder).manifest.files)
    manifest = Bundle.open(built.folder).manifest
    want = [(count, name) for count in (1, 2) for name in makers(manifest)] * (2 if graph_keys(manifest, ONNXRUNTIME_CPU) else 1)
    want += [(count, name) for count in (1, 2) for name in pictures(manifest)] * (2 if graph_keys(manifest, ONNXRUNTIME_CPU) else 1)
    assert [(check.batch, check.difference.tensor) for check in result.checks] == want
    assert {check.against for check in result.checks} == {GOLDEN} and result.backend.startswith("ONNX Runtime")
    assert 0 < result.worst.difference.ratio < 1e-4


def test_the_checkpoint_is_checked_anew(built: Any, checkpoint: Path) -> None:
    result = verify(built.folder, checkpoint=checkpoint, options={"threads": 1})
    assert not result.failures
    count = len(result.checks) // 2
    assert count % (2 * (VALUES + PICTURES)) == 0 and [check.against for check in result.checks] == [GOLDEN] * count + [CHECKPOINT] * count


def test_another_checkpoint_is_told_apart(built: Any, checkpoint: Path, save_model: Any, tmp_path: Path) -> None:
    other = load_sdic(checkpoint)
    other.latent_avg = other.latent_avg + 0.01
    path = save_model(tmp_path / "other.safetensors", other)
    failures = verify(built.folder, checkpoint=path, options={"threads": 1}).failures
    assert {check.against for check in failures} == {CHECKPOINT} and failures[0].difference.tensor == "latent"


def test_a_checkpoint_of_other_sizes_is_refused(built: Any, save_model: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = SDIC(dataclasses.replace(TINY, style_width=32)).eval()
    path = save_model(tmp_path / "wide.safetensors", wide)
    with pytest.raises(CheckpointError, match=r"wide\.safetensors is of another model: its sizes are .*, the bundle's are"):
        verify(built.folder, checkpoint=path, options={"threads": 1})


def test_pytorch_is_a_backend_like_any_other(built: Any, checkpoint: Path) -> None:
    result = verify(built.folder, "torch", options={"checkpoint": checkpoint})
    assert not result.failures and result.backend.startswith("PyTorch")


def test_pictures_also_need_the_decibels_that_were_measured(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tolerance of a reduced precision is that of its worst tensor, within which a picture may lose a fifth of its contrast."""
    rehash(copy, tolerances={"fp32": 1.0})
    monkeypatch.setattr(verifying, "run_chain", faded)
    assert not verify(copy, options={"threads": 1}).failures
    rehash(copy, psnr={"fp32": 60.0})
    result = verify(copy, options={"threads": 1})
    assert {check.difference.tensor for check in result.failures} == set(pictures(Bundle.open(copy).manifest))
    assert {check.batch: round(check.as_dict()["least_psnr"], 2) for check in result.failures} == {1: 53.99, 2: 57.0}
    assert result.worst in result.failures and {check.as_dict()["least_psnr"] for check in result.checks if check.passed} == {None}
    show_verification(result, as_json=False)
    told = capsys.readouterr().out
    assert "<-- needs 57.0 dB" in told and re.search(r"or by their decibels, the first is .* dB where 54.0 are needed\)$", told.strip())
    monkeypatch.undo()
    assert not verify(copy, options={"threads": 1}).failures


def faded(backend: Backend, image: np.ndarray, *given: Any) -> dict[str, np.ndarray]:
    """What a backend gives, with pale pictures."""
    values = run_chain(backend, image, *given)
    return {name: array * np.float32(0.8) if name in pictures(backend.method) else array for name, array in values.items()}


def test_one_flipped_byte_is_found(copy: Path) -> None:
    path = copy / "onnx/fp32/dipn.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"dipn\.onnx is damaged: its SHA-256 is not the one in bundle\.json"):
        verify(copy)


def test_the_worst_check_of_every_stage_and_all_that_failed_are_told(copy: Path) -> None:
    result = verify(copy, options={"threads": 1})
    assert [check.stage for check in result.telling].count("generator_tail") == 1 and len(result.telling) == 6
    assert result.worst in result.telling
    rehash(copy, tolerances={"fp32": 1e-12})
    result = verify(copy, options={"threads": 1})
    assert result.failures and set(map(id, result.failures)) <= set(map(id, result.telling))


def test_a_changed_weight_under_a_new_hash_is_found_in_the_stage_that_has_it(copy: Path) -> None:
    path = copy / "onnx/fp32/dipn.onnx"
    model = onnx.load(str(path))
    weight = next(tensor for tensor in reversed(model.graph.initializer) if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    onnx.save(model, str(path))
    rehash(copy)
    result = verify(copy, options={"threads": 1})
    assert result.failures and result.failures[0].difference.where == "dipn" and result.failures[0].difference.tensor == "discrepancy"


def test_a_bundle_without_golden_tensors_cannot_be_verified(copy: Path) -> None:
    rehash(copy, golden=None)
    with pytest.raises(BundleError, match=r"holds no golden tensors to be checked against; build it again with: sdic-export build"):
        verify(copy)


def test_both_variants_of_a_stage_are_checked(arranged: Any) -> None:
    result = verify(arranged.folder, options={"threads": 1})
    own, cpu, parts = result.checks[: 2 * VALUES], result.checks[2 * VALUES : 4 * VALUES], result.checks[4 * VALUES :]
    assert not result.failures and len(own) == len(cpu) and len(parts) == 4 * PICTURES
    assert {check.difference.where for check in parts} == {"generator_tail in parts"}
    stages = Bundle.open(arranged.folder).manifest.stages
    assert {check.difference.where for check in own} == {*stages, "generator_head:rgb"} and {check.stage for check in own} == set(stages)
    assert {"dicn (onnxruntime-cpu)", "generator_head (onnxruntime-cpu)", "dipn"} <= {check.difference.where for check in cpu}
    alone = {check.difference.tensor for check in cpu if check.difference.where == "generator_head:rgb (onnxruntime-cpu)"}
    assert alone == {"rgb_2"}
    first, second = result.backend.split("; ")
    assert second == f"{first}, CPU-optimized graphs of dicn, generator_head, generator_head:rgb"
    without = verify(arranged.folder, options={"threads": 1, "cpu_graphs": False})
    assert len(without.checks) == len(own) + 2 * PICTURES and without.backend == first


@pytest.mark.parametrize(("file", "named"), [("dicn.onnx", "dicn"), ("dicn.cpu.onnx", "dicn (onnxruntime-cpu)")])
def test_a_changed_weight_in_one_variant_is_found_in_that_variant(arranged: Any, tmp_path: Path, file: str, named: str) -> None:
    folder = shutil.copytree(arranged.folder, tmp_path / "bundle")
    path = folder / "onnx/fp32" / file
    model = onnx.load(str(path))
    weight = next(tensor for tensor in reversed(model.graph.initializer) if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    onnx.save(model, str(path))
    rehash(folder)
    failures = verify(folder, options={"threads": 1}).failures
    assert failures and failures[0].difference.where == named
    assert {check.difference.where for check in failures if check.difference.tensor == "residual"} == {named}


def test_where_only_the_whole_stage_is_optimized_the_graph_of_one_output_is_named_as_it_is(arranged: Any, tmp_path: Path) -> None:
    """A bundle of the version before."""
    folder = shutil.copytree(arranged.folder, tmp_path / "bundle")
    graphs = Bundle.open(folder).manifest.graphs
    alone = {"fp32": graphs["generator_head:rgb"]["fp32"]}
    rehash(folder, graphs={**graphs, "generator_head:rgb": alone})
    checks = verify(folder, options={"threads": 1}).checks[2 * VALUES : 4 * VALUES]
    named = {check.difference.tensor: check.difference.where for check in checks}
    assert named["feature"] == named["rgb"] == "generator_head (onnxruntime-cpu)" and named["rgb_2"] == "generator_head:rgb"


def test_bands_are_checked_together(in_bands: Any, tmp_path: Path) -> None:
    result = verify(in_bands.folder, options={"threads": 2})
    assert not result.failures and "generator_tail (onnxruntime-cpu)" in {check.difference.where for check in result.checks}
    folder = shutil.copytree(in_bands.folder, tmp_path / "bundle")
    graphs = Bundle.open(folder).manifest.graphs
    tail = {**graphs["generator_tail"], ONNXRUNTIME_CPU: graphs["generator_tail"][ONNXRUNTIME_CPU][::-1]}
    rehash(folder, graphs={**graphs, "generator_tail": tail})
    failures = verify(folder, options={"threads": 2}).failures
    assert {check.difference.where for check in failures} == {"generator_tail (onnxruntime-cpu)"}
