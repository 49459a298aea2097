"""The TensorRT backend on a pretended GPU: host memory for device memory, ONNX Runtime for engines, a list of calls for a CUDA graph."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretended_gpu import DEVICE, GPU, GRAPHS, PLACE, PretendedCuda, PretendedLibrary, PretendedRuntime

from sdic_runtime import chain
from sdic_runtime.backends.cuda.tensors import DeviceTensor
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.registry import available_backends, choose_backend, load_backend
from sdic_runtime.backends.tensorrt import backend as backend_module
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.backends.tensorrt.engine_files import (
    TARGETS,
    EngineEntry,
    EngineSettings,
    Profile,
    Sidecar,
    engine_folder,
    engine_name,
    onnx_hash,
    write_sidecar,
)
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import SdicError
from sdic_runtime.files import sha256
from sdic_runtime.pipeline import Pipeline


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Bundle:
    """A tiny bundle with pretended engines for the pretended GPU."""
    bundle = Bundle.open(make_bundle())
    settings = EngineSettings(precision="fp32", profile=Profile(1, 1, 4))
    folder = engine_folder(bundle, PLACE, settings)
    folder.mkdir(parents=True)
    stages = {}
    for graph in GRAPHS:
        path = folder / engine_name(graph)
        path.write_bytes(graph.encode())
        stages[graph] = EngineEntry(path.name, sha256(path), path.stat().st_size, onnx_hash(bundle, graph, "fp32"), 0.1, {})
    write_sidecar(folder, Sidecar("tensorrt", PLACE.version, settings, GPU, stages))
    return bundle


@pytest.fixture
def host(bundle: Bundle) -> OnnxRuntime:
    return OnnxRuntime(bundle, "fp32", 1, "cpu", False)


@pytest.fixture
def cuda() -> PretendedCuda:
    return PretendedCuda()


@pytest.fixture
def library(host: OnnxRuntime, cuda: PretendedCuda) -> PretendedLibrary:
    return PretendedLibrary(host, cuda)


def opened(bundle: Bundle, library: PretendedLibrary, graphs: bool = True) -> TensorRt:
    from sdic_runtime.backends.tensorrt.engine_files import find_engines

    folder, sidecar = find_engines(bundle, PLACE)
    return TensorRt(bundle, PLACE, library, library.cuda, folder, sidecar, DEVICE, graphs)


@pytest.fixture
def gpu_backend(bundle: Bundle, library: PretendedLibrary) -> TensorRt:
    return opened(bundle, library)


def arrays(backend: Any, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: backend.download(tensor) for name, tensor in tensors.items()}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_chain_runs_on_the_device_and_gives_what_the_host_gives(gpu_backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    found = chain.invert(gpu_backend, gpu_backend.upload(image))
    assert all(isinstance(tensor, DeviceTensor) for tensor in found.values())
    same(arrays(gpu_backend, found), arrays(host, chain.invert(host, image)))


def test_a_chain_is_captured_once_and_replayed(
    gpu_backend: TensorRt, host: OnnxRuntime, library: PretendedLibrary, image: np.ndarray
) -> None:
    expected = arrays(host, chain.invert(host, image[:1]))
    first = gpu_backend.whole(chain.invert, {"image": gpu_backend.upload(image[:1])}, {})
    assert library.cuda.launches == 1
    other = gpu_backend.whole(chain.invert, {"image": gpu_backend.upload(image[1:2])}, {})
    assert library.cuda.launches == 2
    same(arrays(gpu_backend, first), expected)  # the second run left the results of the first alone
    same(arrays(gpu_backend, other), arrays(host, chain.invert(host, image[1:2])))
    assert gpu_backend.graph_obstacle is None
    assert "CUDA graphs" in gpu_backend.description


def test_replays_allocate_nothing_new(gpu_backend: TensorRt, library: PretendedLibrary, image: np.ndarray) -> None:
    def once() -> None:
        gpu_backend.download(gpu_backend.whole(chain.invert, {"image": gpu_backend.upload(image[:1])}, {})["picture"])

    once()
    once()
    before = library.cuda.allocations
    for _ in range(5):
        once()
    assert library.cuda.allocations == before


def test_each_batch_has_a_graph_and_contexts_of_its_own(
    gpu_backend: TensorRt, host: OnnxRuntime, library: PretendedLibrary, image: np.ndarray
) -> None:
    for batch in (1, 3, 1, 3):
        found = gpu_backend.whole(chain.invert, {"image": gpu_backend.upload(image[:batch])}, {})
        same(arrays(gpu_backend, found), arrays(host, chain.invert(host, image[:batch])))
    assert library.contexts == 2 * len(GRAPHS)
    assert len(library.workspaces) == 1  # one for all engines


def test_edits_are_captured_per_form(gpu_backend: TensorRt, host: OnnxRuntime, library: PretendedLibrary, image: np.ndarray) -> None:
    inverted = chain.invert(gpu_backend, gpu_backend.upload(image[:1]))
    codes = {name: inverted[name] for name in ("latent", "latent_enhanced", "residual")}
    on_host = arrays(gpu_backend, codes)
    for form in ("paper", "released", "paper"):
        found = gpu_backend.whole(chain.edit, codes, {"eq6": form})
        np.testing.assert_array_equal(gpu_backend.download(found), chain.edit(host, **on_host, eq6=form))
    assert library.cuda.launches == 3
    assert len(gpu_backend._captured) == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda library: setattr(library, "capturable", False), 'TensorRT cannot capture the stage "e4e"'),
        (lambda library: setattr(library.cuda, "break_captures", True), "the capture broke: the driver refused it"),
        (lambda library: setattr(library.cuda, "obstacle", "pycuda has no stream capture"), "pycuda has no stream capture"),
    ],
)
def test_without_capture_the_reason_is_named_and_the_numbers_are_the_same(
    bundle: Bundle, library: PretendedLibrary, host: OnnxRuntime, image: np.ndarray, spoil: Callable[[Any], None], reason: str
) -> None:
    spoil(library)
    backend = opened(bundle, library)
    found = backend.whole(chain.invert, {"image": backend.upload(image)}, {})
    same(arrays(backend, found), arrays(host, chain.invert(host, image)))
    assert backend.graph_obstacle == reason
    assert f"no CUDA graphs: {reason}" in backend.description
    assert library.cuda.launches == 0


def test_the_pipeline_uses_whole_graphs(
    bundle: Bundle, gpu_backend: TensorRt, library: PretendedLibrary, image: np.ndarray, pipeline: Pipeline
) -> None:
    on_gpu = Pipeline(bundle, gpu_backend)
    inversion, expected = on_gpu.invert(image[:1]), pipeline.invert(image[:1])
    np.testing.assert_array_equal(inversion.pixels, expected.pixels)
    edited = on_gpu.edit(inversion, "smile", [0.0, 2.0])
    np.testing.assert_array_equal(edited.pixels, pipeline.edit(expected, "smile", [0.0, 2.0]).pixels)
    assert library.cuda.launches == 2
    assert library.enqueued.count("e4e") == 2  # once to warm up, once by the graph, and not for the edit


def test_without_a_batch_size_the_pipeline_keeps_within_the_profile(bundle: Bundle, gpu_backend: TensorRt, image: np.ndarray) -> None:
    on_gpu = Pipeline(bundle, gpu_backend)
    assert on_gpu.default_batch == 4
    assert len(on_gpu.invert(np.repeat(image, 2, 0))) == 6  # in a batch of 4 and one of 2


def test_pictures_become_bytes_on_the_device(
    bundle: Bundle, gpu_backend: TensorRt, library: PretendedLibrary, image: np.ndarray, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inversion, expected = Pipeline(bundle, gpu_backend).invert(image[:2]), pipeline.invert(image[:2])
    downloads: list[tuple[int, ...]] = []
    download = gpu_backend.download
    monkeypatch.setattr(gpu_backend, "download", lambda tensor: downloads.append(tensor.shape) or download(tensor))
    for ours, theirs in zip(inversion.images, expected.images, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    side = bundle.sizes.resolution
    assert downloads == [(2,), (2, side, side, 3)]  # no floats of the picture
    assert library.enqueued[-1] == "to_bytes"


def test_a_picture_with_nan_is_refused_as_on_the_host(gpu_backend: TensorRt) -> None:
    picture = np.zeros(gpu_backend.bundle.sizes.shape("picture", 1), np.float32)
    picture[0, 1, 5, 7] = np.nan
    with pytest.raises(SdicError, match="^the generated picture holds NaN or infinite values"):
        gpu_backend.to_bytes(gpu_backend.upload(picture))


def test_a_stage_that_is_refused_is_one_sentence(gpu_backend: TensorRt, library: PretendedLibrary, image: np.ndarray) -> None:
    library.fail = "dipn"
    with pytest.raises(
        SdicError,
        match=r'^TensorRT failed in "dipn": Cuda Runtime \(an illegal address\); use a smaller batch, or build '
        r"the engines again with: sdic-export engines .* --target tensorrt --precision fp32$",
    ):
        chain.invert(gpu_backend, gpu_backend.upload(image))


def test_a_batch_beyond_the_profile(bundle: Bundle, host: OnnxRuntime, cuda: PretendedCuda, image: np.ndarray) -> None:
    backend = opened(bundle, PretendedLibrary(host, cuda, largest=2))
    with pytest.raises(
        SdicError,
        match="^the batch has 3 pictures and the engines take 1 to 2; use a batch in that range, or build them with --batch 1,1,3$",
    ):
        chain.invert(backend, backend.upload(image))


def test_out_of_memory_says_how_much(bundle: Bundle, host: OnnxRuntime, image: np.ndarray) -> None:
    backend = opened(bundle, PretendedLibrary(host, PretendedCuda(total=3 << 20)))
    with pytest.raises(SdicError, match=r"^not enough GPU memory: \d+ MB are needed and \d+ of 3 MB are free; use a smaller batch"):
        tensors = [backend.upload(image) for _ in range(100)]
        assert len(tensors) == 100


def test_an_engine_that_cannot_be_loaded_gives_the_command(bundle: Bundle, library: PretendedLibrary) -> None:
    path = next(bundle.path.glob("engines/*/dicn.engine"))
    path.write_bytes(b"foreign"[:4] + b"foreign"[4:])
    with pytest.raises(SdicError, match="dicn.engine has 7 bytes instead of 4; build them again with"):
        opened(bundle, library)


def test_a_foreign_plan_of_the_right_size(bundle: Bundle, library: PretendedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PretendedRuntime, "deserialize_cuda_engine", lambda self, plan: self.log.log(1, "Platform specific\n tag mismatch"))
    with pytest.raises(SdicError, match="^TensorRT cannot load .*e4e.engine: Platform specific tag mismatch; build it again with: sdic"):
        opened(bundle, library)


def test_four_threads_share_it(gpu_backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    expected = [host.download(chain.invert(host, image[index : index + 1])["picture"]) for index in range(3)]
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(4):
            found = gpu_backend.whole(chain.invert, {"image": gpu_backend.upload(image[index : index + 1])}, {})
            if not np.array_equal(gpu_backend.download(found["picture"]), expected[index]):
                failures.append(str(index))

    threads = [threading.Thread(target=work, args=(index % 3,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closing_gives_all_memory_back(gpu_backend: TensorRt, library: PretendedLibrary, image: np.ndarray) -> None:
    gpu_backend.warm_up(1)
    assert library.cuda.buffers
    gpu_backend.close()
    assert not library.cuda.buffers


def test_warm_up_captures_an_inversion_and_an_edit(gpu_backend: TensorRt, library: PretendedLibrary) -> None:
    gpu_backend.warm_up(2)
    assert {key[0] for key in gpu_backend._captured} == {chain.invert, chain.edit}


def test_tensors_leave_and_come_by_dlpack_without_a_copy(gpu_backend: TensorRt) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = gpu_backend.upload(array)
    seen = np.from_dlpack(tensor)
    np.testing.assert_array_equal(seen, array)
    assert seen.ctypes.data == tensor.address


def test_a_borrowed_tensor_is_used_where_it_lies(gpu_backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    class Foreign:
        """A tensor of another library."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    source = image.copy()
    tensor = gpu_backend.upload(Foreign(source))
    assert tensor.address == source.ctypes.data
    found = gpu_backend.run("e4e", {"image": tensor}, ["latent"])["latent"]
    np.testing.assert_array_equal(gpu_backend.download(found), host.run("e4e", {"image": image}, ["latent"])["latent"])
    with pytest.raises(SdicError, match="^the tensor is float64; give float32$"):
        gpu_backend.upload(Foreign(source.astype(np.float64)))


