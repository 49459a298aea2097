"""What the TensorRT backend refuses on a fake GPU, when it is chosen, and that a real one gives the same."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_engines import inverted, opened
from fake_gpu import PLACE, FakeGpu, FakeLibrary

from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.registry import available_backends, choose_backend, find_backend, load_backend
from sdic_runtime.backends.tensorrt import backend as backend_module
from sdic_runtime.backends.tensorrt import library as library_module
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.backends.tensorrt.engine_files import engine_folder, read_sidecar
from sdic_runtime.backends.tensorrt.settings import EngineSettings, Profile, Target
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, OutOfMemoryError, SdicError
from sdic_runtime.pipeline import Pipeline


def test_a_stage_that_is_refused_is_one_sentence(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    library.fail = "dipn"
    with pytest.raises(
        BackendError,
        match=r'^TensorRT failed in "dipn": Cuda Runtime \(an illegal address\); use a smaller batch, or build '
        r"the engines again with: sdic-export engines .* --target tensorrt --precision fp32$",
    ):
        inverted(backend, image)


@pytest.mark.parametrize(
    ("largest", "sentence"),
    [(2, "1 to 2; use a batch in that range, or build"), (1, "1; use a batch of 1, or if no stage is for one picture at a time, build")],
)
def test_a_batch_beyond_the_profile(
    largest: int, sentence: str, bundle: Bundle, host: OnnxRuntime, gpu: FakeGpu, image: np.ndarray
) -> None:
    """Engines of a graph that is for one picture at a time cannot be built for more."""
    backend = opened(bundle, FakeLibrary(host, gpu, largest=largest))
    with pytest.raises(ArgumentError) as told:
        inverted(backend, image)
    assert str(told.value) == f"the batch has 3 pictures and the engines take {sentence} them with --batch 1,1,3"


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


def test_a_damaged_engine_is_refused_with_the_whole_command(bundle: Bundle, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    next(bundle.path.glob("engines/*/dicn.engine")).write_bytes(b"dicm")
    monkeypatch.setattr(backend_module, "load_library", lambda target: types.SimpleNamespace(__version__=PLACE.version))
    monkeypatch.setattr(backend_module, "open_gpu", lambda device: FakeGpu())
    with pytest.raises(
        BackendError,
        match="dicn.engine is damaged: its SHA-256 is not the one in engine.json; build them again with: "
        f"sdic-export engines {bundle.path} --target tensorrt --precision fp32$",
    ):
        backend_module.load(bundle)


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


def test_auto_looks_at_the_engines_that_the_options_choose(bundle: Bundle, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside this user's engines for 4 pictures lie somebody else's for 8."""
    monkeypatch.setattr(backend_module, "find_spec", lambda name: object())
    monkeypatch.setattr(backend_module, "missing_driver", lambda: None)
    monkeypatch.setattr(backend_module, "gpu_count", lambda: 1)
    monkeypatch.setattr(backend_module, "open_gpu", lambda *device: FakeGpu())
    monkeypatch.setattr(backend_module, "load_library", lambda target: types.SimpleNamespace(__version__=PLACE.version))
    (own,) = bundle.path.glob("engines/*")
    sidecar = read_sidecar(own)
    settings = msgspec.structs.replace(sidecar.settings, profile=Profile(1, 1, 8))
    other = Path(shutil.copytree(own, engine_folder(bundle, PLACE, settings)))
    (other / "engine.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(sidecar, settings=settings)))
    assert choose_backend(bundle)[0] == find_backend("auto", bundle, {"threads": 2}).entry.name == "tensorrt"
    for options in ({"batch": 8}, {"device": "cuda"}, {"precision": "fp16"}, {"threads": 2}):
        name, _ = choose_backend(bundle, None, options)
        assert name == "onnxruntime", options
    assert "its engines were not built by this user" in choose_backend(bundle, None, {"batch": 8})[1]
    with pytest.raises(ArgumentError, match='the backend "onnxruntime" has no option "batch"'):
        find_backend("auto:batch=8", bundle)


def test_a_backend_may_be_closed_twice(backend: TensorRt) -> None:
    backend.close()
    backend.close()


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
