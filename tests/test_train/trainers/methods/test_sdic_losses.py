"""The first step's losses against arithmetic of their own, and the released training's numbers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.reference import PlainGenerator
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.methods.sdic import SdicTrainer, weighted
from sdic_train.trainers.recipes import SDIC
from sdic_train.trainers.start import with_new_compensation

BATCH = 2


@pytest.mark.parametrize(
    ("terms", "total"),
    [
        ({"identity": 0.2791, "l2": 0.0841, "perceptual": 0.2817, "edit": 0.2443}, 0.4595),  # training, step 0
        ({"identity": 0.0671, "l2": 0.01434, "perceptual": 0.0928, "edit": 0.0345}, 0.1125),  # validation, step 20,000
    ],
)
def test_the_released_curve_adds_up(terms: dict[str, float], total: float) -> None:
    # the release logs 0.8 of the feature's and 0.2 of the code's distance as one number
    edit = terms.pop("edit")
    found = weighted(SDIC["released"], {**terms, "edit_feature": edit, "edit_code": edit})
    assert found == pytest.approx(total, abs=6e-5)
    assert weighted(SDIC["paper"], {**terms, "edit_feature": edit, "edit_code": edit}) > total + 0.01


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_first_steps_losses_are_those_of_plain_arithmetic(
    recipe: str, portraits: PictureSet, reader: PortraitReader, encoder_file: Path, make_compute: Callable[..., Any]
) -> None:
    released, reader = recipe == "released", deepcopy(reader)
    torch.nn.init.zeros_(reader.output.bias)  # without it the random readings of two pictures differ enough to be compared
    trainer = SdicTrainer(
        with_new_compensation(encoder_file, 0),
        SDIC[recipe],
        portraits,
        make_compute(BATCH),
        9,
        PortraitPerceptual(reader),
        PortraitIdentity(reader),
    )
    model = deepcopy(trainer.model).eval()
    model.encoder.train(released)
    model.dipn.train()
    model.dicn.train()
    losses = trainer.advance()

    random = torch.Generator().manual_seed(0)  # of (seed 0, step 0): pictures, mirroring, then noise
    index = torch.randint(len(portraits), (BATCH,), generator=random).numpy()
    image = torch.from_numpy(portraits.pictures[index].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    mirrored = torch.rand(BATCH, 1, 1, 1, generator=random) < 0.5
    image = torch.where(mirrored, image.flip(3), image)
    if released:
        for noise in model.generator.noises.maps():
            noise.copy_(torch.randn(noise.shape, generator=random))
    generator = PlainGenerator(model.generator)
    with torch.no_grad():
        latent = model.encoder(image) + model.latent_avg
        feature, rgb = generator.head(latent)
        discrepancy = model.dipn(image, generator.preview(feature, rgb, latent))
        enhanced, residual = model.dicn(discrepancy, feature, latent)
        picture = downsample(generator.tail(feature, generator.head(enhanced)[1], enhanced, residual), TINY.working)
        people = [reader.identity(x).double().numpy() for x in (picture, image)]
        levels = [[level.double().numpy() for level in reader.features(x)] for x in (picture, image)]

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    distances = [((unit(a) - unit(b)) ** 2).sum(1).mean() for a, b in zip(*levels, strict=True)]
    power = 2 if released else 1
    want = {
        "l2": np.mean((picture - image).double().numpy() ** 2),
        "perceptual": np.mean(distances),
        "identity": 1 - (people[0] * people[1]).sum(1).mean(),
        "edit_feature": np.mean(np.abs(residual.double().numpy()) ** power),
        "edit_code": np.mean(np.abs((enhanced - latent).double().numpy()) ** power),
    }
    shares = {
        "l2": 1.0,
        "perceptual": 0.8,
        **(
            {"identity": 0.1, "edit_feature": 0.4, "edit_code": 0.1}
            if released
            else {"identity": 0.2, "edit_feature": 0.5, "edit_code": 0.5}
        ),
    }
    want["total"] = sum(share * want[name] for name, share in shares.items())
    assert set(losses) == set(want) == set(SdicTrainer.losses)
    for name, value in want.items():
        assert losses[name] == pytest.approx(value, rel=1e-3), name
