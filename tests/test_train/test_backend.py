"""PyTorch as a backend: the programs give what the networks give, and the checkpoint behind a bundle is found and checked."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BackendError, BundleError, CheckpointError, OutOfMemoryError
from sdic_runtime.files import sha256
from sdic_train import backend as torch_backend
from sdic_train.checkpoints.load import load_sdic, save_checkpoint
from sdic_train.config import TINY
from sdic_train.networks.sdic.model import SDIC


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    model = SDIC(TINY)
    save_checkpoint(
        folder / "model.safetensors",
        TINY,
        model.latent_avg,
        encoder=model.encoder,
        generator=model.generator,
        dipn=model.dipn,
        dicn=model.dicn,
    )
    return folder


def bundle_of(folder: Path, method: str = "sdic", **record: str) -> Bundle:
    """The demo's manifest with the sizes of TINY and `folder` for its files: nothing but the checkpoint is read."""
    manifest = msgspec.structs.replace(Bundle.open().manifest, method=method, sizes=TINY.sizes, domain=TINY.domain, checkpoint=record)
    return Bundle(folder, manifest)


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return bundle_of(folder, path="model.safetensors", sha256=sha256(folder / "model.safetensors"))


@pytest.mark.parametrize("load", [torch_backend.load, torch_backend.load_plain])
def test_programs_on_pytorch_equals_the_networks(bundle: Bundle, folder: Path, load: object) -> None:
    assert callable(load)
    backend, model = load(bundle), load_sdic(folder / "model.safetensors")
    image = np.random.default_rng(0).uniform(-1, 1, bundle.manifest.shape("image", 2)).astype(np.float32)
    found = {name: backend.download(tensor) for name, tensor in backend.run_program("invert", {"image": backend.upload(image)}).items()}
    with torch.no_grad():
        want = model.invert(torch.from_numpy(image))
    for name, value in want._asdict().items():
        np.testing.assert_allclose(found[name], value, atol=3e-5 * float(value.std()) + 1e-7, err_msg=name)


def test_names_and_descriptions(bundle: Bundle) -> None:
    fast, plain = torch_backend.load(bundle), torch_backend.load_plain(bundle)
    assert (fast.name, plain.name) == ("torch", "torch-plain")
    assert fast.description == f"PyTorch {torch.__version__}, cpu, fp32"
    assert plain.description == f"PyTorch {torch.__version__}, cpu, fp32, plain generator"


