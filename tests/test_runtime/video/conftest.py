"""Pipelines of the tiny bundle for whole frames and for faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from sdic_runtime.pipeline import Pipeline


@pytest.fixture(scope="session")
def face_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("faces") / "tiny", faces="ffhq")


@pytest.fixture(scope="session")
def face_pipeline(face_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(face_bundle, backend="onnxruntime", threads=1) as pipeline:
        yield pipeline
