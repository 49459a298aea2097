"""A tiny model with random weights, its checkpoint, and the bundle that `sdic-export build` makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from sdic_export.build import BuildOptions, BuildReport, build
from sdic_train.checkpoints import save_checkpoint
from sdic_train.config import TINY
from sdic_train.networks.sdic import SDIC


@dataclass(frozen=True)
class Built:
    """One build that several test files look at; none of them may change it."""

    folder: Path
    report: BuildReport


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model() -> SDIC:
    """Random weights, with batch norms that change something."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    model = SDIC(TINY).eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.7, 1.3, generator=generator)
            part.weight.data.uniform_(0.8, 1.2, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    model.latent_avg.normal_(0, 0.5, generator=generator)
    return model


@pytest.fixture(scope="session")
def save_model() -> Callable[[Path, SDIC], Path]:
    """Writes the checkpoint of a model."""
    def save(path: Path, model: SDIC) -> Path:
        parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
        save_checkpoint(path, model.config, model.latent_avg, **parts)
        return path

    return save


@pytest.fixture(scope="session")
def checkpoint(model: SDIC, save_model: Callable[[Path, SDIC], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", model)


@pytest.fixture(scope="session")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return Built(folder, build(BuildOptions(checkpoint, folder)))
