"""The tiny model's stages in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from half_graphs import METHOD, STAGES, single

from sdic_export.golden import Chain, example_direction, run_all, smooth_pictures
from sdic_export.half.precision import write_half
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.bundle.bundle import Bundle


@pytest.fixture(scope="session")
def chain(built: Any) -> Chain:
    """Everything that the programs compute in float32 for two pictures."""
    return run_all(OnnxRuntime(Bundle.open(built.folder), "fp32", 1), smooth_pictures(64), example_direction(METHOD.sizes))


@pytest.fixture(scope="session")
def halves(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages in half precision."""
    folder = tmp_path_factory.mktemp("halves")
    for name in STAGES:
        write_half(single(built, name), folder / f"{name}.onnx", name)
    return folder
