"""The TensorRT backend on a fake GPU: host memory for device memory, ONNX Runtime for engines, a list of calls for a CUDA graph."""

from __future__ import annotations

import gc
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_gpu import DEVICE, GPU, PLACE, FakeGpu, FakeLibrary
from onnx.utils import extract_model

from sdic_runtime.backends.cuda.tensors import ALIGNMENT, DeviceTensor
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.registry import available_backends, choose_backend, load_backend
from sdic_runtime.backends.tensorrt import backend as backend_module
from sdic_runtime.backends.tensorrt import library as library_module
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.backends.tensorrt.engine_files import (
    EngineEntry,
    Sidecar,
    engine_folder,
    engine_name,
    find_engines,
    graph_names,
    onnx_hash,
    write_sidecar,
)
from sdic_runtime.backends.tensorrt.settings import EngineSettings, Target
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError, SdicError
from sdic_runtime.files import sha256
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline

ALONE = "generator_head:rgb"


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


def opened(bundle: Bundle, library: FakeLibrary, graphs: bool = True) -> TensorRt:
    gpu: Any = library.gpu
    return TensorRt(bundle, PLACE, library, gpu, find_engines(bundle, PLACE), DEVICE, graphs)


@pytest.fixture
def backend(bundle: Bundle, library: FakeLibrary) -> TensorRt:
    return opened(bundle, library)


def inverted(backend: TensorRt | OnnxRuntime, image: np.ndarray) -> dict[str, Any]:
    return backend.run_program("invert", {"image": backend.upload(image)})


def arrays(backend: Any, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: backend.download(tensor) for name, tensor in tensors.items()}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_program_runs_on_the_device_and_gives_what_the_host_gives(
    bundle: Bundle, library: FakeLibrary, host: OnnxRuntime, image: np.ndarray
) -> None:
    backend = opened(bundle, library, graphs=False)
    found = inverted(backend, image)
    assert all(isinstance(tensor, DeviceTensor) for tensor in found.values())
    same(arrays(backend, found), inverted(host, image))
    assert library.gpu.launches == 0
    assert "no CUDA graphs: they were switched off" in backend.description


