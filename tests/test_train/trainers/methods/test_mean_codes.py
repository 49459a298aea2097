"""The mean code goes with the encoder that was trained with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdic_runtime.errors import SdicError
from sdic_train.checkpoints.files import read_safetensors, write_safetensors
from sdic_train.checkpoints.load import load_encoder, load_generator, mean_rows, save_checkpoint
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.encoder import EncoderTrainer
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import ENCODER, METHOD


def moved(path: Path, out: Path, by: float) -> Path:
    """A checkpoint with another mean code."""
    tensors, metadata = read_safetensors(path)
    write_safetensors(out, {**tensors, "latent_avg": tensors["latent_avg"] + by}, metadata)
    return out


@pytest.fixture
def other_file(encoder_file: Path, tmp_path: Path) -> Path:
    return moved(encoder_file, tmp_path / "other.safetensors", 5.0)


@pytest.mark.parametrize(
    ("method", "recipe", "by"), [("hfgi", "paper", 5), ("restyle-e4e", "demo", 5), ("fs", "demo", 0), ("sfe-inverter", "demo", 0)]
)
def test_a_model_has_the_mean_code_of_its_encoder(method: str, recipe: str, by: float, encoder_file: Path, other_file: Path) -> None:
    model = new_model(method, Sources(encoder_file, other_file), METHOD[method][recipe])
    assert torch.allclose(model.latent_avg, load_encoder(encoder_file)[1] + by)


def test_a_run_that_goes_on_keeps_its_mean_code(encoder_file: Path, other_file: Path, tmp_path: Path) -> None:
    recipe = METHOD["sfe-inverter"]["demo"]
    model = new_model("sfe-inverter", Sources(other_file), recipe)
    save_checkpoint(tmp_path / "first.safetensors", model.config, model.latent_avg, inverter=model.inverter, generator=model.generator)
    again = new_model("sfe-inverter", Sources(encoder_file, earlier=tmp_path / "first.safetensors"), recipe)
    assert torch.equal(again.latent_avg, model.latent_avg)
    with pytest.raises(
        SdicError, match=r"were trained with different mean codes; give the generator and the encoder that the earlier run had$"
    ):
        new_model("sfe", Sources(encoder_file, earlier=tmp_path / "first.safetensors"), METHOD["sfe"]["demo"])


@pytest.mark.parametrize(("form", "by"), [("e4e", 5.0), ("psp", 0.0)])
def test_an_encoder_goes_on_with_its_mean_code(
    form: str, by: float, encoder_file: Path, other_file: Path, portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    def trainer() -> EncoderTrainer:
        recipe = replace(ENCODER["code"], form=form)
        return EncoderTrainer(load_generator(encoder_file), recipe, portraits, make_compute(2), 9, None, None)

    own, first = mean_rows(load_generator(encoder_file)), trainer()
    first.start_from(other_file)
    assert torch.allclose(first.latent_avg, own + by)
    again = trainer()
    again.load_state(first.state())
    assert torch.equal(again.latent_avg, first.latent_avg)
    old = {name: value for name, value in first.state().items() if name != "latent_avg"}
    again.load_state(old)
    assert torch.equal(again.latent_avg, own), "of a run that was begun before its state had a mean code"
    first.save(tmp_path / "model.safetensors")
    assert torch.equal(read_safetensors(tmp_path / "model.safetensors")[0]["latent_avg"], first.latent_avg)


def test_a_generators_file_may_carry_the_mean_code(
    encoder_file: Path, other_file: Path, portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = EncoderTrainer(load_generator(encoder_file), ENCODER["code"], portraits, make_compute(2), 9, None, None)
    own = trainer.latent_avg.clone()
    trainer.mean_of(moved(encoder_file, tmp_path / "rounded.safetensors", 0.0005))
    assert torch.equal(trainer.latent_avg, own)
    trainer.mean_of(other_file)
    assert torch.allclose(trainer.latent_avg, own + 5)
