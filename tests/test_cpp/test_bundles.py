"""libsdic on bundles that `sdic-export build` made: PyTorch's golden tensors, the example pictures, and the time it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_export.golden import read_golden
from sdic_runtime import Pipeline
from sdic_runtime.bundle.bundle import DEMO_FOLDER, MANIFEST_NAME
from sdic_runtime.pictures import FORMATS, load_picture, to_bytes

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_demo = pytest.mark.skipif(not (DEMO_FOLDER / MANIFEST_NAME).exists(), reason="the embedded demo bundle is not in this checkout")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny preset with random weights."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from sdic_bundle import random_model, sdic_bundle, write_checkpoint

    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", random_model())
    return sdic_bundle(tmp_path_factory, checkpoint).folder


def check_golden(library: Any, folder: Path) -> None:
    """Every tensor within the bundle's tolerance of what PyTorch computed, and every picture within 1 in 8 bits."""
    python = Pipeline.load(folder, "onnxruntime", threads=1)
    manifest = python.bundle.manifest
    assert manifest.golden is not None
    golden, native = read_golden(python.bundle.file(manifest.golden), manifest), library.open(folder)
    inversion = native.invert_tensor(golden.tensors["image"])
    direction = golden.tensors["direction"][0]
    found = {name: inversion.tensor(name) for name in manifest.keeps}
    for move in manifest.moves:
        found[f"edited.{move}.picture"] = native.edit(inversion, direction, [golden.strength], move).tensor("picture")
    assert len(found) == 9
    for name, whole in found.items():
        got, expected = golden.thinned(name, whole), golden.tensors[name]
        assert np.abs(got - expected).max() <= manifest.tolerances[manifest.default_precision] * expected.std(), name
        if name.endswith("picture"):
            assert np.abs(to_bytes(got).astype(int) - to_bytes(expected)).max() <= 1, name


@pytest.mark.full
def test_golden_tensors_of_an_exported_model(library: Any, exported: Path) -> None:
    check_golden(library, exported)


@needs_demo
def test_golden_tensors_of_the_demo(library: Any) -> None:
    check_golden(library, DEMO_FOLDER)


@needs_demo
def test_all_example_pictures_come_out_as_in_python(library: Any) -> None:
    python, native = Pipeline.load(DEMO_FOLDER, "onnxruntime"), library.open(DEMO_FOLDER, threads=0)
    endings = {"." + name.lower().replace("jpeg", "jpg") for name in FORMATS}
    pictures = [np.asarray(load_picture(path)) for path in sorted(EXAMPLES.rglob("*")) if path.suffix.lower() in endings]
    assert len(pictures) >= 6
    for picture in pictures:
        theirs, ours = python.invert(picture), native.invert(picture)
        pairs: list[tuple[Any, Any]] = [(ours, theirs)]
        pairs += [(native.edit(ours, name, [1.5]), python.edit(theirs, name, 1.5)) for name in ("smile", "age", "glasses")]
        for got, expected in pairs:
            assert np.abs(got.pictures()[0].astype(int) - np.asarray(expected.images[0])).max() <= 1


@pytest.mark.full
@needs_demo
def test_inverting_is_not_slower_than_in_python(library: Any) -> None:
    """From 8-bit pixels to 8-bit pixels, in turn, in one process. Run with -s for the numbers."""
    python, native = Pipeline.load(DEMO_FOLDER, "onnxruntime"), library.open(DEMO_FOLDER, threads=0)
    photo = np.random.default_rng(0).integers(0, 256, (800, 600, 3), np.uint8)
    runs: dict[str, Callable[[], Any]] = {"Python": lambda: python.invert(photo).images, "C++": lambda: native.invert(photo).pictures()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(30):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    best = {name: sorted(values)[len(values) // 4] * 1e3 for name, values in times.items()}
    print(f"one inversion: Python {best['Python']:.1f} ms, C++ {best['C++']:.1f} ms, C++ / Python {best['C++'] / best['Python']:.2f}")
    assert best["C++"] < 1.05 * best["Python"]
