"""StyleFeatureEditor: its networks against a plain second writing, the whole against its steps, and the other cut of the generator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_methods as small
import torch
import torch.nn.functional as F
from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.networks.reference import PlainGenerator
from sdic_train.networks.sfe.backbone import windows
from sdic_train.networks.sfe.model import SFE, SFEInverter, masked


@pytest.fixture(scope="module")
def model() -> SFE:
    model = small.small_model("sfe")
    assert isinstance(model, SFE)
    return model


def ratio(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.std()).item()


class Plain:
    """Layers by their names, from the parameters alone."""

    def __init__(self, model: SFE) -> None:
        self.state = model.state_dict()

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], stride=stride, padding=1)

    def content(self, x: Tensor, name: str) -> Tensor:
        x = self.norm(self.conv(self.norm(x, f"{name}.0"), f"{name}.1"), f"{name}.2")
        return self.norm(self.conv(F.prelu(x, self.state[f"{name}.3.weight"]), f"{name}.4"), f"{name}.5")

    def fuser(self, first: Tensor, second: Tensor, name: str) -> Tensor:
        x = F.conv2d(torch.cat((first, second), 1), self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"])
        for block in range(small.SFE_SIZES.body):
            x = x + self.content(x, f"{name}.body.{block}.body")
        return x

    def backbone(self, image: Tensor) -> tuple[Tensor, Tensor]:
        name, levels = "inverter.fs_backbone", []
        x = F.prelu(self.norm(self.conv(image, f"{name}.conv.0"), f"{name}.conv.1"), self.state[f"{name}.conv.2.weight"])
        for block, (count, stride) in enumerate(zip(small.SFE_SIZES.units, (2, 2, 1, 2), strict=True), 1):
            for unit in (f"{name}.block_{block}.{index}" for index in range(count)):
                step = stride if unit.endswith(".0") else 1
                beside = x
                if f"{unit}.downsample.0.weight" in self.state:
                    beside = self.norm(F.conv2d(x, self.state[f"{unit}.downsample.0.weight"], stride=step), f"{unit}.downsample.1")
                y = self.norm(self.conv(self.norm(x, f"{unit}.bn1"), f"{unit}.conv1"), f"{unit}.bn2")
                x = self.norm(self.conv(F.prelu(y, self.state[f"{unit}.prelu.weight"]), f"{unit}.conv2", step), f"{unit}.bn3") + beside
            levels.append(x)
        assert [level.shape[-1] for level in levels] == [128, 64, 64, 32]
        cells = []
        for level in levels:
            bounds = {128: ((0, 43), (42, 86), (85, 128)), 64: ((0, 22), (21, 43), (42, 64)), 32: ((0, 11), (10, 22), (21, 32))}[
                level.shape[-1]
            ]
            rows = [torch.stack([level[:, :, a:b, c:d].mean((2, 3)) for c, d in bounds], -1) for a, b in bounds]
            cells.append(torch.stack(rows, -2))
        read = torch.cat(cells, 1).flatten(1)
        heads = [F.linear(read, self.state[f"{name}.styles.{row}.weight"], self.state[f"{name}.styles.{row}.bias"]) for row in range(14)]
        return torch.stack(heads, 1), self.content(levels[2], f"{name}.content_layer")


def test_backbone_fuser_and_editor_against_a_second_writing(model: SFE) -> None:
    plain, image = Plain(model), small.small_images(model.config)
    with torch.no_grad():
        latent, predicted = model.predict(image)
        offsets, feature = plain.backbone(image)
        assert ratio(latent, offsets + model.latent_avg) < 1e-5 and ratio(predicted, feature) < 1e-5
        own = model.generator.prefix(latent)[0]
        fused = model.fuse(predicted, own)
        assert ratio(fused, plain.fuser(predicted, own, "inverter.fuser")) < 1e-5
        assert ratio(model.editor(fused, own), plain.fuser(fused, own, "editor")) < 1e-5


def test_the_editor_takes_the_place_of_what_enters_the_convolution_to_128(model: SFE) -> None:
    image = small.small_images(model.config)
    with torch.no_grad():
        latent, predicted = model.predict(image)
        fused = model.fuse(predicted, model.generator.prefix(latent)[0])
        changed = model.editor(fused, torch.zeros_like(fused))
        handle = model.generator.styled(9).register_forward_pre_hook(lambda module, inputs: (changed, *inputs[1:]))
        picture = model.generator(latent)
        handle.remove()
        assert ratio(model(image), picture) < 1e-5
        assert ratio(SFEInverter.changed(model, fused), fused) == 0


def test_both_halves_are_the_generator(model: SFE) -> None:
    latent = model.latent_avg[None] + torch.randn(2, 14, 16, generator=torch.Generator().manual_seed(0))
    plain = PlainGenerator(model.generator)
    with torch.no_grad():
        feature, rgb = model.generator.prefix(latent)
        assert rgb.shape == (2, 3, 64, 64)
        assert ratio(model.generator.suffix(feature, rgb, latent), model.generator(latent)) < 1e-5
        for got, want in zip(plain.prefix(latent), (feature, rgb), strict=True):
            assert ratio(got, want) < 1e-4
        assert ratio(plain.suffix(feature, rgb, latent), model.generator(latent)) < 1e-4


def test_a_mask_is_brought_to_the_size_of_the_feature() -> None:
    difference, mask = torch.ones(1, 2, 64, 64), torch.zeros(1, 1, 256, 256)
    mask[..., :128] = 1
    got = masked(difference, mask)
    assert torch.equal(got[..., :32], torch.zeros(1, 2, 64, 32)) and torch.equal(got[..., 32:], torch.ones(1, 2, 64, 32))


@pytest.mark.parametrize("size", [128, 64, 32, 3])
def test_windows_are_those_of_adaptive_pooling(size: int) -> None:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(windows(size) @ x @ windows(size).T, F.adaptive_avg_pool2d(x, 3))


WIDE = replace(small.LARGER, resolution=512, working=512, channels={**small.LARGER.channels, 512: 4})


def test_another_working_size_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r"^the working size is 512; StyleFeatureEditor works at 256 or less$"):
        SFEInverter(WIDE)
