"""HyperStyle, CLCAE and FS at full size: the numbers that their official code computed. Minutes and up to 5 GB of disk each."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import official_parts as official
import pytest
from official_checkpoint import example_pictures
from official_methods import remove_files, whole_arrays

from sdic_export.build import BuildOptions, build
from sdic_export.verify import verify
from sdic_runtime.pipeline import Pipeline

pytestmark = pytest.mark.full
MEMORY = 8 << 30  # bytes
OTHER_SALT = 5
ZERO = 1e-5  # largest difference of an edit of strength 0 from the inversion


@pytest.fixture(scope="module", params=official.METHODS)
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[official.Parts, Path]]:
    """Method, bundle."""
    folder, parts = tmp_path_factory.mktemp(request.param), official.METHODS[request.param]
    checkpoint, others = parts.write(folder / "official.pt", 0)
    build(BuildOptions(checkpoint, folder / "bundle", others=others, **parts.options))
    yield parts, folder / "bundle"
    remove_files(folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_official_numbers(released: tuple[official.Parts, Path], backend: str) -> None:
    parts, bundle = released
    want = parts.expected()
    with Pipeline.load(bundle, backend=backend) as pipeline:
        got = parts.computed(pipeline.backend, example_pictures(official.SEED, 1))
    assert set(got) == set(want)
    ratio, name = official.worst_ratios({key: official.shortened(key, array) for key, array in got.items()}, want)[0]
    print(f"{parts.name}, {backend}: {ratio:.1e} ({name})")
    assert ratio <= parts.limit, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


def test_strength_zero_is_the_inversion_and_the_bundle_verifies(released: tuple[official.Parts, Path]) -> None:
    bundle = released[1]
    with Pipeline.load(bundle, backend="onnxruntime") as pipeline:
        tile = pipeline.sizes["S"] // 256
        inversion = pipeline.invert(example_pictures(official.SEED, 1).repeat(tile, 2).repeat(tile, 3))
        for move in pipeline.moves:
            if "direction" in pipeline.moves[move].kinds:
                zero = pipeline.edit(inversion, np.ones((18, 512), np.float32), 0.0, move=move)
                assert float(np.abs(zero.pixels - inversion.pixels).max()) < ZERO
    assert not verify(bundle).failures


@pytest.mark.parametrize("name", official.METHODS)
def test_other_weights_and_a_batch_of_two(name: str, tmp_path: Path) -> None:
    """No numbers of the official code exist of these: ONNX Runtime is compared with PyTorch."""
    parts, pictures = official.METHODS[name], example_pictures(official.SEED + 9, 2)
    checkpoint, others = parts.write(tmp_path / "official.pt", OTHER_SALT)
    build(BuildOptions(checkpoint, tmp_path / "bundle", others=others, **parts.options))
    got, want = (whole_arrays(parts.computed, tmp_path / "bundle", backend, pictures) for backend in ("onnxruntime", "torch"))
    remove_files(tmp_path)
    ratio, array = official.worst_ratios(got, want)[0]
    print(f"{name}, salt {OTHER_SALT}: {ratio:.1e} ({array})")
    assert ratio <= parts.limit, array
