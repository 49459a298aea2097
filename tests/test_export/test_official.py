"""Full-size models: the numbers that the official code computed, and the car model's other sizes. Minutes, and about 6 GB of disk."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import official_checkpoint as official
import pytest

from sdic_export.build import BuildOptions, build
from sdic_export.verify import verify
from sdic_runtime.edits import GanSpaceEdit
from sdic_runtime.pipeline import Pipeline

pytestmark = pytest.mark.full

LIMIT = 2e-4  # of each array's standard deviation
SEED = 11
GANSPACE = (54, 7, 8, 20)
BUILD_MEMORY = 6 << 30  # bytes


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("faces")
    checkpoint = official.write_checkpoint(folder / "official.pt", official.face_shapes())
    build(BuildOptions(checkpoint, folder / "official"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < BUILD_MEMORY
    return checkpoint, folder / "official"


def slices(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of a 1024 picture that are kept in the expected numbers."""
    return {"slice": pixels[:, :, 4::8, 4::8], "crop": pixels[:, :, 488:536, 488:536]}


def computed(pipeline: Pipeline, picture: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    direction, pca = official.example_edits(SEED, rows)
    inversion = pipeline.invert(picture)
    released = pipeline.edit(inversion, direction, 1.5, eq6="released")
    ganspace = pipeline.edit(inversion, GanSpaceEdit(pca, *GANSPACE), eq6="released")
    paper = pipeline.edit(inversion, direction, 1.5, eq6="paper")
    got = {
        "w": inversion.latent,
        "w_enh": inversion.latent_enhanced,
        "w_edit": released.latent,
        "ganspace.w": ganspace.latent,
        "F_R.slice": inversion.feature[:, ::37, ::5, ::5],
        "F_enh.slice": (inversion.feature + inversion.residual)[:, ::37, ::5, ::5],
        "ro.slice": inversion.reconstruction[:, :, ::4, ::4],
        "D.slice": inversion.discrepancy[:, :, ::4, ::4],
    }
    for name, pixels in (
        ("inversion", inversion.pixels),
        ("edit", released.pixels),
        ("edit_ganspace", ganspace.pixels),
        ("edit_paper", paper.pixels),
    ):
        got |= {f"{name}.{part}": array for part, array in slices(pixels).items()}
    return got


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_official_numbers(faces: tuple[Path, Path], backend: str) -> None:
    checkpoint, bundle = faces
    pipeline = Pipeline.load(bundle, backend=backend, **({"checkpoint": checkpoint} if backend == "torch" else {}))
    want = official.expected()
    got = computed(pipeline, official.example_pictures(SEED, 2), 18)  # the second picture of the batch must not disturb the first
    alone = computed(pipeline, official.example_pictures(SEED, 1), 18)
    for name, value in got.items():
        for array in (value[:1], alone[name]):
            assert array.shape == want[name].shape
            assert float(np.abs(array - want[name]).max()) <= LIMIT * float(want[name].std()), name


def test_strength_zero_is_the_inversion(faces: tuple[Path, Path]) -> None:
    pipeline = Pipeline.load(faces[1], backend="onnxruntime")
    inversion = pipeline.invert(official.example_pictures(SEED, 1))
    zero = pipeline.edit(inversion, official.example_edits(SEED, 18)[0], 0.0, eq6="paper")
    assert float(np.abs(zero.pixels - inversion.pixels).max()) < 1e-5


def test_large_stages_map_their_weights_and_the_golden_file_is_small(faces: tuple[Path, Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in faces[1].rglob("*") if path.is_file()}
    assert sizes["e4e.onnx.data"] > 9e8 and sizes["e4e.onnx"] < 1e6
    assert "dipn.onnx.data" not in sizes and "generator_tail.onnx.data" not in sizes
    assert sizes["golden.safetensors"] < 30e6


def test_the_bundle_verifies(faces: tuple[Path, Path]) -> None:
    assert not verify(faces[1]).failures


def test_the_car_model(tmp_path: Path) -> None:
    checkpoint = official.write_checkpoint(tmp_path / "cars.pt", official.car_shapes())
    build(BuildOptions(checkpoint, tmp_path / "cars"))
    checkpoint.unlink()
    pipeline = Pipeline.load(tmp_path / "cars", backend="onnxruntime")
    manifest = pipeline.bundle.manifest
    assert (
        manifest.sizes == {"R": 512, "S": 256, "L": 16, "C": 512, "K": 512}
        and manifest.visible_rows == (64, 448)
        and manifest.domain == "cars"
    )
    assert not verify(tmp_path / "cars").failures
    picture = np.zeros((48, 64, 3), np.uint8) + np.arange(64, dtype=np.uint8)[None, :, None] * 4
    inversion = pipeline.invert(picture)
    assert inversion.latent.shape == (1, 16, 512) and inversion.pixels.shape == (1, 3, 512, 512)
    assert inversion.images[0].size == (512, 384)
    bars = pipeline.prepare(picture)
    bars[:, :, :32] = bars[:, :, 224:] = 1  # the encoder reads the rows between the bars alone
    np.testing.assert_allclose(pipeline.invert(bars).latent, inversion.latent, atol=1e-5)
