"""Tiny models and picture sets for the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet, draw_portraits, open_portraits
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.trainers.compute import Compute


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    """Twelve photos of 64 pixels with their labels."""
    folder = tmp_path_factory.mktemp("portraits")
    for _ in draw_portraits(folder, 12, 64, photo=True, seed=7, processes=1):
        pass
    return open_portraits(folder, 64, photo=True, seed=7)


@pytest.fixture
def make_compute() -> Callable[..., Compute]:
    """One process on the CPU."""

    def make(batch: int = 4, **options: Any) -> Compute:
        return Compute(batch, "cpu", **options)

    return make


@pytest.fixture(scope="session")
def reader() -> PortraitReader:
    """A reader with random weights: enough where only the arithmetic counts."""
    torch.manual_seed(3)
    return PortraitReader(widths=(4, 4, 8, 8, 8)).eval()


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tiny generator and encoder."""
    from sdic_train.checkpoints.load import mean_rows, save_checkpoint
    from sdic_train.networks.e4e import Encoder
    from sdic_train.networks.stylegan2 import Generator

    torch.manual_seed(0)
    generator, encoder = Generator(TINY), Encoder(TINY)
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    save_checkpoint(path, TINY, mean_rows(generator), generator=generator, encoder=encoder)
    return path
