"""Encoders whose rows come in one by one: what is saved and shown is what trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdic_runtime.errors import ArgumentError
from sdic_train.checkpoints.load import load_encoder, load_generator
from sdic_train.cli.app import main
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.methods import method_of_file
from sdic_train.trainers.encoder import EncoderRecipe, EncoderTrainer
from sdic_train.trainers.methods.restyle import ReStyleTrainer
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import METHOD

L2 = {"perceptual": 0.0, "identity": 0.0, "latent_adversarial": 0.0, "delta_every": 1, "optimizer": "adam"}


@pytest.mark.parametrize(("first", "open_rows"), [(9, 0), (1, 1), (0, 2), (-1, None)])
def test_a_saved_encoder_is_the_one_that_trained(
    first: int, open_rows: int | None, encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = EncoderRecipe(**L2, first_delta=first)  # type: ignore[arg-type]
    trainer = EncoderTrainer(load_generator(encoder_file), recipe, portraits, make_compute(2), 9, None, None)
    for _ in range(2):
        trainer.advance()
    before = {name: value.clone() for name, value in trainer.encoder.state_dict().items()}
    trainer.save(tmp_path / "model.safetensors")
    assert trainer.sheet() is not None
    assert all(torch.equal(value, before[name]) for name, value in trainer.encoder.state_dict().items()), "training goes on with its own"
    image = trainer.shown(TINY.working)
    with torch.no_grad():
        found, wanted = load_encoder(tmp_path / "model.safetensors")[0](image), trainer.encoder.eval()(image, open_rows)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert trainer.remark().startswith("" if open_rows is None else f"rows {open_rows + 1} to 11 of the code are still row 0:")
    assert bool(trainer.remark()) is (open_rows is not None)


def test_a_saved_restyle_is_the_one_that_trained(
    encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = replace(METHOD["restyle-e4e"]["paper"], **L2, first_delta=0, iterations=2)  # type: ignore[arg-type]
    model = new_model("restyle-e4e", Sources(encoder_file), recipe)
    trainer = ReStyleTrainer(model, recipe, portraits, make_compute(2), 9, None, None)
    trainer.advance()
    trainer.save(tmp_path / "model.safetensors")
    saved = method_of_file(tmp_path / "model.safetensors").read(tmp_path / "model.safetensors", None)
    image = torch.cat((trainer.shown(TINY.working), trainer.shown(TINY.working)), 1)
    with torch.no_grad():
        assert torch.allclose(saved.encoder(image), trainer.model.encoder.eval()(image, 1), atol=1e-6)


@pytest.mark.parametrize("form", ["psp", "w", "restyle-psp"])
def test_other_forms_have_no_rows_that_come_in(
    form: str, encoder_file: Path, portraits: PictureSet, make_compute: Callable[..., Any]
) -> None:
    with pytest.raises(ArgumentError, match=r'^first_delta=3 lets rows leave row 0 one by one, and .* of the form "(psp|w)" has none that'):
        if form == "restyle-psp":
            recipe = replace(METHOD[form]["paper"], **L2, first_delta=3)  # type: ignore[arg-type]
            model = new_model(form, Sources(encoder_file), recipe)
            ReStyleTrainer(model, recipe, portraits, make_compute(2), 9, None, None)
        else:
            plain = EncoderRecipe(**L2, form=form, first_delta=3)  # type: ignore[arg-type]
            EncoderTrainer(load_generator(encoder_file), plain, portraits, make_compute(2), 9, None, None)


def test_rows_that_are_still_closed_are_told(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["dataset", "--out", data, "--size", "32", "--count", "4", "--processes", "1"]) == 0
    words = ["encoder", "--generator", str(encoder_file), "--data", data, "--data-size", "32", "--photos", "plain", "--batch", "2"]
    changes = [word for name, value in L2.items() for word in ("--set", f"{name}={value}")]
    assert main([*words, *changes, "--steps", "1", "--threads", "1", "--out", run]) == 0
    assert "rows 1 to 11 of the code are still row 0: they come in one by one behind these steps; give more" in capsys.readouterr().err
