"""The bundles of the methods' small models, each built once for all processes of a test run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_methods
import small_parts
import torch
from built_once import built_once
from exported_once import exporting_once

from sdic_export.build import BuildOptions, build
from sdic_export.graphs import exporter
from sdic_export.methods import EXPORTS

ITERATIONS = 2
# Their encoder differs from that of e4e or of ReStyle with pSp, whose small bundles have it optimized for CPUs too, in no more than what
# test_encoder.py looks at with PyTorch. The full-size tests optimize all of them.
SAME_ENCODER = ("hfgi", "psp", "restyle-e4e", "sfe")
OPTIONS: dict[str, dict[str, Any]] = {"hyperstyle": {"iterations": ITERATIONS}, "fs": {"research": True}}


def small_bundle(factory: pytest.TempPathFactory, method: str) -> Path:
    """The bundle of a small model; the files that it was built of lie beside it. No test may change it."""
    fill = _fill_parts if method in small_parts.BUILDERS else _fill_encoded

    def filled(folder: Path) -> None:
        with (
            exporting_once(factory),
            pytest.MonkeyPatch.context() as patch,
        ):  # small tensors are kept apart where those of a released model would be
            patch.setattr(exporter, "EXTERNAL_TENSOR_FROM", 1024)
            if method in SAME_ENCODER:
                cpu = {stage: arrange for stage, arrange in EXPORTS[method].cpu.items() if stage != "encoder"}
                patch.setitem(EXPORTS, method, replace(EXPORTS[method], cpu=cpu))
            fill(folder, method)

    return built_once(factory, method, filled) / "bundle"


def styled_bundle(factory: pytest.TempPathFactory) -> Path:
    """The small e4e with style space. No test may change it."""
    plain = small_bundle(factory, "e4e")

    def fill(folder: Path) -> None:
        with exporting_once(factory), pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "EXTERNAL_TENSOR_FROM", 1024)
            build(BuildOptions(plain.parent / "small.pt", folder / "bundle", style_space=True, cpu_graphs=False))

    return built_once(factory, "e4e-styled", fill) / "bundle"


def _fill_encoded(folder: Path, method: str) -> None:
    model, others = small_methods.small_model(method), []
    changes: dict[str, Any] = {}
    if method == "psp":  # its mean latent code is in another file
        others, changes = [folder / "generator.pt"], {"latent_avg": None}
        torch.save({"g_ema": model.generator.state_dict(), "latent_avg": model.latent_avg[0]}, others[0])
    checkpoint = small_methods.write_small(folder / "small.pt", method, model, **changes)
    if method == "sfe":
        checkpoint, others = small_methods.split_sfe(folder, model)
    iterations = ITERATIONS if "restyle" in method else None
    build(BuildOptions(checkpoint, folder / "bundle", others=others, iterations=iterations, parts=method == "hfgi"))


def _fill_parts(folder: Path, method: str) -> None:
    others = small_parts.write_small(folder / "small.pt", method)
    build(BuildOptions(folder / "small.pt", folder / "bundle", others=others, parts=False, **OPTIONS.get(method, {})))
