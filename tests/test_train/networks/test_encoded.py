"""e4e, pSp and ReStyle: the forms of the encoder against a plain second writing, and the iterations one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_methods as small
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError
from sdic_train.config import EncoderConfig
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.restyle import ReStyle


def ratio(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.std()).item()


def body(encoder: Encoder, image: Tensor) -> list[Tensor]:
    """What every unit of the body gives, written from the parameters alone."""
    state = dict(encoder.named_parameters()) | dict(encoder.named_buffers())

    def norm(x: Tensor, name: str) -> Tensor:
        values = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values)

    x = F.conv2d(image, state["input_layer.0.weight"], padding=1)
    x = F.prelu(norm(x, "input_layer.1"), state["input_layer.2.weight"])
    made = []
    for index, unit in enumerate(encoder.body):
        name, stride = f"body.{index}", unit.stride
        if f"{name}.shortcut_layer.0.weight" in state:
            skip = norm(F.conv2d(x, state[f"{name}.shortcut_layer.0.weight"], stride=stride), f"{name}.shortcut_layer.1")
        else:
            skip = F.max_pool2d(x, 1, stride)
        y = F.conv2d(norm(x, f"{name}.res_layer.0"), state[f"{name}.res_layer.1.weight"], padding=1)
        y = F.prelu(y, state[f"{name}.res_layer.2.weight"])
        y = norm(F.conv2d(y, state[f"{name}.res_layer.3.weight"], stride=stride, padding=1), f"{name}.res_layer.4")
        gate = F.adaptive_avg_pool2d(y, 1)
        gate = F.conv2d(F.relu(F.conv2d(gate, state[f"{name}.res_layer.5.fc1.weight"])), state[f"{name}.res_layer.5.fc2.weight"])
        x = y * torch.sigmoid(gate) + skip
        made.append(x)
    return made


def style(encoder: Encoder, row: int, x: Tensor) -> Tensor:
    block = encoder.styles[row]
    for layer in block.convs:
        if isinstance(layer, nn.Conv2d):
            x = F.leaky_relu(F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1), 0.01)
    assert x.shape[2:] == (1, 1)
    return x.flatten(1) @ block.linear.weight.T / block.linear.weight.shape[1] ** 0.5 + block.linear.bias


@pytest.mark.parametrize("method", ["e4e", "psp", "restyle-e4e", "restyle-psp"])
def test_the_encoder_against_a_second_writing(method: str) -> None:
    model = small.small_model(method)
    encoder, image = model.encoder, small.small_images(model.config)
    if method.startswith("restyle"):
        image = torch.cat((image, image.flip(0) * 0.5), 1)
    with torch.no_grad():
        fine, middle, coarse = (body(encoder, image)[tap] for tap in encoder.taps[1:])
        levels = [coarse] * encoder.config.rows
        if not method.startswith("restyle"):
            up = {"mode": "bilinear", "align_corners": True}
            middle = F.interpolate(coarse, middle.shape[2:], **up) + encoder.latlayer1(middle)
            fine = F.interpolate(middle, fine.shape[2:], **up) + encoder.latlayer2(fine)
            levels = [coarse] * 3 + [middle] * 4 + [fine] * (encoder.config.rows - 7)
        rows = [style(encoder, row, level) for row, level in enumerate(levels)]
        if method.endswith("e4e"):
            rows = [rows[0], *(rows[0] + row for row in rows[1:])]
        assert ratio(encoder(image), torch.stack(rows, 1)) < 1e-5


def test_the_resnet_body_against_a_second_writing() -> None:
    units = (2, 1, 1, 1)
    encoder = Encoder(replace(small.RESTYLE["psp"], encoder=replace(small.RESTYLE["psp"].encoder, body="resnet", units=units))).eval()
    state = small.randomized(encoder).state_dict()
    image = torch.randn(2, 6, 128, 128)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    with torch.no_grad():
        x = F.prelu(norm(F.conv2d(image, state["conv1.weight"], stride=2, padding=3), "bn1"), state["relu.weight"])
        for index, stride in enumerate((1, 1, 2, 2, 2)):
            name = f"body.{index}"
            y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(y + x)
        assert x.shape[2:] == (8, 8)
        assert ratio(encoder.pyramid(image)[0], x) < 1e-5
        assert ratio(encoder(image)[:, 5], style(encoder, 5, x)) < 1e-5


def test_the_form_is_the_whole_difference_between_e4e_and_psp() -> None:
    e4e, psp = Encoder(small.SMALL).eval(), Encoder(small.PSP).eval()
    assert e4e.state_dict().keys() == psp.state_dict().keys()
    psp.load_state_dict(e4e.state_dict())
    image = small.small_images(small.SMALL)
    with torch.no_grad():
        first, alone = e4e(image), psp(image)
    assert torch.equal(first[:, 0], alone[:, 0])
    torch.testing.assert_close(first[:, 1:], first[:, :1] + alone[:, 1:])


def test_an_unknown_form_or_body_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r'^the encoder\'s body "magic" is unknown; use ir_se or resnet$'):
        EncoderConfig(body="magic")
    with pytest.raises(ArgumentError, match=r'^the encoder\'s form "magic" is unknown; use e4e or psp$'):
        EncoderConfig(form="magic")


def test_the_iterations_of_restyle_one_by_one() -> None:
    config = replace(small.RESTYLE["psp"], resolution=256, working=64, channels={**small.SMALL.channels, 256: 4})
    torch.manual_seed(0)
    model = ReStyle(config).eval().requires_grad_(False)
    model.latent_avg.normal_()
    model.prepare()
    image, average = small.small_images(config), model.latent_avg
    pool = nn.AdaptiveAvgPool2d(64)
    latent, y = average[None].repeat(2, 1, 1), pool(model.generator(average[None].repeat(2, 1, 1)))
    assert ratio(model.average, y[:1]) < 1e-5
    for _ in range(3):
        latent = latent + model.encoder(torch.cat((image, y), 1))
        picture = model.generator(latent)
        y = pool(picture)
    assert ratio(model(image, iterations=3), picture) < 1e-5
    start, reconstruction = model.start(image)
    assert start.shape == latent.shape and reconstruction.shape == y.shape
