"""PyTorch as a backend: the same chain gives what the networks give, and the checkpoint behind a bundle is found and proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdic_runtime import chain
from sdic_runtime.bundle.bundle import Bundle, FileEntry, Manifest
from sdic_runtime.errors import SdicError
from sdic_runtime.files import sha256
from sdic_runtime.stages import STAGES
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


def bundle_of(folder: Path, **record: str) -> Bundle:
    stages = {name: {"fp32": f"{name}.onnx"} for name in STAGES}
    files = {f"{name}.onnx": FileEntry("0" * 64, 1) for name in STAGES}
    return Bundle(
        folder,
        Manifest(
            name="test",
            domain=TINY.domain,
            sizes=TINY.sizes,
            visible_rows=TINY.visible_rows,
            stages=stages,
            default_precision="fp32",
            files=files,
            checkpoint=record,
        ),
    )


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return bundle_of(folder, path="model.safetensors", sha256=sha256(folder / "model.safetensors"))


@pytest.mark.parametrize("load", [torch_backend.load, torch_backend.load_plain])
def test_chain_on_pytorch_equals_the_networks(bundle: Bundle, folder: Path, load: object) -> None:
    assert callable(load)
    backend, model = load(bundle), load_sdic(folder / "model.safetensors")
    image = np.random.default_rng(0).uniform(-1, 1, TINY.sizes.shape("image", 2)).astype(np.float32)
    found = {name: backend.download(tensor) for name, tensor in chain.invert(backend, backend.upload(image)).items()}
    with torch.no_grad():
        want = model.invert(torch.from_numpy(image))
    for name, value in want._asdict().items():
        np.testing.assert_allclose(found[name], value, atol=3e-5 * float(value.std()) + 1e-7, err_msg=name)


def test_names_and_descriptions(bundle: Bundle) -> None:
    fast, plain = torch_backend.load(bundle), torch_backend.load_plain(bundle)
    assert (fast.name, plain.name) == ("torch", "torch-plain")
    assert fast.description == f"PyTorch {torch.__version__}, cpu, fp32"
    assert plain.description == f"PyTorch {torch.__version__}, cpu, fp32, plain generator"


def test_only_the_outputs_asked_for(bundle: Bundle) -> None:
    backend = torch_backend.load(bundle)
    latent = backend.upload(np.zeros(TINY.sizes.shape("latent", 1), np.float32))
    assert list(backend.run("generator_head", {"latent": latent}, ["rgb"])) == ["rgb"]


def test_missing_and_changed_checkpoints(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SdicError, match="does not say which checkpoint it was built from; name the checkpoint"):
        torch_backend.load(bundle_of(folder))
    with pytest.raises(SdicError, match="that the bundle .* was built from is not there"):
        torch_backend.load(bundle_of(tmp_path, path="none.pt", sha256="0" * 64))
    with pytest.raises(SdicError, match="has changed since the bundle .* was built from it"):
        torch_backend.load(bundle_of(folder, path=str(folder / "model.safetensors"), sha256="0" * 64))


def test_checkpoint_of_other_sizes(bundle: Bundle, tmp_path: Path) -> None:
    config = replace(TINY, style_width=8)
    model = SDIC(config)
    parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
    save_checkpoint(tmp_path / "other.safetensors", config, **parts)
    with pytest.raises(SdicError, match="the checkpoint has sizes .*'style_width': 8.* and the bundle .*'style_width': 16"):
        torch_backend.load(bundle, checkpoint=tmp_path / "other.safetensors")


def test_options_that_cannot_be_met(bundle: Bundle) -> None:
    with pytest.raises(SdicError, match='runs in fp32 and not in "fp16"; leave the precision out'):
        torch_backend.load(bundle, precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(SdicError, match='sees no GPU for the device "cuda"; use device="cpu"'):
            torch_backend.load(bundle, device="cuda")
