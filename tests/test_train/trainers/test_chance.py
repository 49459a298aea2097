"""Random numbers of trainings."""

from __future__ import annotations

import torch

from sdic_train.trainers.chance import random_of

MARKS = (0, 1, 2, 1000, 1 << 30, 1 << 31, (1 << 31) + 1)


def drawn(seed: int, number: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=random_of(seed, number)).tolist())


def test_every_seed_and_step_has_its_own_numbers_and_always_the_same() -> None:
    found = {(seed, number): drawn(seed, number) for seed in range(6) for number in MARKS}
    assert len(set(found.values())) == len(found)
    assert found[3, 1000] == drawn(3, 1000)


def test_the_first_seeds_numbers_are_those_of_the_step() -> None:
    assert drawn(0, 7) == tuple(torch.rand(4, generator=torch.Generator().manual_seed(7)).tolist())