def test_a_program_is_captured_once_and_replayed(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    first = inverted(backend, image[:1])
    assert library.gpu.launches == 1
    library.enqueued.clear()
    other = inverted(backend, image[1:2])
    assert library.gpu.launches == 2
    assert library.enqueued.count("e4e") == 1
    same(arrays(backend, first), inverted(host, image[:1]))  # the second run left the results of the first alone
    same(arrays(backend, other), inverted(host, image[1:2]))
    assert backend.graph_obstacle is None
    assert ", CUDA graphs, " in backend.description


def test_replays_allocate_nothing_new(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    def once() -> None:
        backend.download(inverted(backend, image[:1])["picture"])

    once()
    once()
    before = library.gpu.allocations
    for _ in range(5):
        once()
    assert library.gpu.allocations == before


def test_each_batch_has_a_graph_and_contexts_of_its_own(
    backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray
) -> None:
    for batch in (1, 3, 1, 3):
        same(arrays(backend, inverted(backend, image[:batch])), inverted(host, image[:batch]))
    assert library.contexts == 2 * len(library.graphs)
    assert len(library.workspaces) == 1  # one for all engines


def test_edits_are_captured_per_program(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    tensors, on_host = inverted(backend, image[:1]), inverted(host, image[:1])
    before = library.gpu.launches
    for program in ("edit", "edit_released", "edit"):
        found = backend.run_program(program, tensors)
        same(arrays(backend, found), host.run_program(program, on_host))
    assert library.gpu.launches == before + 3
    assert {key[0] for key in backend._captured} == {"invert", "edit", "edit_released"}


def test_one_output_has_an_engine_of_its_own(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    latent = host.run("e4e", {"image": image}, ["latent"])["latent"]
    for outputs, graph in ((["rgb"], ALONE), (["feature"], "generator_head"), (["feature", "rgb"], "generator_head")):
        assert backend.variant("generator_head", outputs) == (graph, "fp32")
        found = backend.run("generator_head", {"latent": backend.upload(latent)}, outputs)
        assert library.enqueued[-1] == graph
        same(arrays(backend, found), host.run("generator_head", {"latent": latent}, outputs))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda library: setattr(library, "capturable", False), 'TensorRT cannot capture the stage "e4e"'),
        (lambda library: setattr(library.gpu, "break_captures", True), "the capture broke: the driver refused it"),
        (
            lambda library: setattr(library.gpu, "graphs", None),
            'pycuda has no stream capture and the package "cuda-bindings" is not installed',
        ),
    ],
)
def test_without_capture_the_reason_is_named_and_the_numbers_are_the_same(
    bundle: Bundle, library: FakeLibrary, host: OnnxRuntime, image: np.ndarray, spoil: Callable[[Any], None], reason: str
) -> None:
    spoil(library)
    backend = opened(bundle, library)
    same(arrays(backend, inverted(backend, image)), inverted(host, image))
    assert backend.graph_obstacle == reason
    assert f"no CUDA graphs: {reason}" in backend.description
    assert library.gpu.launches == 0


def test_a_part_of_a_tensor_lies_where_the_tensor_lies_and_keeps_it(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    whole = backend.upload(image)
    part = backend.slice(whole, slice(1, 3))
    assert part is not None
    assert (part.address, part.shape) == (whole.address + image[0].nbytes, image[1:3].shape)
    again = backend.slice(part, slice(-1, None))
    assert again is not None
    del whole, part
    gc.collect()
    backend.upload(np.zeros_like(image))  # would take the memory that nobody holds
    np.testing.assert_array_equal(backend.download(again), image[2:])
    assert backend.slice(again, slice(5, 9)).shape == (0, *image.shape[1:])  # type: ignore[union-attr]
    assert backend.slice(again, slice(None, None, 2)) is None


def test_pictures_of_an_inversion_stay_on_the_device(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline
) -> None:
    on_gpu = Pipeline(bundle, backend)
    inversion, expected = on_gpu.invert(image), pipeline.invert(image)
    found = np.concatenate([backend.download(item.tensors["picture"].on(backend)) for item in inversion])
    np.testing.assert_array_equal(found, expected.pixels)
    whole = inversion.tensors["picture"].on(backend)
    assert [item.tensors["picture"].on(backend).keeps for item in inversion] == [whole] * 3


def test_a_part_that_is_not_aligned_is_copied_for_the_engine(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    shape = (1, image[0].size + 1)
    room = backend.upload(np.concatenate([np.zeros(1, np.float32), image[0].ravel()]).reshape(shape))
    part = room.part(0, 1)
    part.address, part.shape = room.address + 4, image[:1].shape
    assert part.address % ALIGNMENT
    found = backend.run("e4e", {"image": part}, ["latent"])["latent"]
    np.testing.assert_array_equal(backend.download(found), host.run("e4e", {"image": image[:1]}, ["latent"])["latent"])


def test_the_pipeline_uses_whole_graphs(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline
) -> None:
    on_gpu = Pipeline(bundle, backend)
    inversion, expected = on_gpu.invert(image[:1]), pipeline.invert(image[:1])
    np.testing.assert_array_equal(inversion.pixels, expected.pixels)
    edited = on_gpu.edit(inversion, "smile", [0.0, 2.0])
    np.testing.assert_array_equal(edited.pixels, pipeline.edit(expected, "smile", [0.0, 2.0]).pixels)
    assert library.gpu.launches == 2
    assert library.enqueued.count("e4e") == 2  # once to warm up, once by the graph, and not for the edit


def test_without_a_batch_size_the_pipeline_keeps_within_the_profile(bundle: Bundle, backend: TensorRt, image: np.ndarray) -> None:
    on_gpu = Pipeline(bundle, backend)
    assert on_gpu.default_batch == 4
    assert len(on_gpu.invert(np.repeat(image, 2, 0))) == 6  # in a batch of 4 and one of 2


def test_pictures_become_bytes_on_the_device(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inversion, expected = Pipeline(bundle, backend).invert(image[:2]), pipeline.invert(image[:2])
    downloads: list[tuple[int, ...]] = []
    download = backend.download
    monkeypatch.setattr(backend, "download", lambda tensor: downloads.append(tensor.shape) or download(tensor))
    for ours, theirs in zip(inversion.images, expected.images, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    side = bundle.manifest.sizes["R"]
    assert downloads == [(2,), (2, side, side, 3)]  # no floats of the picture
    assert library.enqueued[-1] == "to_bytes"


def test_a_picture_with_nan_is_refused_as_on_the_host(backend: TensorRt) -> None:
    picture = np.zeros(backend.method.shape("picture", 1), np.float32)
    picture[0, 1, 5, 7] = np.nan
    with pytest.raises(SdicError, match="^the generated picture holds NaN or infinite values"):
        backend.to_bytes(backend.upload(picture), backend.bundle.manifest.visible_rows)


def test_other_rows_than_the_visible_ones_become_bytes_on_the_host(backend: TensorRt, library: FakeLibrary) -> None:
    picture = np.random.default_rng(0).normal(0, 1, backend.method.shape("picture", 1)).astype(np.float32)
    np.testing.assert_array_equal(backend.to_bytes(backend.upload(picture), (3, 9)), to_bytes(picture, (3, 9)))
    assert "to_bytes" not in library.enqueued


def test_a_stage_that_is_refused_is_one_sentence(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    library.fail = "dipn"
    with pytest.raises(
        BackendError,
        match=r'^TensorRT failed in "dipn": Cuda Runtime \(an illegal address\); use a smaller batch, or build '
        r"the engines again with: sdic-export engines .* --target tensorrt --precision fp32$",
    ):
        inverted(backend, image)


def test_a_batch_beyond_the_profile(bundle: Bundle, host: OnnxRuntime, gpu: FakeGpu, image: np.ndarray) -> None:
    backend = opened(bundle, FakeLibrary(host, gpu, largest=2))
    with pytest.raises(
        ArgumentError,
        match="^the batch has 3 pictures and the engines take 1 to 2; use a batch in that range, or build them with --batch 1,1,3$",
    ):
        inverted(backend, image)


def test_out_of_memory_says_how_much(bundle: Bundle, host: OnnxRuntime) -> None:
    backend = opened(bundle, FakeLibrary(host, FakeGpu(total=3 << 20)))
    with pytest.raises(OutOfMemoryError, match=r"^not enough GPU memory: 4 MB are needed and 3 of 3 MB are free; use a smaller batch"):
        backend.upload(np.zeros(1 << 20, np.float32))


def test_an_engine_that_was_cut_off_is_not_loaded(bundle: Bundle, library: FakeLibrary) -> None:
    path = next(bundle.path.glob("engines/*/dicn.engine"))
    path.write_bytes(b"dic")
    with pytest.raises(BackendError, match="dicn.engine has 3 bytes instead of 4; build them again with"):
        opened(bundle, library)


def test_an_engine_that_the_library_refuses_gives_its_words_and_the_command(bundle: Bundle, library: FakeLibrary) -> None:
    next(bundle.path.glob("engines/*/dicn.engine")).write_bytes(b"dicm")
    with pytest.raises(
        BackendError,
        match="^TensorRT cannot load .*dicn.engine: Platform specific tag mismatch; build it again with: "
        f"sdic-export engines {bundle.path} --target tensorrt --precision fp32$",
    ):
        opened(bundle, library)


def test_four_threads_share_it(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    expected = [inverted(host, image[index : index + 1])["picture"] for index in range(3)]
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(4):
            found = inverted(backend, image[index : index + 1])
            if not np.array_equal(backend.download(found["picture"]), expected[index]):
                failures.append(str(index))

    threads = [threading.Thread(target=work, args=(index % 3,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closing_gives_all_memory_back(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    backend.warm_up(1)
    assert library.gpu.buffers
    backend.close()
    assert not library.gpu.buffers


def test_warm_up_captures_an_inversion_and_the_default_edits(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    backend.warm_up(2)
    assert {key[0] for key in backend._captured} == {"invert", "edit"}
    library.gpu.allocations = library.gpu.launches = 0
    inverted(backend, image[:2])
    assert (library.gpu.allocations, library.gpu.launches) == (0, 1)


def test_warm_up_runs_what_the_manifest_says(bundle: Bundle, library: FakeLibrary, change: Callable[..., Path]) -> None:
    moves = bundle.manifest.moves
    ganspace = msgspec.structs.replace(moves["released"], kinds=("ganspace",))
    change(bundle.path, moves={"some": msgspec.structs.replace(moves["paper"], kinds=("direction",)), "other": ganspace})
    backend = opened(Bundle.open(bundle.path), library)
    backend.warm_up(1)
    assert {key[0] for key in backend._captured} == {"invert", "edit", "edit_released"}
    change(bundle.path, moves={})
    backend = opened(Bundle.open(bundle.path), library)
    backend.warm_up(1)
    assert {key[0] for key in backend._captured} == {"invert"}


def test_a_wait_reaches_the_gpu(backend: TensorRt, library: FakeLibrary) -> None:
    before = library.gpu.waits
    backend.synchronize()
    assert library.gpu.waits == before + 1


def test_tensors_leave_and_come_by_dlpack_without_a_copy(backend: TensorRt) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = backend.upload(array)
    seen = np.from_dlpack(tensor)
    np.testing.assert_array_equal(seen, array)
    assert seen.ctypes.data == tensor.address


def test_a_borrowed_tensor_is_used_where_it_lies(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    class Foreign:
        """A tensor of another library."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    source = image.copy()
    tensor = backend.upload(Foreign(source))
    assert tensor.address == source.ctypes.data
    found = backend.run("e4e", {"image": tensor}, ["latent"])["latent"]
    np.testing.assert_array_equal(backend.download(found), host.run("e4e", {"image": image}, ["latent"])["latent"])
    with pytest.raises(ArgumentError, match="^the tensor is float64; give float32$"):
        backend.upload(Foreign(source.astype(np.float64)))


def test_why_it_is_unavailable(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    assert backend_module.unavailable() == 'it needs the package "tensorrt"; install it with: pip install "sdic-toolkit[tensorrt]"'
    monkeypatch.setattr(backend_module, "find_spec", lambda name: object())
    monkeypatch.setattr(backend_module, "missing_driver", lambda: None)
    monkeypatch.setattr(backend_module, "gpu_count", lambda: 0)
    assert backend_module.unavailable() == "there is no NVIDIA GPU here"
    monkeypatch.setattr(backend_module, "gpu_count", lambda: 1)
    monkeypatch.setattr(backend_module, "open_gpu", lambda: FakeGpu())
    monkeypatch.setattr(library_module.importlib, "import_module", lambda name: types.SimpleNamespace(__version__="11.4.0.106"))
    bundle = Bundle.open(tiny_bundle)
    command = f"sdic-export engines {tiny_bundle} --target tensorrt"
    assert backend_module.unavailable(bundle) == f"{tiny_bundle} has no TensorRT engines; build them with: {command}"


def test_auto_takes_engines_that_were_built_here(
    bundle: Bundle, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever made a bundle can put engines beside it, and an engine can hold code."""
    monkeypatch.setattr(backend_module, "open_gpu", lambda: FakeGpu())
    monkeypatch.setattr(backend_module, "load_library", lambda target: types.SimpleNamespace(__version__=PLACE.version))
    assert backend_module.untrusted(bundle) is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # another user, or another machine
    assert str(backend_module.untrusted(bundle)).startswith(
        "its engines were not built by this user on this machine; name the backend tensorrt"
    )
    assert backend_module.untrusted(Bundle.open(bundle.path, trust=True)) is None
    entries = available_backends()["tensorrt"]
    assert str(entries.untrusted(bundle)).startswith("its engines were not built")


def test_an_engine_with_another_hash_is_not_loaded(
    bundle: Bundle, library: FakeLibrary, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "open_gpu", lambda device: FakeGpu())
    monkeypatch.setattr(backend_module, "load_library", lambda target: types.SimpleNamespace(__version__=PLACE.version))
    next(bundle.path.glob("engines/*/dicn.engine")).write_bytes(b"nicd")
    with pytest.raises(BackendError, match="dicn.engine is damaged: its SHA-256 is not the one in engine.json; build them again"):
        backend_module.load(bundle)


def test_both_are_registered_and_auto_says_why_it_passed_them(tiny_bundle: Path) -> None:
    assert {"tensorrt", "tensorrt-rtx"} <= set(available_backends())
    bundle = Bundle.open(tiny_bundle)
    if backend_module.gpu_count():
        pytest.skip("there is a GPU")
    name, reason = choose_backend(bundle)
    assert name == "onnxruntime"
    assert "tensorrt: " in reason
    assert "tensorrt-rtx: " in reason
    with pytest.raises(SdicError, match='^the backend "tensorrt-rtx" cannot be used here: '):
        load_backend("tensorrt-rtx", bundle)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("graphs", [True, False])
def test_on_a_real_gpu(name: str, graphs: bool, tiny_bundle: Path, tmp_path: Path, image: np.ndarray, pipeline: Pipeline) -> None:
    """Builds engines of the tiny bundle and compares inversion and edit with ONNX Runtime; run with: pytest -m gpu."""
    import shutil

    pytest.importorskip(Target(name).module)
    build_engines = pytest.importorskip("sdic_export.tensorrt.engines").build_engines
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    build_engines(folder, name, EngineSettings("fp32"))
    on_gpu = Pipeline.load(folder, name, batch=2, graphs=graphs)
    backend: Any = on_gpu.backend
    inversion, expected = on_gpu.invert(image[:2]), pipeline.invert(image[:2])
    np.testing.assert_allclose(inversion.pixels, expected.pixels, atol=2e-3)
    again = on_gpu.invert(image[:2])
    np.testing.assert_array_equal(again.pixels, inversion.pixels)
    edited = on_gpu.edit(inversion, "smile", 1.5)
    np.testing.assert_allclose(edited.pixels, pipeline.edit(expected, "smile", 1.5).pixels, atol=2e-3)
    assert (backend.graph_obstacle is None) == graphs
    backend.close()
