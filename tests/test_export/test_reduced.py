"""What bf16 costs a bundle, measured by OpenVINO and recorded; and which CPU-optimized graphs OpenVINO runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_export import reduced
from sdic_export.cli.app import main
from sdic_export.reduced import record_cost
from sdic_export.variants import shared
from sdic_export.verify import verify
from sdic_runtime.backends import openvino as backend
from sdic_runtime.backends.base import Tensor
from sdic_runtime.backends.registry import load_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import write_manifest
from sdic_runtime.cpus import has_bfloat16
from sdic_runtime.errors import BackendError, BundleError
from sdic_runtime.tools.wrapper import Wrapper


@pytest.fixture
def copy(built: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.folder, tmp_path / "bundle"))


@pytest.fixture
def bf16_here() -> None:
    pytest.importorskip("openvino")
    if not has_bfloat16():
        pytest.skip("this CPU does not multiply in bfloat16")


@pytest.mark.usefixtures("bf16_here")
def test_the_cost_is_recorded_and_auto_takes_bf16_then(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Bundle.open(copy)
    assert load_backend("openvino", before, precision="auto", lazy=True).precision == "fp32"
    assert main(["bf16", str(copy)]) == 0
    told = capsys.readouterr().err
    after = Bundle.open(copy).manifest
    assert (
        30 < after.psnr["bf16"] < 80
        and 1e-4 < after.tolerances["bf16"] < 1
        and after.tolerances["fp32"] == before.manifest.tolerances["fp32"]
    )
    assert re.search(rf"bf16 on OpenVINO [\d.]+, CPU: PSNR {after.psnr['bf16']:.1f} dB against fp32 \(\S*picture\), tolerance ", told)
    found = load_backend("openvino", Bundle.open(copy), precision="auto", lazy=True)
    assert found.precision == "bf16" and found.description.endswith(f"bf16 (against fp32: {after.psnr['bf16']:.1f} dB)")
    checked = verify(copy, "openvino", "bf16", options={"threads": 1})
    assert not checked.failures and after.tolerances["bf16"] / 3 < checked.worst.difference.ratio, "with the room for another CPU alone"
    assert not verify(copy, "openvino", "fp32", options={"threads": 1}).failures


@pytest.mark.usefixtures("bf16_here")
def test_a_worse_measurement_of_another_cpu_stays(copy: Path) -> None:
    manifest = Bundle.open(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, psnr={"bf16": 12.5}, tolerances={**manifest.tolerances, "bf16": 7.0}))
    made = record_cost(copy)
    assert made.manifest.psnr == {"bf16": 12.5} and made.manifest.tolerances["bf16"] == 7.0 and made.picture.psnr > 30
    write_manifest(copy, msgspec.structs.replace(made.manifest, golden=None))
    with pytest.raises(BundleError, match=r"holds no golden tensors to compare bf16 with; build it again with: sdic-export build$"):
        record_cost(copy)


def test_numbers_that_are_not_finite_are_not_recorded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Wrapper):
        def download(self, tensor: Tensor) -> np.ndarray:
            array = super().download(tensor)
            return np.full_like(array, np.nan) if array.shape[-1] == Bundle.open(copy).manifest.sizes["R"] else array

    monkeypatch.setattr(reduced, "require_bf16", lambda: None)
    monkeypatch.setattr(reduced, "load", lambda bundle, precision: Broken(load_backend("onnxruntime", bundle, threads=1)))
    before = (copy / "bundle.json").read_bytes()
    with pytest.raises(BackendError, match=r'^in bf16 "\w+" of \w+ is not finite on .*; leave the bundle in fp32$'):
        record_cost(copy)
    assert (copy / "bundle.json").read_bytes() == before


def test_a_build_that_cannot_measure_says_so_before_any_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reduced, "unavailable", lambda precision: backend.NO_BF16)
    assert main(["build", str(checkpoint), "--out", str(tmp_path / "bundle"), "--bf16"]) == 2
    assert "bf16 cannot be measured here: this CPU does not multiply in bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(BackendError, match="^bf16 cannot be measured here: "):
        record_cost(tmp_path)


def test_whole_cpu_optimized_graphs_are_openvinos_too() -> None:
    graphs: Any = {
        "a": {"fp32": ("a",), "onnxruntime-cpu": ("a.cpu",)},
        "a:x": {"fp32": ("a.x",)},
        "b": {"fp32": ("b",), "onnxruntime-cpu": ("0", "1")},
    }
    assert shared(graphs) == {**graphs, "a": {**graphs["a"], "openvino": ("a.cpu",)}}