def test_gpu_memory_is_what_pytorch_reserved(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = torch_backend.load(bundle)
    assert backend.gpu_memory is None
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", {"cuda:1": 12}.__getitem__)
    backend.device = "cuda:1"
    assert backend.gpu_memory == 12


def test_only_the_outputs_asked_for(bundle: Bundle) -> None:
    backend = torch_backend.load(bundle)
    latent = backend.upload(np.zeros(bundle.manifest.shape("latent", 1), np.float32))
    assert list(backend.run("generator_head", {"latent": latent}, ["rgb"])) == ["rgb"]


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
@pytest.mark.parametrize("plain", [False, True])
def test_half_precision_is_autocast_with_channels_last(bundle: Bundle, precision: str, bits: int, plain: bool) -> None:
    exact, backend = torch_backend.load(bundle), torch_backend.load(bundle, precision=precision, plain=plain)
    assert backend.precision == precision and f"{precision} autocast, channels last" in backend.description
    assert "autocast, channels" not in torch_backend.load(bundle, precision=precision, channels_last=False).description
    random, method = np.random.default_rng(0), bundle.manifest
    inputs = {
        name: torch.from_numpy(random.standard_normal(method.shape(name, 1))).float() for name in method.stages["generator_tail"].inputs
    }
    picture, want = (made.run("generator_tail", inputs, ["picture"])["picture"] for made in (backend, exact))
    assert picture.dtype == torch.float32
    error = float((picture - want).std() / want.std())
    assert 2.0 ** -(bits + 4) < error < 2.0 ** -(bits - 3)  # it was computed in that precision, and no worse


def test_threads_that_compute_at_once_leave_the_settings_of_the_process() -> None:
    products = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [product.fp32_precision for product in products]
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with torch_backend.Arithmetic.of("fp32", "cuda").applied("cuda"):
            inside.set()
            go.wait(0.3)

    def second() -> None:
        inside.wait(10)
        with torch_backend.Arithmetic.of("fp32", "cuda").applied("cuda"):
            go.set()

    threads = [threading.Thread(target=task) for task in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [product.fp32_precision for product in products] == before
    assert isinstance(torch.backends.cudnn.allow_tf32, bool)  # PyTorch refuses to say where its settings contradict each other


def test_numbers_are_those_asked_for_and_the_settings_of_the_process_stay() -> None:
    products = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [product.fp32_precision for product in products]
    for precision, setting in (("fp32", "ieee"), ("tf32", "tf32")):
        with torch_backend.Arithmetic.of(precision, "cuda:0").applied("cuda:0"):
            assert [product.fp32_precision for product in products] == [setting] * 2
    assert [product.fp32_precision for product in products] == before
    with torch_backend.Arithmetic.of("fp32", "cpu").applied("cpu"):  # a CPU has no TF32, and others in the process may read the settings
        assert [product.fp32_precision for product in products] == before
    maps, other = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3)
    arithmetic = torch_backend.Arithmetic.of("fp16", "cuda")
    assert arithmetic.arranged(maps).is_contiguous(memory_format=torch.channels_last) and arithmetic.arranged(other) is other


def test_missing_and_changed_checkpoints(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not say which checkpoint it was built from; name the checkpoint"):
        torch_backend.load(bundle_of(folder))
    with pytest.raises(CheckpointError, match="that the bundle .* was built from is not there"):
        torch_backend.load(bundle_of(tmp_path, path="none.pt", sha256="0" * 64))
    with pytest.raises(CheckpointError, match="has changed since the bundle .* was built from it"):
        torch_backend.load(bundle_of(folder, path=str(folder / "model.safetensors"), sha256="0" * 64))


def test_checkpoint_of_other_sizes(bundle: Bundle, tmp_path: Path) -> None:
    config = replace(TINY, style_width=8)
    model = SDIC(config)
    parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
    save_checkpoint(tmp_path / "other.safetensors", config, **parts)
    with pytest.raises(CheckpointError, match="the checkpoint has the sizes .*'C': 8.* and the bundle .*'C': 16"):
        torch_backend.load(bundle, checkpoint=tmp_path / "other.safetensors")


def test_options_that_cannot_be_met(bundle: Bundle) -> None:
    with pytest.raises(ArgumentError, match='runs in fp32, tf32, fp16, bf16 and not in "int8"; name one of them'):
        torch_backend.load(bundle, precision="int8")
    with pytest.raises(ArgumentError, match='tf32 is for NVIDIA GPUs, and the device is "cpu"; use device="cuda"'):
        torch_backend.load(bundle, precision="tf32")
    with pytest.raises(ArgumentError, match="channels_last is 'yes'; use true or false"):
        torch_backend.load(bundle, channels_last="yes")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="^threads is 0; give a whole number of at least 1"):
        torch_backend.load(bundle, threads=0)
    for device in ("mps", "foo"):
        with pytest.raises(ArgumentError, match=f'^the device is "{device}"; use cpu, cuda or cuda:N$'):
            torch_backend.load_plain(bundle, device=device)
    with pytest.raises(BackendError, match='sees no GPU for the device "cuda:99"; '):
        torch_backend.load(bundle, device="cuda:99")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match='sees no GPU for the device "cuda"; use device="cpu"'):
            torch_backend.load(bundle, device="cuda")


def test_an_unknown_method_is_one_sentence(folder: Path) -> None:
    with pytest.raises(BundleError, match=r'^the method "magic" is not known to sdic_train; known are: .*sdic'):
        torch_backend.load(bundle_of(folder, method="magic"))


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (torch.OutOfMemoryError("x"), OutOfMemoryError, 'the stage "e4e" ran out of memory on cpu; use a smaller batch'),
        (RuntimeError("you tried to allocate: not enough memory"), OutOfMemoryError, 'the stage "e4e" ran out of memory on cpu'),
        (RuntimeError("shapes differ"), BackendError, 'the stage "e4e" failed on cpu: shapes differ'),
    ],
)
def test_failures_have_a_kind(
    failure: Exception, kind: type[Exception], sentence: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**inputs: object) -> None:
        raise failure

    backend = torch_backend.load(bundle)
    monkeypatch.setitem(backend._stages, "e4e", fail)
    with pytest.raises(kind, match=sentence):
        backend.run("e4e", {"image": backend.upload(np.zeros(1))}, ["latent"])


def test_a_slice_is_a_view_of_the_same_memory(bundle: Bundle) -> None:
    backend = torch_backend.load(bundle)
    tensor = backend.upload(np.arange(12).reshape(3, 4))
    part = backend.slice(tensor, slice(1, 3))
    assert part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    np.testing.assert_array_equal(backend.download(part), np.arange(4, 12).reshape(2, 4))
