"""What a training of SDIC starts from: somebody's generator and encoder, and DIPN and DICN, fresh or somebody's too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sdic_runtime.errors import CheckpointError
from sdic_train.checkpoints.load import load_encoder, load_generator, load_sdic
from sdic_train.networks.sdic.model import SDIC


def with_new_compensation(path: Path, seed: int, silent: bool = False, fusion: str = "attention") -> SDIC:
    """The generator and encoder of an e4e or SDIC checkpoint, and DIPN and DICN with new random weights, which follow from `seed`.

    `silent` sets DICN's last layers to zero: the first inversions are then the encoder's, and training only improves on them.
    `fusion` is one of `config.FUSIONS`. Raises CheckpointError for a checkpoint without an encoder.
    """
    encoder, latent_avg = load_encoder(path)
    torch.manual_seed(seed)
    model = SDIC(replace(encoder.config, discrepancy=replace(encoder.config.discrepancy, fusion=fusion)))
    model.encoder.load_state_dict(encoder.state_dict())
    model.generator.load_state_dict(load_generator(path).state_dict())
    model.latent_avg.copy_(latent_avg)
    if silent:
        model.dicn.silence()
    return model


def with_kept_compensation(path: Path, fusion: str = "attention") -> SDIC:
    """The whole model of an SDIC checkpoint, to be trained on. Raises CheckpointError for any other, or another fusion."""
    kept = load_sdic(path)
    if kept.config.discrepancy.fusion != fusion:
        raise CheckpointError(f'"{path}" was trained with --set fusion={kept.config.discrepancy.fusion}; give the same option')
    model = SDIC(kept.config)
    model.load_state_dict(kept.state_dict())  # a copy: the loaded weights are those in the file
    return model
