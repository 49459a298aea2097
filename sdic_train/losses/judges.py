"""The networks of losses as judges of `sdic-run compare`: the entry points `sdic.judges`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sdic_train.losses.networks import identity_network, perceptual_network


def identity(weights: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The cosine similarity of what a recognition network sees: IR-SE-50, IR-101, MoCo-v2 ResNet-50 or a portrait reader. Raises
    CheckpointError."""
    distance = _judge(identity_network(weights))
    return lambda picture, target: 1 - distance(picture, target)


def perceptual(weights: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS from "alexnet.pth,alex.pth", or the portraits' own distance from a portrait reader. Raises CheckpointError."""
    return _judge(perceptual_network(weights))


def _judge(network: nn.Module | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The distances of a network, on arrays."""
    assert network is not None

    def distance(picture: np.ndarray, target: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(
                torch.from_numpy(np.ascontiguousarray(picture)), torch.from_numpy(np.ascontiguousarray(target))
            ).numpy()
        return found

    return distance
