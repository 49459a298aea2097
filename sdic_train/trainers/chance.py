"""Random numbers of a training: the same for the same seed and step, others for another seed."""

from __future__ import annotations

import torch

APART = 0x9E3779B1  # of two seeds' numbers: odd and large, so that the steps of one never meet those of another in a training
KEPT = (1 << 32) - 1  # PyTorch's generator on a CPU takes the low 32 bits of its seed alone


def random_of(seed: int, number: int) -> torch.Generator:
    """The generator of `seed` for a step, or another number below 2 ** 32."""
    return torch.Generator().manual_seed(seed_of(seed, number))


def seed_of(seed: int, number: int) -> int:
    return (number + seed * APART) & KEPT
