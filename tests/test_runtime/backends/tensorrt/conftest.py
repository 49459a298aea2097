"""A tiny bundle with fake engines, and the TensorRT backend on a fake GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engines import ALONE, opened
from fake_gpu import GPU, PLACE, FakeGpu, FakeLibrary
from onnx.utils import extract_model

from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.backends.tensorrt.engine_files import (
    EngineEntry,
    Sidecar,
    engine_folder,
    engine_name,
    graph_names,
    onnx_hash,
    write_sidecar,
)
from sdic_runtime.backends.tensorrt.settings import EngineSettings
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.files import sha256


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], change: Callable[..., Path]) -> Bundle:
    """A tiny bundle with a graph of one output, and with fake engines for the fake GPU."""
    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    extract_model(folder / graphs["generator_head"]["fp32"][0], folder / "onnx/fp32/alone.onnx", ["latent"], ["rgb"])
    change(folder, ["onnx/fp32/alone.onnx"], graphs={**graphs, ALONE: {"fp32": ("onnx/fp32/alone.onnx",)}})
    bundle = Bundle.open(folder)
    settings = EngineSettings("fp32")
    engines = engine_folder(bundle, PLACE, settings)
    engines.mkdir(parents=True)
    stages = {}
    for graph in graph_names(bundle, "fp32"):
        path = engines / engine_name(graph)
        path.write_bytes(graph.encode())
        stages[graph] = EngineEntry(path.name, sha256(path), path.stat().st_size, onnx_hash(bundle, graph, "fp32"), 0.1, {})
    write_sidecar(engines, Sidecar(PLACE.target, PLACE.version, settings, GPU, stages))
    return bundle


@pytest.fixture
def host(bundle: Bundle) -> OnnxRuntime:
    return OnnxRuntime(bundle, "fp32", 1)


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def library(host: OnnxRuntime, gpu: FakeGpu) -> FakeLibrary:
    return FakeLibrary(host, gpu)


@pytest.fixture
def backend(bundle: Bundle, library: FakeLibrary) -> TensorRt:
    return opened(bundle, library)
