"""HFGI: ADA and the consultation encoder against a plain second writing, and the whole of it against its own steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_methods as small
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.networks.hfgi.consultation import RELEASED, Aligner
from sdic_train.networks.hfgi.model import HFGI, fuse
from sdic_train.networks.stylegan2 import downsample


class Plain:
    """Layers by their names, from the parameters alone."""

    def __init__(self, module: nn.Module) -> None:
        self.state = dict(module.named_parameters()) | dict(module.named_buffers())

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def stem(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.state["conv_layer1.0.weight"], padding=1)
        return F.prelu(self.norm(x, "conv_layer1.1"), self.state["conv_layer1.2.weight"])

    def units(self, x: Tensor, name: str, stride: int) -> Tensor:
        for unit in (f"{name}.{index}" for index in range(3)):
            if f"{unit}.shortcut_layer.0.weight" in self.state:
                skip = F.conv2d(x, self.state[f"{unit}.shortcut_layer.0.weight"], stride=stride)
                skip = self.norm(skip, f"{unit}.shortcut_layer.1")
            else:
                skip = F.max_pool2d(x, 1, stride)
            y = F.conv2d(self.norm(x, f"{unit}.res_layer.0"), self.state[f"{unit}.res_layer.1.weight"], padding=1)
            y = F.prelu(y, self.state[f"{unit}.res_layer.2.weight"])
            y = F.conv2d(y, self.state[f"{unit}.res_layer.3.weight"], stride=stride, padding=1)
            x, stride = self.norm(y, f"{unit}.res_layer.4") + skip, 1
        return x


@pytest.fixture(scope="module")
def model() -> HFGI:
    model = small.small_model("hfgi")
    assert isinstance(model, HFGI)
    return model


def ratio(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.std()).item()


def test_ada_against_a_second_writing(model: HFGI) -> None:
    plain, distortion = Plain(model.aligner), small.small_images(model.config)
    picture = distortion.flip(3)
    with torch.no_grad():
        skips = [plain.stem(torch.cat((distortion, picture), 1))]
        for layer in (2, 3, 4):
            skips.append(plain.units(skips[-1], f"conv_layer{layer}", 2))
        x = skips.pop()
        for layer in (1, 2, 3):
            wide = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = plain.units(torch.cat((wide, skips.pop()), 1), f"dconv_layer{layer}", 1)
        assert x.shape == distortion.shape
        assert ratio(model.aligner(distortion, picture), x) < 1e-5


def test_the_consultation_encoder_against_a_second_writing(model: HFGI) -> None:
    plain, aligned = Plain(model.consultation), small.small_images(model.config)
    with torch.no_grad():
        x = plain.units(plain.units(plain.stem(aligned), "conv_layer2", 2), "conv_layer3", 2)
        for name, got in zip(("condition_scale3", "condition_shift3"), model.consultation(aligned), strict=True):
            y = x
            for layer in (0, 2):
                weight = plain.state[f"{name}.{layer}.weight"]
                y = F.conv2d(y, weight / (9 * weight.shape[1]) ** 0.5, plain.state[f"{name}.{layer}.bias"], padding=1)
                y = F.leaky_relu(y, 0.2) * 2**0.5 if layer == 0 else y
            assert ratio(got, y) < 1e-5


def test_the_whole_against_its_steps(model: HFGI) -> None:
    image, hooked = small.small_images(model.config), {}
    with torch.no_grad():
        latent = model.encoder(image) + model.latent_avg
        small_picture = downsample(model.generator(latent).clamp(-1, 1), model.config.working)
        scale, shift = model.consult(image - small_picture, small_picture)
        layer = model.generator.styled(7)
        handle = layer.register_forward_hook(lambda module, inputs, output: hooked.setdefault("fused", fuse(output, scale, shift)))
        picture = model.generator(latent)  # with layer 7 replaced right behind its activation
        handle.remove()
        assert hooked["fused"].shape == (2, model.config.channels[64], 64, 64)
        assert ratio(model(image), picture) < 1e-5


def test_the_released_channels_are_those_of_the_released_file() -> None:
    with torch.device("meta"):
        aligner = Aligner(RELEASED)
    shapes = {name: tuple(tensor.shape) for name, tensor in aligner.state_dict().items()}
    assert shapes["dconv_layer1.0.shortcut_layer.0.weight"] == (64, 112, 1, 1)
    assert shapes["dconv_layer3.1.res_layer.1.weight"] == (3, 16, 3, 3)
    assert sum(tensor.numel() for tensor in aligner.parameters()) == pytest.approx(0.6e6, rel=0.02)


WIDE = replace(small.LARGER, resolution=512, working=512, channels={**small.LARGER.channels, 512: 4})


def test_another_working_size_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r"^the working size is 512; HFGI works at 256 or less$"):
        HFGI(WIDE)
