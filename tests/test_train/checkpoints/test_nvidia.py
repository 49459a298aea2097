"""NVIDIA's pickles: read without running anything of them, and what the generator computes is what its weights say under NVIDIA's names."""

from __future__ import annotations

import io
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvidia_pickles as nvidia
import pytest
import small_methods as small
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import describe, load_generator, read_checkpoint
from sdic_train.checkpoints.models import load_encoded
from sdic_train.methods import method_of_file
from sdic_train.networks.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return small.small_model("psp").generator


@pytest.fixture(scope="module")
def average(generator: Generator) -> Tensor:
    return torch.linspace(-1, 1, generator.config.style_width)


@pytest.fixture(scope="module")
def file(generator: Generator, average: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nvidia") / "network-snapshot-000100.pkl"
    return nvidia.write_pickle(path, nvidia.names(generator, average), nvidia.settings(generator))


def synthesis(tensors: dict[str, Tensor], ws: Tensor) -> Tensor:
    """StyleGAN2's picture from the tensors under NVIDIA's names, written from the paper: one sample at a time, weights modulated."""

    def layer(name: str, x: Tensor, w: Tensor, up: bool, demodulate: bool = True) -> Tensor:
        weight = tensors[f"{name}.weight"]
        style = w @ tensors[f"{name}.affine.weight"].T / math.sqrt(len(w)) + tensors[f"{name}.affine.bias"]
        gain = 1 / math.sqrt(weight[0].numel())
        weight = weight * (style * (gain if not demodulate else 1))[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8 / gain**2).sqrt()
        if not up:
            return F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]
        x = F.conv_transpose2d(x[None], weight.transpose(0, 1), stride=2)
        blur = tensors[f"{name}.resample_filter"][None, None] * 4
        return F.conv2d(x.transpose(0, 1), blur, padding=1).transpose(0, 1)[0]

    def activated(name: str, x: Tensor) -> Tensor:
        x = x + tensors[f"{name}.noise_const"] * tensors[f"{name}.noise_strength"] + tensors[f"{name}.bias"][:, None, None]
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    pictures = []
    for w in ws:
        x, row, size, picture = tensors["synthesis.b4.const"], 0, 4, None
        while f"synthesis.b{size}.conv1.weight" in tensors:
            block = f"synthesis.b{size}"
            if size > 4:
                x = activated(f"{block}.conv0", layer(f"{block}.conv0", x, w[row], up=True))
                row += 1
            x = activated(f"{block}.conv1", layer(f"{block}.conv1", x, w[row], up=False))
            row += 1
            rgb = layer(f"{block}.torgb", x, w[row], up=False, demodulate=False) + tensors[f"{block}.torgb.bias"][:, None, None]
            if picture is not None:
                wide = torch.zeros(3, size, size)
                wide[:, ::2, ::2] = picture
                blur = tensors[f"{block}.resample_filter"][None, None] * 4
                picture = F.conv2d(F.pad(wide[:, None], (2, 1, 2, 1)), blur)[:, 0]
            picture = rgb if picture is None else picture + rgb
            size *= 2
        pictures.append(picture)
    return torch.stack([picture for picture in pictures if picture is not None])


def mapping(tensors: dict[str, Tensor], z: Tensor) -> Tensor:
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    index = 0
    while f"mapping.fc{index}.weight" in tensors:
        weight, bias = tensors[f"mapping.fc{index}.weight"], tensors[f"mapping.fc{index}.bias"]
        x = F.leaky_relu(x @ (weight * 0.01 / math.sqrt(weight.shape[1])).T + bias * 0.01, 0.2) * math.sqrt(2)
        index += 1
    return x


