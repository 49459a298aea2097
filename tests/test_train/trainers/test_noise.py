"""Random noise: every picture of a batch has maps of its own, in any number of parts, and afterwards the generator its own again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdic_train.checkpoints.load import load_generator
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.networks.hyperstyle.config import styled_layer
from sdic_train.networks.stylegan2 import Generator, StyledConv
from sdic_train.trainers.encoder import EncoderTrainer
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.methods.hyperstyle import HyperStyleTrainer
from sdic_train.trainers.methods.replaced import FSTrainer
from sdic_train.trainers.methods.sdic import SdicTrainer
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import ENCODER, METHOD, SDIC
from sdic_train.trainers.start import with_new_compensation

WIDTHS = {4: 8, 8: 8, 16: 4}
ALONE: dict[str, Any] = {"perceptual": 0.0, "identity": 0.0, "optimizer": "adam"}


def generator_of(trainer: Any) -> Generator:
    found: Generator = trainer.model.generator if hasattr(trainer, "model") else trainer.generator
    return found


def seen(trainer: Any, layer: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The noise maps that a layer took in one step, call by call."""
    watched, found, forward = generator_of(trainer).styled(layer), list[Tensor](), StyledConv.forward

    def call(self: StyledConv, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        if self is watched:
            found.append(noise.expand(len(x), *noise.shape[1:]).clone())
        return forward(self, x, style, noise)

    monkeypatch.setattr(StyledConv, "forward", call)
    trainer.advance()
    return found


def different(maps: Tensor) -> bool:
    return len({tuple(each.flatten().tolist()) for each in maps}) == len(maps)


@pytest.fixture
def makers(encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any]) -> dict[str, Callable[[int], Any]]:
    def fs(parts: int) -> FSTrainer:
        recipe: Any = replace(METHOD["fs"]["released"], **ALONE)
        return FSTrainer(
            new_model("fs", Sources(encoder_file), recipe), recipe, portraits, make_compute(4, accumulate=parts), 9, None, None
        )

    def sdic(parts: int) -> SdicTrainer:
        recipe = replace(SDIC["released"], **ALONE)
        return SdicTrainer(with_new_compensation(encoder_file, 0), recipe, portraits, make_compute(4, accumulate=parts), 9, None, None)

    def psp(parts: int) -> EncoderTrainer:
        recipe = replace(ENCODER["psp-released"], **ALONE)
        return EncoderTrainer(load_generator(encoder_file), recipe, portraits, make_compute(4, accumulate=parts), 9, None, None)

    def stylegan2(parts: int) -> GeneratorTrainer:
        recipe = GeneratorRecipe(size=16, path_every=1)
        return GeneratorTrainer(TINY, recipe, portraits, make_compute(4, accumulate=parts), 9, WIDTHS)

    return {"fs": fs, "sdic": sdic, "psp": psp, "stylegan2": stylegan2}


@pytest.mark.parametrize("kind", ["fs", "sdic", "psp", "stylegan2"])
def test_every_picture_has_noise_of_its_own(kind: str, makers: dict[str, Callable[[int], Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = makers[kind](1)
    calls = seen(trainer, 2, monkeypatch)
    assert different(calls[0]) and len(calls[0]) == 4
    for call in calls:  # a picture keeps its noise within the step, also where more are made of it
        assert all(torch.equal(own, calls[0][row % 4]) for row, own in enumerate(call))
    parts = seen(makers[kind](2), 2, monkeypatch)
    first = [call for call in parts if torch.equal(call[0], calls[0][0])]
    assert first and any(torch.equal(call[0], calls[0][2]) for call in parts), "the second part has the noise of its pictures"
    after = generator_of(trainer)
    assert not any(layer._forward_pre_hooks for layer in after.modules()) and len(after.noises.maps()[2]) == 1


def test_layers_with_weights_of_their_own_take_the_noise_too(
    encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    w = EncoderTrainer(load_generator(encoder_file), replace(ENCODER["w-demo"], **ALONE), portraits, make_compute(4), 9, None, None)
    w.save(tmp_path / "w.safetensors")
    losses = []
    for random in (False, True):
        recipe: Any = replace(METHOD["hyperstyle"]["demo"], **ALONE, random_noise=random, mirror=False)
        model = new_model("hyperstyle", Sources(encoder_file, tmp_path / "w.safetensors"), recipe)
        with torch.no_grad():
            for layer in map(styled_layer, model.config.tuned):
                model.generator.styled(layer).noise.weight.fill_(1.0)
        losses.append(HyperStyleTrainer(model, recipe, portraits, make_compute(4), 9, None, None).advance()["l2"])
    assert abs(losses[0] - losses[1]) > 1e-4
