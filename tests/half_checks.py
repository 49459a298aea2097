"""What half precision has to show of a method; shared by the tests of the small models."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from sdic_export.half.stages import add_precision
from sdic_export.tensorrt.engines import build_engines, plan_engines
from sdic_export.verify import verify
from sdic_runtime.backends.tensorrt.engine_files import TO_BYTES
from sdic_runtime.bundle.graphs import graph_keys

LEAST_PSNR = 60.0  # decibels of the worst picture, clamped to [-1, 1]
CONVOLUTIONS = ("Conv", "ConvTranspose")


def check_half(bundle: Path, folder: Path) -> Path:
    """A copy of `bundle` in `folder` with half-precision graphs, every layer of which was measured, and whose convolutions are half."""
    copy = Path(shutil.copytree(bundle, folder / "half"))
    made = add_precision(copy)
    for check in made.checks:
        assert all(math.isfinite(layer.largest) and math.isfinite(layer.noise) for layer in check.layers), check.stage
        convolutions = [layer.half for layer in check.layers if layer.operator in CONVOLUTIONS]
        assert sum(convolutions) * 2 >= len(convolutions), check.stage
        print(f"{check.stage}: {check.psnr:.1f} dB, {sum(convolutions)} of {len(convolutions)} convolutions are half")
    print(f"worst picture: {made.picture.psnr:.1f} dB ({made.picture.tensor})")
    assert made.picture.psnr >= LEAST_PSNR
    return copy


def check_engines(bundle: Path, batch: str) -> None:
    """TensorRT-RTX engines of a bundle with half-precision graphs, for batches of `batch`; ONNX Runtime runs the graphs."""
    assert not verify(bundle, precision="fp16").failures
    report = build_engines(bundle, "tensorrt-rtx")
    assert str(report.plan.settings.profile) == batch
    assert set(report.sidecar.stages) == {*graph_keys(report.plan.bundle.manifest, "fp16"), TO_BYTES}
    assert not plan_engines(bundle, "tensorrt-rtx").to_build
