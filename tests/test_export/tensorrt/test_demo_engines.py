"""Trained weights in half precision, and engines of them without a GPU: the embedded demo bundle."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_checks import check

from sdic_export.half.stages import add_precision
from sdic_export.tensorrt.engines import build_engines
from sdic_runtime.bundle.bundle import DEMO_FOLDER


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_rtx_engines_of_the_demo_bundle(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "demo"))
    made = add_precision(folder, "fp16")
    assert min(item.psnr for item in made.chain if item.tensor.endswith("picture")) > 60
    check(build_engines(folder, "tensorrt-rtx"))
