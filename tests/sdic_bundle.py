"""The tiny SDIC with random weights, its checkpoint, and the bundle that `sdic-export build` makes of it, once for all processes of a test
run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from built_once import built_once
from exported_once import quick_exporter
from torch import nn

from sdic_export.build import BuildOptions, BuildReport, build
from sdic_export.graphs import exporter
from sdic_train.checkpoints.load import save_checkpoint
from sdic_train.config import TINY
from sdic_train.networks.sdic.model import SDIC

SMALL_WEIGHT = 1024  # bytes from which the tensors of a tiny model are kept apart, where those of a released one would be


@dataclass(frozen=True)
class Built:
    """One build that several test files look at; none of them may change it."""

    folder: Path
    report: BuildReport


def random_model() -> SDIC:
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


def write_checkpoint(path: Path, model: SDIC) -> Path:
    parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
    save_checkpoint(path, model.config, model.latent_avg, **parts)
    return path


def built_report(factory: pytest.TempPathFactory, options: BuildOptions, *patches: Callable[[pytest.MonkeyPatch], None]) -> Built:
    """What `build` makes, with its report, once for all processes of a test run; while `patches` hold."""
    name = options.out.name

    def fill(folder: Path) -> None:
        with quick_exporter(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "EXTERNAL_TENSOR_FROM", SMALL_WEIGHT)
            for change in patches:
                change(patch)
            report = build(replace(options, out=folder / name))
        (folder / "report.pickle").write_bytes(pickle.dumps(report))

    folder = built_once(factory, f"build-{name}", fill)
    return Built(folder / name, pickle.loads((folder / "report.pickle").read_bytes()))


def sdic_bundle(factory: pytest.TempPathFactory, checkpoint: Path) -> Built:
    """Of the checkpoint of `random_model`."""
    return built_report(factory, BuildOptions(checkpoint, Path("tiny")))
