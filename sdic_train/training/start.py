"""What a training of SDIC starts from: somebody's generator and encoder, and fresh DIPN and DICN."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sdic_train.checkpoints import load_encoder, load_generator
from sdic_train.networks.sdic import SDIC


def with_new_compensation(path: Path, seed: int, silent: bool = False) -> SDIC:
    """The generator and encoder of an e4e or SDIC checkpoint, and DIPN and DICN with new weights drawn from `seed`.

    `silent` sets DICN's last layers to zero: the first inversions are then the encoder's, and training only improves on them.
    Raises SdicError for a checkpoint without an encoder.
    """
    encoder, latent_avg = load_encoder(path)
    torch.manual_seed(seed)
    model = SDIC(encoder.config)
    model.encoder.load_state_dict(encoder.state_dict())
    model.generator.load_state_dict(load_generator(path).state_dict())
    model.latent_avg.copy_(latent_avg)
    if silent:
        for layers in (model.dicn.semantic, model.dicn.aff1d.att, model.dicn.aff1d.att2):
            for weight in layers[-1].parameters():
                nn.init.zeros_(weight)
    return model
