"""libsdic runs the bundles of other methods: programs of edits alone, further inputs, and layers whose weights are a picture's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime import Pipeline

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import small_methods
from small_bundles import small_bundle, styled_bundle

METHODS = ("hfgi", "hyperstyle", "sfe")
MOVES, EXTRAS = 1, 5
STRENGTHS = [0.0, 1.5]


@pytest.fixture(scope="module", params=METHODS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory, request.param)


def test_the_pictures_are_those_of_python(library: Any, bundle: Path) -> None:
    images = np.ascontiguousarray(small_methods.small_images(small_methods.LARGER).numpy())
    direction = np.random.default_rng(0).normal(0, 0.2, (1, small_methods.SMALL.style_width)).astype(np.float32)
    native = library.open(bundle)
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as python:
        ours, theirs = native.invert_tensor(images, batch=2), python.invert(images)
        for name, held in theirs.tensors.items():
            want = held.host()
            assert np.abs(ours.tensor(name) - want).max() <= 1e-4 * want.std(), name
        alike(ours, theirs)
        for move in [move for move in native.names(MOVES) if "direction" in python.moves[move].kinds]:
            edited = native.edit(ours, direction, STRENGTHS, move=move, batch=3)
            alike(edited, python.edit(theirs, direction, STRENGTHS, move=move))
            assert np.abs(edited.tensor("picture")[::2] - ours.tensor("picture")).max() < 1e-5


def alike(ours: Any, theirs: Any) -> None:
    """Within 1 of 255."""
    assert np.abs(ours.pictures().astype(int) - np.stack([np.asarray(image) for image in theirs.images])).max() <= 1


def test_a_mask_keeps_a_region_unedited(library: Any, tmp_path_factory: pytest.TempPathFactory, refusal: Any) -> None:
    bundle, images = small_bundle(tmp_path_factory, "sfe"), np.ascontiguousarray(small_methods.small_images(small_methods.LARGER).numpy())
    direction = np.zeros((14, small_methods.SMALL.style_width), np.float32)
    direction[:9] = np.random.default_rng(0).normal(0, 1, (9, small_methods.SMALL.style_width))
    native = library.open(bundle)
    assert native.names(EXTRAS) == ["mask"]
    mask = np.zeros(native.shape("mask"), np.float32)
    mask[..., :128] = 1
    inversion = native.invert_tensor(images)
    kept, plain = native.edit(inversion, direction, extras={"mask": mask}), native.edit(inversion, direction)
    assert np.abs(kept.tensor("picture") - plain.tensor("picture")).max() > 1e-3
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as python:
        alike(kept, python.edit(python.invert(images), direction, extras={"mask": mask}))
    both = np.concatenate([mask, np.zeros_like(mask)])
    each = native.edit(inversion, direction, extras={"mask": both}).tensor("picture")
    assert np.abs(each[0] - kept.tensor("picture")[0]).max() < 1e-5 and np.abs(each[1] - plain.tensor("picture")[1]).max() < 1e-5
    for extras, sentence in (
        ({"mask": mask[..., 1:].copy()}, 'the extra "mask" has 65280 values; expected 131072 finite ones, of shape [2, 1, 256, 256], or'),
        ({"mask": np.full_like(mask, np.nan)}, 'the extra "mask" has 65536 values; expected 131072 finite ones'),
        ({"hat": mask}, 'this edit takes no extra "hat"; it takes: mask'),
    ):
        assert sentence in refusal(lambda extras=extras: native.edit(inversion, direction, extras=extras))[1]
    assert 'there is no tensor "hat"' in refusal(lambda: native.shape("hat"))[1]


def test_a_bundle_with_style_space_runs_and_its_style_directions_are_refused(
    library: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, refusal: Any
) -> None:
    from sdic_export.directions.bundle import add_directions
    from sdic_runtime.styles import StyleDirection

    bundle = Path(shutil.copytree(styled_bundle(tmp_path_factory), tmp_path / "styled"))
    add_directions(bundle, lambda manifest: {"glow": StyleDirection(np.ones(sum(manifest.style_layers)))})
    images = np.ascontiguousarray(small_methods.small_images(small_methods.SMALL).numpy())
    direction = np.random.default_rng(0).normal(0, 0.2, (1, small_methods.SMALL.style_width)).astype(np.float32)
    native = library.open(bundle)
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as python:
        ours, theirs = native.invert_tensor(images), python.invert(images)
        assert not ours.tensor("styles").any()
        alike(native.edit(ours, direction, [1.5]), python.edit(theirs, direction, 1.5))
    assert 'it holds styles, expected "direction"' in refusal(lambda: native.edit(ours, "glow"))[1]
