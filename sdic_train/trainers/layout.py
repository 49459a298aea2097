"""Memory layouts that make convolutions fast."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def widen(model: Model) -> Model:
    """Puts two-dimensional convolutions into the channels-last layout: faster on a CPU, and what tensor cores prefer. Returns the model."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return model
