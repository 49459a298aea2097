"""Letterboxed domains: trainers see pictures between black bars, as the runtime prepares them, and no loss looks at the bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdic_runtime.errors import ArgumentError
from sdic_runtime.pictures import prepare
from sdic_train.checkpoints.load import load_generator, mean_rows, save_checkpoint
from sdic_train.config import TINY, ModelConfig
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers import encoder, generator
from sdic_train.trainers.base import Trainer
from sdic_train.trainers.encoder import EncoderRecipe, EncoderTrainer
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.methods import method
from sdic_train.trainers.methods.replaced import FSTrainer
from sdic_train.trainers.methods.sdic import SdicRecipe, SdicTrainer
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.pictures import batch_pictures
from sdic_train.trainers.recipes import METHOD
from sdic_train.trainers.start import with_new_compensation

WIDTHS = {4: 8, 8: 8, 16: 4, 32: 4, 64: 4, 128: 4}
CROPPED = replace(TINY, encoder=replace(TINY.encoder, crop=(8, 56)))
Make = Callable[[PictureSet], Trainer]


@pytest.fixture
def cropped_file(tmp_path: Path) -> Path:
    """A checkpoint with a tiny generator and encoder of a letterboxed domain."""
    torch.manual_seed(0)
    made, path = Generator(CROPPED), tmp_path / "cropped.safetensors"
    save_checkpoint(path, CROPPED, mean_rows(made), generator=made, encoder=Encoder(CROPPED))
    return path


@pytest.fixture
def makers(cropped_file: Path, reader: PortraitReader, make_compute: Callable[..., Any]) -> dict[str, Make]:
    """Trainers of a letterboxed domain without losses beside `l2`, made of a picture set."""
    l2 = {"perceptual": 0.0, "identity": 0.0, "mirror": False}
    code = EncoderRecipe(l2=1.0, delta=0.0, latent_adversarial=0.0, first_delta=-1, **l2)
    fs = replace(METHOD["fs"]["demo"], **l2, l2=1.0, l2_real=1.0, feature=0.0)

    def of_method(pictures: PictureSet) -> Trainer:
        return FSTrainer(new_model("fs", Sources(cropped_file), fs), fs, pictures, make_compute(2), 9, None, None)

    return {
        "encoder": lambda pictures: EncoderTrainer(load_generator(cropped_file), code, pictures, make_compute(2), 9, None, None),
        "sdic": lambda pictures: SdicTrainer(
            with_new_compensation(cropped_file, 0), SdicRecipe(edit=0.0, **l2), pictures, make_compute(2), 9, None, None
        ),
        "fs": of_method,
        "generator": lambda pictures: GeneratorTrainer(
            CROPPED,
            GeneratorRecipe(size=CROPPED.resolution, path=0.0),
            pictures,
            make_compute(2),
            9,
            {4: 8, 8: 8, 16: 4, 32: 4, 64: 4, 128: 4},
        ),
    }


def expected(picture: np.ndarray, config: ModelConfig) -> torch.Tensor:
    return torch.from_numpy(prepare(Image.fromarray(picture), config.sizes, config.visible_rows))


@pytest.mark.parametrize("kind", ["encoder", "sdic", "fs", "generator"])
def test_a_batch_is_what_the_runtime_prepares(
    kind: str, makers: dict[str, Make], portraits: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = PictureSet(np.array(portraits.pictures[:1]))
    trainer, seen = makers[kind](one), list[torch.Tensor]()

    def watched(*given: Any, **named: Any) -> Any:
        found = batch_pictures(*given, **named)
        seen.append(found[0])
        return found

    for module in (encoder, generator, method):
        monkeypatch.setattr(module, "batch_pictures", watched)
    trainer.advance()
    working = CROPPED.working if kind in ("encoder", "sdic") else CROPPED.resolution
    crop = working // 8, working * 7 // 8
    wanted = expected(one.pictures[0], replace(CROPPED, working=working, encoder=replace(CROPPED.encoder, crop=crop)))
    for shown in (seen[0], trainer.shown(working)):
        assert (shown - wanted).abs().max() < 2.5 / 127.5  # Pillow rounds twice
        assert (shown[:, :, : crop[0]] == -1).all() and (shown[:, :, crop[1] :] == -1).all()


@pytest.mark.parametrize("kind", ["encoder", "sdic", "fs"])
def test_no_loss_looks_at_the_bars(kind: str, makers: dict[str, Make], portraits: PictureSet) -> None:
    plain, other = makers[kind](portraits), makers[kind](portraits)
    made: Any = other.model.generator if hasattr(other, "model") else other.generator
    inner, size = made.tail, CROPPED.resolution

    def tail(*given: Any, **named: Any) -> torch.Tensor:
        return noisy(inner(*given, **named))

    def noisy(picture: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(size, 1)
        mask[: size // 8 - 1], mask[size * 7 // 8 + 1 :] = 1, 1
        return picture + 3 * mask

    made.tail = tail
    found, wanted = other.advance(), plain.advance()
    names = [name for name in found if name.startswith("l2")]
    assert names
    if kind == "sdic":  # which reads the reconstruction, bars and all
        assert found["l2"] == pytest.approx(wanted["l2"], rel=0.2)
    else:
        assert [found[name] for name in names] == pytest.approx([wanted[name] for name in names], rel=1e-5)


def test_scales_are_counted_without_the_bars(
    cropped_file: Path, portraits: PictureSet, reader: PortraitReader, make_compute: Callable[..., Any]
) -> None:
    recipe = replace(METHOD["fs"]["demo"], scales=3, identity=0.0)  # type: ignore[call-arg]
    model = new_model("fs", Sources(cropped_file), recipe)
    with pytest.raises(
        ArgumentError, match=r"^scales=3 compares pictures of 24 pixels, and the perceptual distance needs 32; use a smaller"
    ):
        FSTrainer(model, recipe, portraits, make_compute(2), 9, PortraitPerceptual(reader), None)


def test_the_judges_see_no_bars_either(
    cropped_file: Path, portraits: PictureSet, reader: PortraitReader, make_compute: Callable[..., Any]
) -> None:
    shapes: list[torch.Size] = []

    class Watched(PortraitIdentity):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            shapes.extend((a.shape, b.shape))
            return super().forward(a, b)

    judges = PortraitPerceptual(reader), Watched(reader)
    SdicTrainer(with_new_compensation(cropped_file, 0), SdicRecipe(), portraits, make_compute(2), 9, *judges).advance()
    assert {tuple(shape) for shape in shapes} == {(2, 3, 48, 64)}
