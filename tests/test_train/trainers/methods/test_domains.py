"""The domain of a model is that of its generator, of the encoder where the generator does not say, or what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import load_generator
from sdic_train.cli.options import Domain, domain_of
from sdic_train.config import TINY
from sdic_train.methods import method_of_file
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import METHOD

CAR = replace(
    TINY,
    resolution=512,
    working=256,
    channels={**TINY.channels, 256: 4, 512: 4},
    encoder=replace(TINY.encoder, widths=(4, 6, 8, 16), crop=(32, 224)),
    domain="cars",
)


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, Path]:
    """A generator alone, and e4e of cars."""
    generator, encoder = Generator(CAR), Encoder(CAR)
    parts = {"encoder.": encoder.state_dict(), "decoder.": generator.state_dict()}
    state = {part + name: value for part, values in parts.items() for name, value in values.items()}
    options = {"dataset_type": "cars_encode", "encoder_type": "Encoder4Editing"}
    torch.save({"g_ema": parts["decoder."]}, tmp_path / "generator.pt")
    torch.save({"state_dict": state, "latent_avg": torch.zeros(CAR.rows, CAR.style_width), "opts": options}, tmp_path / "e4e.pt")
    return tmp_path / "generator.pt", tmp_path / "e4e.pt"


@pytest.mark.parametrize(("asked", "domain", "crop"), [(None, "cars", (32, 224)), ("cars", "cars", (32, 224)), ("faces", "faces", None)])
def test_a_model_has_one_domain(
    asked: str | None, domain: str, crop: tuple[int, int] | None, released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    generator, encoder = released
    given = domain_of(generator, None if asked is None else Domain(asked), encoder)
    model = new_model("hfgi", Sources(generator, encoder, domain=given), METHOD["hfgi"]["demo"])
    assert model.config.domain == domain and model.config.encoder.crop == crop and not capsys.readouterr().err


def test_a_file_of_ours_has_its_own_domain(encoder_file: Path, released: tuple[Path, Path]) -> None:
    sentence = f'^"{encoder_file}" says that it was trained for the domain "portraits" and not for "cars"; omit --domain$'
    with pytest.raises(CheckpointError, match=sentence):
        domain_of(encoder_file, Domain.cars)
    with pytest.raises(CheckpointError, match=sentence):
        method_of_file(encoder_file).read(encoder_file, "cars")
    with pytest.raises(CheckpointError, match=sentence):
        new_model("hfgi", Sources(released[0], encoder_file, domain="cars"), METHOD["hfgi"]["demo"])
    assert method_of_file(encoder_file).read(encoder_file, "portraits") and load_generator(encoder_file).config.domain == "portraits"
