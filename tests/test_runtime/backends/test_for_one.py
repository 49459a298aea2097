"""A batch for graphs that are for one picture at a time, as HyperStyle's generator, on a fake GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeSession, fake_cuda
from fake_gpu import FakeGpu
from tiny_bundle import change_manifest, changed_graph, onnx_save, own_graph

from sdic_runtime.backends.cuda.tensors import DeviceTensor
from sdic_runtime.pipeline import Pipeline

STAGES = ("generator_head", "generator_tail")
BATCH = 0


@pytest.fixture
def one_by_one(make_bundle: Callable[..., Path]) -> Path:
    """The tiny bundle with stages for one picture."""
    folder = make_bundle()
    for stage in STAGES:
        name = own_graph(folder, stage)
        model = changed_graph(folder, stage, {})
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[BATCH].dim_value = 1
        onnx_save(model, folder / name)
        change_manifest(folder, [name])
    return folder


def runs(sessions: list[FakeSession]) -> int:
    return sum(session.runs for session in sessions)


@pytest.mark.parametrize("graphs", [True, False])
def test_a_batch_is_computed_picture_by_picture(one_by_one: Path, pipeline: Pipeline, image: np.ndarray, graphs: bool) -> None:
    images = np.concatenate([image[:1], image[:1, :, ::-1], image[:1, :, :, ::-1]])
    want = pipeline.invert(images, batch=3)
    gpu = FakeGpu()
    with fake_cuda(gpu):
        on_gpu = Pipeline.load(one_by_one, "onnxruntime", device="cuda", threads=1, warm_up=False, graphs=graphs)
        assert on_gpu.default_batch == 1
        for _ in range(2):
            got = on_gpu.invert(images, batch=3)
            np.testing.assert_allclose(got.pixels, want.pixels, rtol=0, atol=1e-4)
        edited = on_gpu.edit(got, "smile", [1.0, -2.0], batch=2)
        np.testing.assert_allclose(edited.pixels, pipeline.edit(want, "smile", [1.0, -2.0]).pixels, rtol=0, atol=1e-4)
        np.testing.assert_allclose(on_gpu.invert(images[:1]).pixels, want[:1].pixels, rtol=0, atol=1e-4)
    assert bool(gpu.launches) == graphs, on_gpu.backend.description


def test_only_the_stages_that_are_for_one_run_for_each(one_by_one: Path, pipeline: Pipeline, image: np.ndarray) -> None:
    with fake_cuda(FakeGpu()) as sessions:
        backend = Pipeline.load(one_by_one, "onnxruntime", device="cuda", threads=1, warm_up=False, graphs=False).backend
        pictures = backend.upload(np.repeat(image[:1], 3, 0))
        before = runs(sessions)
        latent = backend.run("e4e", {"image": pictures}, ("latent",))["latent"]
        assert runs(sessions) - before == 1
        outputs = backend.run("generator_head", {"latent": latent}, ("feature", "rgb"))
        assert runs(sessions) - before == 4
    want = pipeline.backend.run("generator_head", {"latent": backend.download(latent)}, ("feature", "rgb"))
    for name, tensor in outputs.items():
        assert isinstance(tensor, DeviceTensor) and tensor.shape == want[name].shape
        np.testing.assert_allclose(backend.download(tensor), want[name], rtol=0, atol=1e-4)
