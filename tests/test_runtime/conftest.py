"""The tiny bundle of `tests/tiny_bundle.py` as fixtures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import SIZES, Reference, add_bands, add_cpu_graph, break_band, change_manifest, own_graph, write_bundle, write_stage

from sdic_runtime.pipeline import Pipeline

collect_ignore = [] if find_spec("torch") else ["backends/test_onnxruntime_cuda.py"]  # its graphs are made by PyTorch


@pytest.fixture
def change() -> Callable[..., Path]:
    return change_manifest


@pytest.fixture
def arrange() -> Callable[..., Path]:
    return add_cpu_graph


@pytest.fixture
def arrange_bands() -> Callable[..., list[Path]]:
    return add_bands


@pytest.fixture
def break_one_band() -> Callable[..., None]:
    return break_band


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle that no test may change; see `make_bundle` for one to break."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def make_bundle(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny bundle, or with changed manifest fields a new one."""

    def make(name: str = "copy", **changes: Any) -> Path:
        folder = tmp_path / name
        return write_bundle(folder, **changes) if changes else Path(shutil.copytree(tiny_bundle, folder))

    return make


@pytest.fixture
def replace_stage() -> Callable[..., None]:
    """Put another graph in place of one stage of a bundle, hashes and all."""

    def replace(folder: Path, stage: str, nodes: list[Any], constants: dict[str, np.ndarray]) -> None:
        name = own_graph(folder, stage)
        write_stage(folder / name, stage, nodes, constants)
        change_manifest(folder, [name])

    return replace


@pytest.fixture(scope="session")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, backend="onnxruntime", threads=1)


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """Three input pictures, float32 [3, 3, S, S] in [-1, 1]."""
    return np.random.default_rng(3).uniform(-1, 1, (3, 3, SIZES["S"], SIZES["S"])).astype(np.float32) ** 3


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str], str]]:
    """Run a command in the test's own folder: exit code, lines of standard output, standard error."""
    from sdic_runtime.cli import app as cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, list[str], str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures of different sizes and formats."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "c.webp")):
        noise = np.random.default_rng(index).integers(0, 256, (70 + index, 70 + index, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder
