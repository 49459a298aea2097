"""Recipes: what released code does is what the recipes of its name say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sdic_train.checkpoints.load import load_generator
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.identity import ObjectIdentity
from sdic_train.trainers.encoder import EncoderTrainer
from sdic_train.trainers.methods.replaced import FSTrainer
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import ENCODER, METHOD

E4E = {  # the defaults of its options, and of its command for faces
    "form": "e4e",
    "rate": 1e-4,
    "optimizer": "ranger",
    "warm_up": 0,
    "decay": 0.0,
    "l2": 1.0,
    "perceptual": 0.8,
    "identity": 0.1,
    "code": 0.0,
    "delta": 2e-4,
    "latent_adversarial": 0.1,
    "latent_rate": 2e-5,
    "latent_r1": 10.0,
    "latent_r1_every": 16,
    "first_delta": 20_000,
    "delta_every": 2_000,
    "mirror": True,
    "random_noise": False,  # a departure, see docs/training.md
    "seed": 0,
}


def test_the_recipe_e4e_is_that_of_its_release() -> None:
    assert asdict(ENCODER["e4e"]) == E4E


def test_the_latent_discriminator_has_adams_defaults(encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any]) -> None:
    trainer = EncoderTrainer(load_generator(encoder_file), ENCODER["code"], portraits, make_compute(2), 9, None, None)
    assert trainer.latent.optimizer.defaults["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("name", ["code", "picture", "psp-demo", "w-demo"])
def test_the_demos_encoders_are_trained_with_adam(name: str) -> None:
    assert ENCODER[name].optimizer == "adam" and not ENCODER[name].latent_adversarial


def test_moco_sees_pictures_as_in_the_released_code() -> None:
    picture = torch.rand(1, 3, 192, 256)
    assert torch.equal(ObjectIdentity(torch.nn.Identity()).vectors(picture), F.interpolate(picture, size=(224, 224)))


def test_the_released_fs_compares_pixels_of_one_picture(
    encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any]
) -> None:
    recipe: Any = replace(METHOD["fs"]["released"], perceptual=0.0, identity=0.0, feature=0.0, l2_real=1.0, blend=0)  # type: ignore[call-arg]
    model = new_model("fs", Sources(encoder_file), recipe)
    trainer = FSTrainer(model, recipe, portraits, make_compute(2), 9, None, None)
    image = trainer.shown(trainer.config.working)[:2]
    with torch.no_grad():
        (z,) = trainer.drawn(torch.Generator().manual_seed(0))
        trainer.model.eval()
        terms = trainer.terms(image, z)
        code = trainer.generator.mapping(z)[:, None].expand(-1, TINY.rows, -1)
        made = trainer.generator(code)
        for name, real in (("l2", made), ("l2_real", image)):
            assert terms[name] == pytest.approx(float((trainer.model(real) - real).square().mean()), rel=1e-4)
