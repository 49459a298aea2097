"""Half precision and engines at full size: the released face model's shapes. Minutes, about 8 GB of disk."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import official_checkpoint as official
import pytest
from engine_checks import check

from sdic_export.build import BuildOptions, BuildReport, build
from sdic_export.tensorrt.engines import build_engines, plan_engines
from sdic_export.verify import verify

pytestmark = pytest.mark.full
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")

LEAST_PSNR = 50.0  # decibels, pictures clamped to [-1, 1]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """The full-size face model with random weights, in both precisions."""
    folder = tmp_path_factory.mktemp("faces")
    checkpoint = official.write_checkpoint(folder / "official.pt", official.face_shapes())
    report = build(BuildOptions(checkpoint, folder / "bundle", policy="fp16"))
    checkpoint.unlink()
    return folder / "bundle", report


def test_half_precision_at_1024(faces: tuple[Path, BuildReport]) -> None:
    report = faces[1].half
    assert report is not None
    pictures = {item.tensor: item.psnr for item in report.chain if item.tensor.endswith("picture")}
    assert len(pictures) == 3
    assert min(pictures.values()) >= LEAST_PSNR, pictures
    assert max(check.largest.largest for check in report.checks) < 65504 / 4


def test_half_precision_halves_the_bundle_and_runs(faces: tuple[Path, BuildReport]) -> None:
    folder = faces[0]
    sizes = {precision: sum(path.stat().st_size for path in (folder / "onnx" / precision).iterdir()) for precision in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert not verify(folder, precision="fp16").failures


@needs_rtx
def test_rtx_engines_at_1024(faces: tuple[Path, BuildReport]) -> None:
    check(build_engines(faces[0], "tensorrt-rtx"))
    assert not plan_engines(faces[0], "tensorrt-rtx").to_build
