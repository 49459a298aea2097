"""e4e's family and HFGI at full size: the numbers that their official code computed. Minutes and about 3 GB of disk each."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import official_methods as official
import pytest
import torch
from official_checkpoint import example_pictures

from sdic_export.build import BuildOptions, build
from sdic_export.verify import verify
from sdic_runtime.pipeline import Pipeline
from sdic_train.checkpoints.load import load_generator

pytestmark = pytest.mark.full
MEMORY = 8 << 30  # bytes
OTHER_SALT = 5
ZERO = 1e-5  # largest difference of an edit of strength 0 from the inversion


@pytest.fixture(scope="module", params=official.METHODS)
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """Method, checkpoint, bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = official.METHODS[request.param].write(folder / "official.pt")
    build(BuildOptions(checkpoint, folder / "bundle"))
    yield request.param, checkpoint, folder / "bundle"
    official.remove_files(folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_official_numbers(released: tuple[str, Path, Path], backend: str) -> None:
    name, checkpoint, bundle = released
    method, want = official.METHODS[name], official.METHODS[name].expected()
    pictures = example_pictures(official.SEED, 2)
    with Pipeline.load(bundle, backend=backend) as pipeline:
        runs = [method.computed(pipeline.backend, pictures[:1])]
        if name == "hfgi":  # the second picture of the batch must not disturb the first
            both = method.computed(pipeline.backend, pictures)
            runs.append({key: array for key, array in both.items() if not key.endswith(".stats")})
        if name.startswith("restyle"):
            runs[0] |= official.average_arrays(pipeline.backend, pictures)
        if name == "psp":
            with torch.no_grad():
                style = load_generator(checkpoint).mapping(torch.from_numpy(official.mix_z())).numpy()
            runs[0] |= official.mixed_arrays(pipeline.backend, pictures[:1], style) | {"inject": np.repeat(style[:, None], 18, 1)}
    assert set(runs[0]) == set(want)
    for run in runs:
        ratio, array = official.worst({key: method.kept(key, value) for key, value in run.items()}, want)
        print(f"{name}, {backend}: {ratio:.1e} ({array})")
        assert ratio <= method.limit, array
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


def test_strength_zero_is_the_inversion_and_the_bundle_verifies(released: tuple[str, Path, Path]) -> None:
    bundle = released[2]
    with Pipeline.load(bundle, backend="onnxruntime") as pipeline:
        inversion = pipeline.invert(example_pictures(official.SEED, 1))
        for move in pipeline.moves:
            zero = pipeline.edit(inversion, np.ones((18, 512), np.float32), 0.0, move=move)
            assert float(np.abs(zero.pixels - inversion.pixels).max()) < ZERO
    assert not verify(bundle).failures


@pytest.mark.parametrize("name", ["psp", "hfgi", "sfe"])
def test_other_weights_and_a_batch_of_two(name: str, tmp_path: Path) -> None:
    """No numbers of the official code exist of these: ONNX Runtime is compared with PyTorch."""
    method, pictures = official.METHODS[name], example_pictures(official.SEED + 9, 2)
    checkpoint = method.write(tmp_path / "official.pt", OTHER_SALT)
    build(BuildOptions(checkpoint, tmp_path / "bundle"))
    got, want = (official.whole_arrays(method.computed, tmp_path / "bundle", backend, pictures) for backend in ("onnxruntime", "torch"))
    official.remove_files(tmp_path)
    ratio, array = official.worst(got, want)
    print(f"{name}, salt {OTHER_SALT}: {ratio:.1e} ({array})")
    assert ratio <= method.limit, array