@torch.no_grad()
def test_pictures_and_codes_are_those_of_nvidias_names(file: Path, generator: Generator, average: Tensor) -> None:
    loaded, tensors = load_generator(file), nvidia.names(generator, average)
    config = loaded.config
    codes = torch.randn(2, config.rows, config.style_width, generator=torch.Generator().manual_seed(1))
    want = synthesis(tensors, codes)
    assert (loaded(codes) - want).abs().max() < 2e-6 * want.abs().max() and want.std() > 0.1
    z = torch.randn(3, config.style_width, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(loaded.mapping(z), mapping(tensors, z), atol=1e-6)
    state = generator.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    checkpoint = read_checkpoint(file)
    assert checkpoint.kind == "StyleGAN2" and checkpoint.latent_avg is not None
    assert torch.equal(checkpoint.latent_avg, average.expand(config.rows, -1))


def test_every_protocol_and_torch_save_of_the_object(file: Path, generator: Generator, average: Tensor, tmp_path: Path) -> None:
    tensors, attributes = nvidia.names(generator, average), nvidia.settings(generator)
    state = generator.state_dict()
    for protocol in (2, 3, 5):
        path = nvidia.write_pickle(tmp_path / f"{protocol}.pkl", tensors, attributes, protocol)
        assert all(torch.equal(tensor, state[name]) for name, tensor in load_generator(path).state_dict().items())
    with nvidia.their_modules():  # what PTI writes of a tuned generator
        for name, new in (("new.pt", True), ("old.pt", False)):
            torch.save(nvidia.tree(tensors, attributes), tmp_path / name, _use_new_zipfile_serialization=new)
    for name in ("new.pt", "old.pt"):
        assert all(torch.equal(tensor, state[key]) for key, tensor in load_generator(tmp_path / name).state_dict().items()), name


def test_it_serves_wherever_a_generator_does(file: Path, average: Tensor, tmp_path: Path) -> None:
    content = small.small_container("psp", small.small_model("psp"))
    del content["latent_avg"]
    torch.save(content, tmp_path / "psp.pt")
    loaded = load_encoded(tmp_path / "psp.pt", None, [file], "pSp")
    assert torch.equal(loaded.latent_avg, average.expand(loaded.config.rows, -1))
    with pytest.raises(CheckpointError, match="a StyleGAN2 checkpoint holds no inversion method"):
        method_of_file(file)
    said = dict(describe(file))
    assert (said["kind"], said["latent_avg"]) == ("StyleGAN2", "present") and said["licence"].startswith("NVIDIA Source Code License")


def test_nothing_of_a_file_runs(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    class Calls:
        def __reduce__(self) -> Any:
            return eval, ("__import__('os').system('false')",)

    for index, hostile in enumerate((Runs(), Calls(), {"G_ema": Runs()}, [Calls()])):
        path = tmp_path / f"{index}.pkl"
        path.write_bytes(pickle.dumps(hostile))
        with pytest.raises(CheckpointError, match=r'is a pickle that asks to run code \("(builtins|pathlib)\.[\w.]+"\), which is refused'):
            read_checkpoint(path)
    assert not (tmp_path / "ran").exists() and "torch_utils" not in sys.modules


def operations(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (operations(b"}", b"r\xff\xff\xff\x7f"), "numbers its objects far beyond their count"),
        (operations(b"\x8e" + (1 << 60).to_bytes(8, "little")), "it ends early"),
        (operations(b"Pabc\n"), "it uses PERSID"),
        (operations(b"\x82\x01"), "it uses EXT1"),
        (b"\x80\x04}", "damaged pickle"),
        (operations(b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n", b"}", b"N\x86", b"b"), "a function does not change"),
        (operations(b"ctraining.networks\nGenerator\n", b"N}\x8c\x07__new__K\x01s\x86b"), "does not change|damaged"),
    ],
)
def test_streams_that_no_writer_makes_cost_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_tensors_stay_within_their_storage(generator: Generator, average: Tensor, tmp_path: Path) -> None:
    class Wide:
        def __init__(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
            self.arguments = (size, stride, offset)

        def __reduce__(self) -> Any:
            size, stride, offset = self.arguments
            stream = io.BytesIO()
            torch.save(torch.ones(16)._typed_storage(), stream, _use_new_zipfile_serialization=False)
            storage = type("Storage", (), {"__reduce__": lambda _: (torch.storage._load_from_bytes, (stream.getvalue(),))})()
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    tensors = nvidia.names(generator, average)
    for wide in (Wide((1 << 40,), (0,)), Wide((4, 4), (4, 2)), Wide((4,), (1,), 13), Wide((-1,), (1,))):
        held: dict[str, Any] = {**tensors, "mapping.w_avg": wide}
        path = nvidia.write_pickle(tmp_path / "x.pkl", held, nvidia.settings(generator))
        with pytest.raises(CheckpointError, match=r"is a damaged pickle \(a tensor of"):
            read_checkpoint(path)


Change = Callable[[dict[str, Any], dict[str, dict[str, Any]]], None]
OTHERS: dict[str, tuple[str, Change]] = {
    "stylegan3": (
        "holds a StyleGAN3 generator, which no method here uses; give a StyleGAN2 one",
        lambda tensors, settings: (tensors.clear(), tensors.update({"synthesis.input.freqs": torch.ones(2)}))[0],
    ),
    "another": (
        r"holds a Generator that is no StyleGAN2 generator \(first names: synthesis.conv.weight\)",
        lambda tensors, settings: (tensors.clear(), tensors.update({"synthesis.conv.weight": torch.ones(2)}))[0],
    ),
    "classes": (r"a generator for labelled classes \(c_dim 10\)", lambda tensors, settings: settings[""].update(c_dim=10)),
    "gray": ("a generator of pictures with 1 channels", lambda tensors, settings: settings[""].update(img_channels=1)),
    "residual": ('the architecture "resnet"', lambda tensors, settings: settings["synthesis.b8"].update(architecture="resnet")),
    "rate": ("a mapping network with the rate 1.0", lambda tensors, settings: settings["mapping.fc0"].update(bias_gain=1.0)),
    "filter": (
        r'has another filter than \[1, 3, 3, 1\] \("synthesis.b8.conv0.resample_filter"\)',
        lambda tensors, settings: tensors.update({"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}),
    ),
    "skip": (
        r"of another kind than StyleGAN2 with skips \(synthesis.b8.skip.weight\)",
        lambda tensors, settings: tensors.update({"synthesis.b8.skip.weight": torch.ones(4, 4, 1, 1)}),
    ),
    "lacks": (r"lacks \(generator.convs.1.conv.modulation.bias\)", lambda tensors, settings: tensors.pop("synthesis.b8.conv1.affine.bias")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_networks_are_refused_by_name(case: str, generator: Generator, average: Tensor, tmp_path: Path) -> None:
    message, change = OTHERS[case]
    tensors, settings = dict(nvidia.names(generator, average)), nvidia.settings(generator)
    change(tensors, settings)
    with pytest.raises(CheckpointError, match=message):
        load_generator(nvidia.write_pickle(tmp_path / "x.pkl", tensors, settings))


def test_tensorflow_pickles_and_pickles_of_anything(tmp_path: Path, generator: Generator, average: Tensor) -> None:
    (tmp_path / "tf.pkl").write_bytes(operations(b"cdnnlib.tflib.network\nNetwork\n", b")R"))
    with pytest.raises(CheckpointError, match="holds networks of NVIDIA's TensorFlow code.*convert it with legacy.py"):
        read_checkpoint(tmp_path / "tf.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(CheckpointError, match="holds an object of a program and no weights"):
        read_checkpoint(tmp_path / "list.pkl")
    plain = {"g_ema": generator.state_dict(), "latent_avg": average}  # the rosinality layout, by pickle.dump
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(plain))
    state = generator.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_generator(tmp_path / "plain.pkl").state_dict().items())


def test_a_clamp_of_training_is_told(generator: Generator, average: Tensor, tmp_path: Path) -> None:
    settings = nvidia.settings(generator)
    settings["synthesis.b64.conv1"]["conv_clamp"] = 256
    said = dict(describe(nvidia.write_pickle(tmp_path / "x.pkl", nvidia.names(generator, average), settings)))
    assert said["conv_clamp"].startswith("activations were clamped to +-256 in training and are not here")
