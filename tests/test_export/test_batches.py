"""Small models of every method: what a batch gives is what each of its pictures gives alone, and pictures of any kind go through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_methods
import small_parts
from PIL import Image
from small_bundles import small_bundle

from sdic_runtime.edits import GanSpaceEdit, Pca
from sdic_runtime.inversion import Inversion
from sdic_runtime.pipeline import BASELINE, Pipeline

LIMIT = 3e-4  # of a tensor's standard deviation
WIDTH = small_methods.SMALL.style_width


@pytest.fixture(scope="module", params=(*small_methods.BUILDERS, *small_parts.BUILDERS))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory, request.param)


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        yield pipeline


def edits() -> dict[str, Any]:
    """One of each kind, which moves every style row."""
    rng = np.random.default_rng(0)
    component = np.linalg.qr(rng.normal(size=(WIDTH, 4)))[0].T[:, None].astype(np.float32)
    pca = Pca(np.zeros((1, WIDTH), np.float32), component, np.ones(4, np.float32))
    return {"direction": rng.normal(0, 0.2, (1, WIDTH)).astype(np.float32), "ganspace": GanSpaceEdit(pca, 1, 0, 9, 2.0)}


def made(pipeline: Pipeline, inversion: Inversion, batch: int) -> dict[str, np.ndarray]:
    """All that an inversion keeps, its picture by every move, and its picture without what the method adds."""
    found = {name: held.host() for name, held in inversion.tensors.items()} | {"picture": inversion.pixels}
    change = edits()
    for move, form in pipeline.moves.items():
        found[move] = pipeline.edit(inversion, change[form.kinds[0]], 1.5, batch=batch, move=move).pixels
    if BASELINE in pipeline.bundle.manifest.programs:
        found[BASELINE] = pipeline.baseline(inversion).pixels
    return found


def test_a_picture_of_a_batch_is_as_it_is_alone(pipeline: Pipeline) -> None:
    side = pipeline.sizes["S"]
    pictures = np.concatenate([small_pictures(side), np.full((1, 3, side, side), -1, np.float32)])
    together = made(pipeline, pipeline.invert(pictures, batch=3), 3)
    for index, picture in enumerate(pictures):
        alone = made(pipeline, pipeline.invert(picture[None], batch=1), 1)
        assert set(alone) == set(together)
        for name, array in alone.items():
            assert array.shape == (1, *together[name].shape[1:]), name
            assert np.abs(array[0] - together[name][index]).max() <= LIMIT * together[name].std(), f"{name} of picture {index}"


def small_pictures(side: int) -> np.ndarray:
    """Two pictures [2, 3, side, side] that have nothing in common: smooth, and noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    smooth = np.stack([2 * x - 1, 1 - 2 * y, np.sin(9 * x * y)])
    return np.stack([smooth, np.random.default_rng(4).uniform(-1, 1, smooth.shape)]).astype(np.float32)


def photographs() -> list[Image.Image]:
    """Gray of 200 x 300, a palette, one pixel, white, and more bits and channels than a network reads."""
    noise = np.random.default_rng(5).integers(0, 256, (300, 200, 4), dtype=np.uint8)
    gray, colours = Image.fromarray(noise[..., 0]), Image.fromarray(noise)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) << 8)
    return [gray, colours.convert("RGB").quantize(16), colours.crop((0, 0, 1, 1)), Image.new("1", (31, 31), 1), colours, deep]


def test_pictures_of_any_kind_are_inverted_as_pytorch_inverts_them(pipeline: Pipeline, bundle: Path) -> None:
    pictures = photographs()
    inversion = pipeline.invert(pictures, shape="squash")
    found, want = made(pipeline, inversion, 6), {}
    with Pipeline.load(bundle, backend="torch") as networks:
        want = made(networks, networks.invert(pictures, shape="squash"), 6)
    assert len(inversion) == len(pictures) and len(inversion.images) == len(pictures)
    for name, array in want.items():
        assert np.isfinite(array).all() and np.abs(found[name] - array).max() <= LIMIT * array.std(), name
