"""A step of a training on a device that is not the CPU and holds no values: PyTorch's meta device.

What a step makes on the CPU and does not bring to the device fails when it meets what lies there, and so does reading a value, for which
a GPU would have to finish first.
"""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from sdic_train.trainers.compute import Losses

OTHER = torch.device("meta")


def steps(trainer: Any, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> set[torch.device]:
    """Move `trainer` to the other device, compute `count` steps there, and give the devices of their losses."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the device
    trainer.distances = deepcopy(getattr(trainer, "distances", {}))  # others use the same networks
    for name, value in list(vars(trainer).items()):
        for each in value.values() if isinstance(value, dict) else [value]:
            network = getattr(each, "network", None) or each  # of an adversary
            if isinstance(network, nn.Module):
                network.to(OTHER)
        if name in ("average", "latent_avg") and value is not None:
            setattr(trainer, name, value.to(OTHER))
    trainer.compute.device = OTHER
    found = set()
    for _ in range(count):
        losses = Losses(trainer.compute)
        trainer.train_step(losses)
        trainer.step += 1
        found |= {value.device for values in losses.values.values() for value in values}
    return found
