"""The networks: fast forms against the plain ones and against independent arithmetic, shapes, and the algebra of Eq. 5 and 6."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import AFFINE, LARGER, LARGEST, model_of, randomized, ratio

from sdic_runtime.errors import SdicError
from sdic_train.config import CARS, DEMO, FACES, FEATURE_SIZE, PRESETS, TINY, ModelConfig
from sdic_train.networks import reference
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.layers import BottleneckIR, EqualLinear
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import Generator, ModulatedConv2d, blur, downsample, upsample_rgb


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulating_the_input_equals_a_weight_per_sample(upsample: bool, demodulate: bool) -> None:
    layer = ModulatedConv2d(6, 5, 3, 8, demodulate=demodulate, upsample=upsample)
    x, style = torch.randn(3, 6, 9, 7), torch.randn(3, 8)
    assert ratio(layer(x, style), reference.modulated_conv2d(layer, x, style)) < 1e-5


def test_blur_and_rgb_upsampling_equal_zero_insertion() -> None:
    x = torch.randn(2, 3, 11, 8)
    kernel = reference.blur_kernel()
    assert ratio(blur(x), reference.upfirdn2d(x, kernel, pad=(1, 1))) < 1e-5
    assert ratio(upsample_rgb(x), reference.upfirdn2d(x, kernel, up=2, pad=(2, 1))) < 1e-5


def test_upfirdn2d_against_a_loop() -> None:
    x, kernel = np.arange(6.0).reshape(2, 3), np.array([[1.0, 2.0], [3.0, 5.0]])
    spread = np.zeros((2 * 2 + 2, 3 * 2 + 2))
    spread[1:5:2, 1:7:2] = x
    want = [[sum(spread[r + i, c + j] * kernel[1 - i, 1 - j] for i in range(2) for j in range(2)) for c in range(7)] for r in range(5)]
    got = reference.upfirdn2d(torch.tensor(x)[None, None], torch.tensor(kernel), up=2, pad=(1, 1))
    np.testing.assert_allclose(got[0, 0], want)


@pytest.mark.parametrize("config", [TINY, LARGER, LARGEST], ids=lambda config: str(config.resolution))
def test_generator_equals_the_plain_one(config: ModelConfig) -> None:
    generator = Generator(config)
    randomized(generator)
    plain = reference.PlainGenerator(generator)
    latent, residual = torch.randn(2, config.rows, config.style_width), torch.randn(2, config.sizes["K"], FEATURE_SIZE, FEATURE_SIZE)
    with torch.no_grad():
        for got, want in zip(generator.head(latent), plain.head(latent), strict=True):
            assert ratio(got, want) < 3e-5
        feature, rgb = generator.head(latent)
        assert ratio(generator.tail(feature, rgb, latent, residual), plain.tail(feature, rgb, latent, residual)) < 3e-5
        assert ratio(generator(latent), plain.tail(*plain.head(latent), latent)) < 3e-5


def test_paper_edit_by_nothing_is_the_inversion_and_the_released_form_is_not() -> None:
    model = model_of(TINY)
    image = torch.rand((1, 3, TINY.working, TINY.working)) * 2 - 1
    with torch.no_grad():
        inversion = model.invert(image)
        nothing = torch.zeros_like(inversion.latent)
        assert (model.edit(inversion, nothing) - inversion.picture).abs().max() < 1e-5
        assert (model.edit(inversion, nothing, "released") - inversion.picture).abs().max() > 1e-3


def test_edit_is_eq6() -> None:
    model = model_of(TINY)
    image, delta = torch.rand((2, 3, TINY.working, TINY.working)) * 2 - 1, torch.randn(2, TINY.rows, TINY.style_width)
    with torch.no_grad():
        inversion = model.invert(image)
        moved = inversion.latent_enhanced + delta
        enhanced = inversion.feature + inversion.residual  # Eq. 5: F_enh = F_R + P
        for form, code in (("paper", inversion.latent + delta), ("released", moved)):
            feature = enhanced - inversion.feature + model.generator.head(code)[0]  # Eq. 6: F_enh - F_R + F_E
            want = model.generator.tail(feature, model.generator.head(moved)[1], moved)
            assert ratio(model.edit(inversion, delta, form), want) < 1e-5  # type: ignore[arg-type]


def test_bottleneck_shortcut_is_the_released_max_pooling() -> None:
    unit, x = randomized(BottleneckIR(4, 4, stride=2, reduction=2)), torch.randn(1, 4, 6, 6)
    assert isinstance(unit, BottleneckIR)
    with torch.no_grad():
        assert torch.equal(unit(x), unit.res_layer(x) + F.max_pool2d(x, 1, 2))


def test_progressive_deltas_repeat_row_zero_behind_the_limit() -> None:
    encoder = Encoder(TINY)
    randomized(encoder)
    image = torch.rand((1, 3, TINY.working, TINY.working))
    with torch.no_grad():
        full, limited = encoder(image), encoder(image, deltas=2)
    assert torch.equal(full[:, :3], limited[:, :3])
    assert torch.equal(limited[:, 3:], full[:, :1].expand(-1, TINY.rows - 3, -1))
    assert not torch.equal(full[:, 3:], limited[:, 3:])


def test_cropped_encoder_reads_only_its_rows() -> None:
    config = replace(TINY, working=128, encoder=replace(TINY.encoder, crop=(32, 96)))
    encoder = Encoder(config)
    randomized(encoder)
    image = torch.rand(1, 3, 128, 128)
    other = image.clone()
    other[:, :, :32], other[:, :, 96:] = -1, -1
    with torch.no_grad():
        assert torch.equal(encoder(image), encoder(other))


def test_equalized_linear_scales_at_run_time() -> None:
    layer = EqualLinear(16, 3, bias=1.0, rate=0.01)
    x = torch.randn(2, 16)
    want = x @ layer.weight.T * (0.01 / 4) + layer.bias * 0.01
    torch.testing.assert_close(layer(x), want)


def test_downsampling_by_four_reads_the_centre_of_every_block() -> None:
    x = torch.randn(1, 3, 16, 16)
    centre = x.unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean((-1, -2))
    torch.testing.assert_close(downsample(x, 4), centre)
    assert downsample(x, 16) is x


@pytest.mark.parametrize(("name", "rows"), [("faces", 18), ("cars", 16)])
def test_released_presets(name: str, rows: int) -> None:
    config = PRESETS[name]
    assert config.rows == rows
    assert config.sizes["K"] == 512
    assert ModelConfig.from_dict(config.as_dict()) == config


def test_visible_rows() -> None:
    assert FACES.visible_rows == (0, 1024)
    assert CARS.visible_rows == (64, 448)
    assert DEMO.visible_rows == (0, DEMO.resolution)


def test_bad_sizes_are_refused_with_the_value() -> None:
    with pytest.raises(SdicError, match="the resolution size is 100; use a power of two of at least 64"):
        replace(TINY, resolution=100)
    with pytest.raises(SdicError, match="the working size 256 is larger than the generator's 128"):
        replace(TINY, working=256)
    with pytest.raises(SdicError, match="^the model configuration has no channels at 256; change that, or save the checkpoint again"):
        ModelConfig.from_dict({**TINY.as_dict(), "resolution": 256})
    with pytest.raises(SdicError, match="has no channels at 256 and an encoder of 3 widths and 4 units in place of 4; change that"):
        ModelConfig.from_dict({**replace(TINY, encoder=replace(TINY.encoder, widths=(1, 2, 3))).as_dict(), "resolution": 256})
    with pytest.raises(SdicError, match="does not fit this version"):
        ModelConfig.from_dict({"resolution": 128})


def test_parameter_counts_of_the_released_model() -> None:
    with torch.device("meta"):
        model = SDIC(FACES)
    counts = {part: round(sum(p.numel() for p in getattr(model, part).parameters()) / 1e6, 1) for part in ("encoder", "generator")}
    assert counts == {"encoder": 267.1, "generator": 30.4}


def test_affine_fusion_scales_and_shifts_the_feature_with_as_many_weights() -> None:
    dicn, other = model_of(AFFINE).dicn, model_of(TINY).dicn
    assert sum(weight.numel() for weight in dicn.parameters()) == sum(weight.numel() for weight in other.parameters())
    discrepancy, latent = torch.randn(2, 3, TINY.working, TINY.working), torch.randn(2, TINY.rows, TINY.style_width)
    feature, another = torch.randn(2, 2, TINY.sizes["K"], 64, 64).unbind(0)
    with torch.no_grad():
        residual = {
            name: dicn(discrepancy, value, latent)[1]
            for name, value in (("none", torch.zeros_like(feature)), ("one", feature), ("other", another), ("sum", feature + another))
        }
        details = dicn.semantic(dicn.conv_layer1(discrepancy))
        enhanced = (1 + dicn.scale(details)) * feature + dicn.shift(details)
    assert ratio(feature + residual["one"], enhanced) < 1e-5
    assert ratio(residual["one"] + residual["other"] - residual["none"], residual["sum"]) < 1e-5
    assert not torch.allclose(residual["none"], residual["one"], atol=1e-2)
