"""ONNX Runtime for CUDA on a fake GPU: host memory for device memory, its CPU sessions for those of CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeSession, fake_cuda
from fake_gpu import FakeGpu

from sdic_runtime.backends import onnxruntime_cuda
from sdic_runtime.backends.cuda.tensors import DeviceTensor
from sdic_runtime.backends.onnxruntime import load
from sdic_runtime.backends.onnxruntime_cuda import TO_BYTES
from sdic_runtime.backends.registry import load_backend
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import BackendError, SdicError
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline


class Foreign:
    """A tensor that knows DLPack alone."""

    def __init__(self, tensor: DeviceTensor) -> None:
        self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def sessions(gpu: FakeGpu) -> Iterator[list[FakeSession]]:
    with fake_cuda(gpu) as made:
        yield made


@pytest.fixture
def on_gpu(tiny_bundle: Path, sessions: list[FakeSession]) -> Pipeline:
    return Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", threads=1)


def test_programs_are_captured_once_and_give_the_numbers_of_the_cpu(
    on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu, sessions: list[FakeSession]
) -> None:
    want = pipeline.invert(image)
    first = on_gpu.invert(image)
    runs, allocations = [session.runs for session in sessions], gpu.allocations
    second = on_gpu.invert(image[:, :, ::-1].copy())
    assert [session.runs for session in sessions] == runs and gpu.launches == 2  # replayed, nothing started one by one
    assert gpu.allocations - allocations <= len(want.tensors) + 1  # for what the second keeps
    for name in want.tensors:
        np.testing.assert_allclose(getattr(first, name), getattr(want, name), rtol=0, atol=1e-4)  # the second did not write over it
    flipped = pipeline.invert(image[:, :, ::-1].copy())
    np.testing.assert_allclose(second.pixels, flipped.pixels, rtol=0, atol=1e-4)
    np.testing.assert_allclose(on_gpu.edit(first, "smile", 2).pixels, pipeline.edit(want, "smile", 2).pixels, rtol=0, atol=1e-4)
    assert "CUDAExecutionProvider, fp32, CUDA graphs, fake 1.0" in on_gpu.backend.description


def test_a_batch_of_another_size_is_captured_anew(on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    image = image[:1]
    images = np.concatenate([image, image[:, :, ::-1]])
    got, want = on_gpu.invert(images, batch=2), pipeline.invert(images, batch=2)
    np.testing.assert_allclose(got.pixels, want.pixels, rtol=0, atol=1e-4)
    np.testing.assert_allclose(on_gpu.invert(image).pixels, want[:1].pixels, rtol=0, atol=1e-4)
    assert gpu.launches == 2


def test_without_graphs_every_stage_is_started_by_itself(
    tiny_bundle: Path, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu, sessions: list[FakeSession]
) -> None:
    plain = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", graphs=False)
    np.testing.assert_allclose(plain.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
    assert gpu.launches == 0 and "no CUDA graphs: they were switched off" in plain.backend.description


def test_a_broken_capture_is_said_and_the_stages_run(on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    gpu.break_captures = True
    np.testing.assert_allclose(on_gpu.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
    assert gpu.launches == 0 and "no CUDA graphs: the capture broke" in on_gpu.backend.description


def test_the_picture_becomes_bytes_on_the_gpu(on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    inversion = on_gpu.invert(image)
    backend, picture = on_gpu.backend, inversion.tensors["picture"].on(on_gpu.backend)
    side = on_gpu.sizes["R"]
    for rows in ((0, side), (side // 8, side - side // 8)):
        got = backend.to_bytes(picture, rows)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, to_bytes(backend.download(picture), rows))
    bad = backend.download(picture)
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(SdicError, match="not finite|NaN|finite"):
        backend.to_bytes(backend.upload(bad), (0, side))


def test_tensors_stay_on_the_gpu_and_go_there_without_a_copy(on_gpu: Pipeline, image: np.ndarray) -> None:
    inversion = on_gpu.invert(image)
    tensor = inversion.tensors["residual"].on(on_gpu.backend)
    assert isinstance(tensor, DeviceTensor)
    assert on_gpu.backend.upload(Foreign(tensor)).address == tensor.address  # of another library, by DLPack


@pytest.mark.parametrize("heavy", [True, False])
def test_work_on_the_cpu_is_refused_and_small_operators_only_prevent_graphs(
    tiny_bundle: Path, gpu: FakeGpu, pipeline: Pipeline, image: np.ndarray, heavy: bool
) -> None:
    with fake_cuda(gpu, ("Shape", "Gather", *(("Conv", "Gemm") if heavy else ()))):
        if heavy:
            with pytest.raises(BackendError, match=r'^ONNX Runtime would run Conv, Gemm of ".*" on the CPU; check that cuDNN'):
                load(Bundle.open(tiny_bundle), device="cuda")
            return
        slow = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda")
        np.testing.assert_allclose(slow.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
        assert "no CUDA graphs: 2 operators of" in slow.backend.description


def test_older_versions_are_told_to_leave_nothing_to_the_cpu(tiny_bundle: Path, sessions: list[FakeSession], monkeypatch: Any) -> None:
    import onnxruntime

    monkeypatch.delattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    entries: list[Any] = []
    real = onnxruntime_cuda.session_of
    monkeypatch.setattr(onnxruntime_cuda, "session_of", lambda *words: entries.append(words[3]) or real(*words))
    load(Bundle.open(tiny_bundle), device="cuda")
    assert {options.get_session_config_entry("session.disable_cpu_ep_fallback") for options in entries} == {"1"}


def test_the_sessions_work_on_the_stream_of_the_backend(tiny_bundle: Path, sessions: list[FakeSession]) -> None:
    backend = load(Bundle.open(tiny_bundle), device="cuda:0", tf32=True)
    assert sessions and "fp32 with TF32" in backend.description
    for session in sessions:
        own = dict(session.providers)["CUDAExecutionProvider"]
        assert own["user_compute_stream"] == "7" and own["device_id"] == "0" and own["use_tf32"] == "1"


def test_half_precision_is_the_default_where_there_is_one(
    make_bundle: Callable[..., Path], change: Callable[..., Path], sessions: list[FakeSession]
) -> None:
    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={key: {**choices, **({"fp16": choices["fp32"]} if "fp32" in choices else {})} for key, choices in graphs.items()})
    assert load(Bundle.open(folder), device="cuda").precision == "fp16"
    assert load(Bundle.open(folder), device="cuda", precision="fp32").precision == "fp32"
    assert load(Bundle.open(folder)).precision == "fp32"


def test_a_closed_backend_says_so(on_gpu: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    on_gpu.invert(image)
    on_gpu.close()
    assert not gpu.buffers
    with pytest.raises(BackendError, match="^the pipeline was closed"):
        on_gpu.invert(image)


def test_a_failing_stage_is_one_sentence(on_gpu: Pipeline, image: np.ndarray, sessions: list[FakeSession], monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("CUDNN_STATUS\n failed")

    for session in sessions:
        monkeypatch.setattr(session, "run_with_iobinding", fail)
    with pytest.raises(BackendError, match=r'^the stage "e4e" failed: CUDNN_STATUS failed; see: sdic-export verify'):
        on_gpu.invert(image)


def test_the_graph_of_bytes_is_what_the_exporter_writes(tmp_path: Path) -> None:
    write_bytes_graph = pytest.importorskip("sdic_export.graphs.bytes_graph").write_bytes_graph

    write_bytes_graph(tmp_path / "to_bytes.onnx", "R", None)
    assert (tmp_path / "to_bytes.onnx").read_bytes() == TO_BYTES.read_bytes()


def test_without_a_driver_package_the_extra_is_named(tiny_bundle: Path, sessions: list[FakeSession], monkeypatch: Any) -> None:
    from sdic_runtime.backends.cuda import driver

    monkeypatch.setattr(onnxruntime_cuda, "open_gpu", driver.open_gpu)
    monkeypatch.setattr(driver, "_first", lambda *kinds: None)
    with pytest.raises(SdicError, match=r'pip install "sdic-toolkit\[cuda\]"'):
        load_backend("onnxruntime", Bundle.open(tiny_bundle), device="cuda")
