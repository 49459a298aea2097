"""ONNX Runtime for CUDA on a fake GPU: host memory for device memory, its CPU sessions for those of CUDA."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeSession, fake_cuda
from fake_gpu import FakeGpu
from small_bundles import small_bundle

from sdic_runtime.backends import onnxruntime_cuda
from sdic_runtime.backends.cuda import device
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
    return Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", threads=1, warm_up=False)


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


def test_the_two_codes_of_an_edit_are_one_batch(
    tiny_bundle: Path, pipeline: Pipeline, image: np.ndarray, sessions: list[FakeSession]
) -> None:
    plain = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", threads=1, warm_up=False, graphs=False)
    inversion, want = plain.invert(image), pipeline.edit(pipeline.invert(image), "smile", 2)
    before = sum(session.runs for session in sessions)
    found = plain.edit(inversion, "smile", 2)
    assert sum(session.runs for session in sessions) - before == 2  # the head for both, and the tail
    np.testing.assert_allclose(found.pixels, want.pixels, rtol=0, atol=1e-4)


def test_the_first_picture_finds_everything_ready(tiny_bundle: Path, image: np.ndarray, gpu: FakeGpu, sessions: list[FakeSession]) -> None:
    ready = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", threads=1)
    runs, launches = [session.runs for session in sessions], gpu.launches
    inversion = ready.invert(image[:1])
    assert ready.edit(inversion, "smile").images
    made = [after.runs - before for after, before in zip(sessions, runs, strict=True)]
    assert sorted(made) == [*[0] * (len(made) - 1), 1] and gpu.launches == launches + 2  # the bytes of one picture alone


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
    plain = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", graphs=False, warm_up=False)
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
        slow = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", warm_up=False)
        np.testing.assert_allclose(slow.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
        assert "no CUDA graphs: 2 operators of" in slow.backend.description


@pytest.mark.parametrize("version", ["1.20.1", "1.30.0"])
def test_versions_that_reuse_what_a_graph_reads_run_without_graphs(
    on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    np.testing.assert_allclose(on_gpu.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
    assert gpu.launches == 0
    assert f"no CUDA graphs: ONNX Runtime {version} does not keep the memory that they read; 1.31 does" in on_gpu.backend.description


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


def test_half_precision_runs_on_tensor_cores_and_its_cuda_graphs_with_channels_last(
    make_bundle: Callable[..., Path], change: Callable[..., Path], sessions: list[FakeSession]
) -> None:
    """ONNX Runtime keeps tensor cores for those who allow TF32, in half precision too."""
    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    forms = {
        key: {"fp16": choices["fp32"], **({"onnxruntime-cuda": choices["fp32"]} if key == "dicn" else {})}
        for key, choices in graphs.items()
    }
    change(folder, graphs={key: {**choices, **forms[key]} for key, choices in graphs.items()})
    for precision, tensor_cores, last in (("fp16", "1", {"dicn"}), ("fp32", "0", set())):
        sessions.clear()
        backend = load(Bundle.open(folder), device="cuda", precision=precision, warm_up=False)
        told = [dict(session.providers)["CUDAExecutionProvider"] for session in sessions]
        assert {settings["use_tf32"] for settings in told} == {tensor_cores}
        names = {key for key, settings in zip(backend._sessions, told, strict=True) if settings["prefer_nhwc"] == "1"}
        assert {Path(file).stem for graph in names for file in graph.files} == last
        assert Bundle.open(folder).manifest.precisions == ["fp16", "fp32"]


def test_a_closed_backend_says_so(on_gpu: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    on_gpu.invert(image)
    on_gpu.close()
    gc.collect()
    assert not gpu.buffers
    with pytest.raises(BackendError, match="^the pipeline was closed"):
        on_gpu.invert(image)


def test_a_closed_backend_answers_nothing_and_leaves_what_is_held(on_gpu: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    inversion, backend = on_gpu.invert(image), on_gpu.backend
    picture = inversion.tensors["picture"].on(backend)
    on_gpu.close()
    assert picture.address in gpu.buffers  # whoever holds it may be another library
    tasks: dict[str, tuple[object, ...]] = {
        "download": (picture,),
        "upload": (image,),
        "run": ("e4e", {"image": picture}, ("latent",)),
        "run_program": ("invert", {"image": picture}),
        "to_bytes": (picture, (0, 8)),
    }
    for name, words in tasks.items():
        with pytest.raises(BackendError, match="^the pipeline was closed"):
            getattr(backend, name)(*words)
    del inversion, picture, tasks, words
    gc.collect()
    assert not gpu.buffers


def test_inputs_that_begin_anywhere_are_copied_each_to_its_own_place(on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray) -> None:
    """The tail reads a feature and a residual of one size; those of the second picture begin in the middle of a tensor."""
    backend, want = on_gpu.backend, pipeline.invert(np.concatenate([image[:1], image[:1, :, ::-1]]), batch=2)
    stage = backend.method.stages["generator_tail"]
    values = {"feature": want.feature, "residual": want.residual, "latent": want.latent_enhanced}
    values["rgb"] = pipeline.backend.run("generator_head", {"latent": want.latent_enhanced}, ("rgb",))["rgb"]
    shifted = {}
    for name in stage.inputs:
        whole = backend.upload(np.concatenate([np.zeros(3, np.float32), values[name].ravel()]))
        shifted[name] = DeviceTensor(whole.address + 12, values[name].shape, whole.dtype, whole.device, whole)
    got = backend.download(backend.run("generator_tail", shifted, ("picture",))["picture"])
    plain = pipeline.backend.run("generator_tail", {name: values[name] for name in stage.inputs}, ("picture",))["picture"]
    np.testing.assert_allclose(got, plain, rtol=0, atol=1e-4)


def test_tensors_of_other_libraries_are_waited_for(on_gpu: Pipeline, image: np.ndarray, gpu: FakeGpu) -> None:
    backend = on_gpu.backend
    own = backend.upload(image[:1])
    backend.run_program("invert", {"image": own})
    before = gpu.waits
    backend.run_program("invert", {"image": own})
    assert gpu.waits == before
    backend.run_program("invert", {"image": backend.upload(Foreign(own))})
    assert gpu.waits > before


def test_a_batch_that_is_too_large_to_be_recorded_runs_stage_by_stage(tiny_bundle: Path, pipeline: Pipeline, image: np.ndarray) -> None:
    images, needed = np.repeat(image[:1], 4, 0), []
    for graphs in (False, True):
        gpu = FakeGpu()
        with fake_cuda(gpu):
            Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", graphs=graphs, warm_up=False).invert(images, batch=4)
        needed.append(sum(buffer.nbytes for buffer in gpu.buffers.values()))
    gpu = FakeGpu(total=sum(needed) // 2)
    with fake_cuda(gpu):
        small = Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", warm_up=False)
        got = small.invert(images, batch=4)
    assert len(small.backend._too_large) == 1 and not small.backend._captured
    np.testing.assert_allclose(got.pixels, pipeline.invert(images, batch=4).pixels, rtol=0, atol=1e-4)


def test_only_so_many_programs_stay_recorded(on_gpu: Pipeline, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MOST_CAPTURED", 2)
    for count in (1, 2, 3):
        on_gpu.invert(np.repeat(image[:1], count, 0), batch=count)
    assert [key[1][0] for key in on_gpu.backend._captured] == [2, 3]


def test_a_method_that_prepares_for_edits_is_warm_too(gpu: FakeGpu, tmp_path_factory: pytest.TempPathFactory) -> None:
    with fake_cuda(gpu):
        ready = Pipeline.load(small_bundle(tmp_path_factory, "sfe"), "onnxruntime", device="cuda", threads=1)
    assert tuple(key[0] for key in ready.backend._captured if key[0] == "prepare") == ("prepare",)


def test_the_standard_graphs_are_there_to_be_checked(
    make_bundle: Callable[..., Path], change: Callable[..., Path], sessions: list[FakeSession]
) -> None:
    folder = make_bundle()
    graphs = Bundle.open(folder).manifest.graphs
    change(folder, graphs={key: {**choices, "fp16": choices["fp32"]} for key, choices in graphs.items()})
    assert load(Bundle.open(folder), device="cuda", lazy=True).standard() is None
    change(
        folder, graphs={key: {**choices, **dict.fromkeys(("fp16", "onnxruntime-cuda"), choices["fp32"])} for key, choices in graphs.items()}
    )
    backend = load(Bundle.open(folder), device="cuda", lazy=True)
    plain = backend.standard()
    assert backend.variant("dicn", ("residual",))[1] == "onnxruntime-cuda"
    assert plain is not None and plain.variant("dicn", ("residual",))[1] == "fp16" and plain.standard() is None


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
    with pytest.raises(SdicError, match=r"^a GPU needs the package .cuda-bindings.; install it with: pip install cuda-bindings$"):
        load_backend("onnxruntime", Bundle.open(tiny_bundle), device="cuda")
