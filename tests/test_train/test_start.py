"""What a training of SDIC starts from."""

from __future__ import annotations

from pathlib import Path

import torch

from sdic_train.checkpoints import load_encoder, load_generator
from sdic_train.config import TINY
from sdic_train.training.start import with_new_compensation


def test_generator_and_encoder_are_the_files_and_the_rest_follows_from_the_seed(encoder_file: Path) -> None:
    model, again, other = (with_new_compensation(encoder_file, seed) for seed in (1, 1, 2))
    encoder, average = load_encoder(encoder_file)
    assert torch.equal(model.latent_avg, average)
    for part, wanted in (("encoder", encoder), ("generator", load_generator(encoder_file))):
        state = getattr(model, part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in wanted.state_dict().items())
    weight = "semantic.1.weight"
    assert torch.equal(model.dicn.state_dict()[weight], again.dicn.state_dict()[weight])
    assert not torch.equal(model.dicn.state_dict()[weight], other.dicn.state_dict()[weight])


def test_a_silent_start_inverts_like_the_encoder_alone(encoder_file: Path) -> None:
    model = with_new_compensation(encoder_file, 0, silent=True).eval()
    image = torch.rand(1, 3, TINY.working, TINY.working) * 2 - 1
    with torch.no_grad():
        found = model.invert(image)
        assert torch.equal(found.latent_enhanced, found.latent)
        assert found.residual.abs().max() == 0
        assert torch.allclose(found.picture, model.generator(found.latent), atol=1e-5)
