"""What a training of SDIC starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdic_runtime.errors import SdicError
from sdic_train.checkpoints.load import load_encoder, load_generator, load_sdic, save_checkpoint
from sdic_train.config import FUSIONS, TINY
from sdic_train.networks.sdic.model import SDIC
from sdic_train.trainers.start import with_kept_compensation, with_new_compensation


def saved(model: SDIC, path: Path) -> Path:
    parts = {"encoder": model.encoder, "generator": model.generator, "dipn": model.dipn, "dicn": model.dicn}
    save_checkpoint(path, model.config, model.latent_avg, **parts)
    return path


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


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_silent_start_inverts_like_the_encoder_alone(fusion: str, encoder_file: Path) -> None:
    model = with_new_compensation(encoder_file, 0, True, fusion).eval()
    image = torch.rand(1, 3, TINY.working, TINY.working) * 2 - 1
    with torch.no_grad():
        found = model.invert(image)
        assert torch.equal(found.latent_enhanced, found.latent)
        assert found.residual.abs().max() == 0
        assert torch.allclose(found.picture, model.generator(found.latent), atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_kept_compensation_is_the_files_and_training_leaves_the_file_alone(fusion: str, encoder_file: Path, tmp_path: Path) -> None:
    first = with_new_compensation(encoder_file, 3, fusion=fusion)
    first.dipn.corr_stem.bn.running_mean += 1
    path = saved(first, tmp_path / "sdic.safetensors")
    before = path.read_bytes()
    kept = with_kept_compensation(path, fusion)
    assert kept.config.discrepancy.fusion == load_sdic(path).config.discrepancy.fusion == fusion
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in kept.state_dict().items())
    for weight in kept.parameters():
        weight.data.add_(1)
    assert path.read_bytes() == before


def test_another_fusion_or_a_file_without_compensation_is_not_gone_on_from(encoder_file: Path, tmp_path: Path) -> None:
    path = saved(with_new_compensation(encoder_file, 3, fusion="affine"), tmp_path / "sdic.safetensors")
    with pytest.raises(SdicError) as caught:
        with_kept_compensation(path)
    assert str(caught.value) == f'"{path}" was trained with --set fusion=affine; give the same option'
    with pytest.raises(SdicError) as caught:
        with_kept_compensation(encoder_file)
    assert str(caught.value) == f'"{encoder_file}" is an e4e checkpoint without DIPN and DICN; give an SDIC checkpoint'
    with pytest.raises(SdicError) as caught:
        with_new_compensation(encoder_file, 0, fusion="sum")
    assert str(caught.value) == 'the fusion "sum" is unknown; use attention or affine'