def test_why_it_is_unavailable(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    assert backend_module.unavailable() == 'it needs the package "tensorrt"; install it with: pip install "sdic[tensorrt]"'
    monkeypatch.setattr(backend_module, "find_spec", lambda name: object())
    monkeypatch.setattr(backend_module, "missing_driver", lambda: None)
    monkeypatch.setattr(backend_module, "gpu_count", lambda: 0)
    assert backend_module.unavailable() == "there is no NVIDIA GPU here"
    monkeypatch.setattr(backend_module, "gpu_count", lambda: 1)
    monkeypatch.setattr(backend_module, "open_gpu", lambda index: PretendedCuda())
    monkeypatch.setattr(backend_module.importlib, "import_module", lambda name: types.SimpleNamespace(__version__="11.4.0.106"))
    bundle = Bundle.open(tiny_bundle)
    command = f"sdic-export engines {tiny_bundle} --target tensorrt"
    assert backend_module.unavailable(bundle) == f"{tiny_bundle} has no TensorRT engines; build them with: {command}"


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
    """Builds engines of the tiny bundle and holds inversion and edit against ONNX Runtime; run with: pytest -m gpu."""
    import shutil

    pytest.importorskip(TARGETS[name].module)
    build_engines = pytest.importorskip("sdic_export.tensorrt.engines").build_engines
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    build_engines(folder, name, "fp32")
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
