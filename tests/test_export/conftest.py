"""A tiny model with random weights, its checkpoint, and the bundle that `sdic-export build` makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_once import quick_exporter, remembering
from sdic_bundle import SMALL_WEIGHT, Built, built_report, random_model, sdic_bundle, write_checkpoint
from torch import Tensor, nn

from sdic_export import build as building
from sdic_export.build import BuildOptions
from sdic_export.graphs import exporter
from sdic_export.methods import EXPORTS, Arrange
from sdic_train.networks.sdic.model import SDIC


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with quick_exporter(), remembering():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model() -> SDIC:
    return random_model()


@pytest.fixture(scope="session")
def save_model() -> Callable[[Path, SDIC], Path]:
    """Writes the checkpoint of a model."""
    return write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(model: SDIC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", model)


@pytest.fixture(scope="session", autouse=True)
def _small_weights_apart() -> Iterator[None]:
    """The tensors of a tiny model are kept apart where those of a released one would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "EXTERNAL_TENSOR_FROM", SMALL_WEIGHT)
        yield


@pytest.fixture(scope="session")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return sdic_bundle(tmp_path_factory, checkpoint)


class HalvedDicn(nn.Module):
    """DICN by other operations: what it computes is added to itself, and halved."""

    def __init__(self, dicn: nn.Module) -> None:
        super().__init__()
        self.dicn = dicn

    def forward(self, discrepancy: Tensor, feature: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        enhanced, residual = self.dicn(discrepancy, feature, latent)
        return (enhanced + enhanced) * 0.5, (residual + residual) * 0.5


class HalvedHead(nn.Module):
    """The head in the same way; its weights are those of a stage that keeps them in a file of their own."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        feature, rgb = self.head((latent + latent) * 0.5)
        return feature, rgb


class TailBand(nn.Module):
    """The rows `first` to `end` - 1 of the tail's picture."""

    def __init__(self, tail: nn.Module, first: int, end: int) -> None:
        super().__init__()
        self.tail, self.rows = tail, slice(first, end)

    def forward(self, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
        picture: Tensor = self.tail(feature, residual, rgb, latent)[:, :, self.rows]
        return picture


HALVED: dict[str, Arrange] = {
    "generator_head": lambda head, *example: [HalvedHead(head)],
    "dicn": lambda dicn, *example: [HalvedDicn(dicn)],
}
FOR_OPENVINO: dict[str, Arrange | None] = {"generator_head": None, "dicn": lambda dicn, *example: [HalvedDicn(HalvedDicn(dicn))]}
BANDED: dict[str, Arrange] = {"generator_tail": lambda tail, *example: [TailBand(tail, 0, 96), TailBand(tail, 96, 128)]}  # unequal heights


def optimize(patch: pytest.MonkeyPatch, cpu: Mapping[str, Arrange], openvino: Mapping[str, Arrange | None] | None = None) -> None:
    """Builds optimize stages for CPUs by `cpu` and `openvino` alone."""
    patch.setitem(EXPORTS, "sdic", replace(EXPORTS["sdic"], cpu=cpu, openvino=openvino or {}))


@pytest.fixture
def tail_band() -> type[TailBand]:
    return TailBand


@pytest.fixture
def cpu_table(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Arrange]], None]:
    """Sets how builds optimize stages for CPUs."""
    return lambda cpu: optimize(monkeypatch, cpu)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, built: Built) -> Callable[[str], None]:
    """Exporting a stage copies the file of an earlier build, so that what surrounds it is tested fast; a stage named may be damaged.

    There are no CPU-optimized graphs, until a test sets `cpu_table`.
    """
    damaged: list[str] = []
    monkeypatch.setattr(building, "export_stage", copying(built, damaged))
    optimize(monkeypatch, {})
    return damaged.append


def copying(built: Built, damaged: Sequence[str] = ()) -> Callable[..., None]:
    """In place of `export_stage`."""

    def export(module: object, stage: object, method: object, path: Path, *options: object, **named: object) -> None:
        for file in (built.folder / "onnx/fp32").glob(f"{path.name}*"):
            shutil.copy(file, path.parent)
        if path.stem in damaged:
            damage(path)

    return export


def copy_stages(patch: pytest.MonkeyPatch, built: Built) -> None:
    patch.setattr(building, "export_stage", copying(built))


def damage(path: Path) -> None:
    """Change one bias of the graph at `path`."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("bias") and tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor) + np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            break
    onnx.save(model, str(path))


@pytest.fixture(scope="session")
def arranged(built: Built, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same build with CPU-optimized graphs of the head and of DICN: OpenVINO has that of the head too, and another one of DICN."""
    options = BuildOptions(checkpoint, Path("arranged"), built.report.manifest.name)
    return built_report(tmp_path_factory, options, partial(copy_stages, built=built), partial(optimize, cpu=HALVED, openvino=FOR_OPENVINO))


@pytest.fixture(scope="session")
def in_bands(built: Built, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same build with the tail in two bands of rows."""
    options = BuildOptions(checkpoint, Path("in_bands"), built.report.manifest.name)
    return built_report(tmp_path_factory, options, partial(copy_stages, built=built), partial(optimize, cpu=BANDED))
