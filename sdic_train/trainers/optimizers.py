"""The optimizers that recipes name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sdic_runtime.errors import ArgumentError, MissingExtraError

OPTIMIZERS = ("ranger", "adam")


def check_optimizer(recipe: Any) -> None:
    """Raises ArgumentError for an optimizer that is not known."""
    if recipe.optimizer not in OPTIMIZERS:
        raise ArgumentError(f'the optimizer "{recipe.optimizer}" is unknown; use {" or ".join(OPTIMIZERS)}')


def optimizer_of(recipe: Any, module: nn.Module) -> torch.optim.Optimizer:
    """Ranger or Adam for what trains in `module`. Raises ArgumentError, MissingExtraError."""
    check_optimizer(recipe)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, lr=recipe.rate, fused=weights[0].is_cuda or None)
    try:
        from pytorch_optimizer import Ranger
    except ImportError as error:
        raise MissingExtraError("pytorch-optimizer", "train", "the optimizer Ranger") from error
    return Ranger(weights, lr=recipe.rate)
