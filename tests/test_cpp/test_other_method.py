"""libsdic runs a method that it has never heard of: see other_method.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime import Inversion, Pipeline

torch: Any = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import other_method as other  # noqa: E402 - it needs both

MOVES, PROGRAMS, TENSORS, LETTERS = range(1, 5)
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(other.built(tmp_path_factory))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    array: np.ndarray = other.images(3)
    return array


@pytest.fixture(scope="module")
def plain(images: np.ndarray) -> dict[str, Any]:
    """What the networks give without programs."""
    return dict(other.plain_inversion(other.model(other.SEED), torch.from_numpy(images)))


def repeated(tensor: Any, times: int) -> Any:
    return tensor.repeat_interleave(times, 0)


def moved(tensor: Any, offset: np.ndarray, strengths: list[float]) -> Any:
    """Codes moved by each of the strengths, all strengths of the first code first."""
    return repeated(tensor, len(strengths)) + torch.tensor(strengths).repeat(len(tensor))[:, None, None] * torch.from_numpy(offset)


def test_the_bundle_says_what_there_is(library: Any, bundle: Path) -> None:
    native, manifest = library.open(bundle), Pipeline.load(bundle, "onnxruntime").bundle.manifest
    info = native.info()
    assert (info.method.decode(), info.identity.decode()) == (other.NAME, manifest.identity)
    assert info.description.decode() == Pipeline.load(bundle, "onnxruntime").backend.description
    assert (native.names(MOVES), native.names(PROGRAMS)) == (list(manifest.moves), list(manifest.programs))
    assert native.names(TENSORS) == list(manifest.keeps)
    assert {letter: native.size(letter) for letter in native.names(LETTERS)} == manifest.sizes


@pytest.mark.parametrize("batch", [0, 2])
def test_inversions_and_edits_are_those_of_the_networks(
    library: Any, bundle: Path, images: np.ndarray, plain: dict[str, Any], batch: int
) -> None:
    native, networks, strengths = library.open(bundle), other.model(other.SEED), [-1.0, 0.5]
    inversion = native.invert_tensor(images, batch)
    for name in native.names(TENSORS):
        np.testing.assert_allclose(inversion.tensor(name), plain[name], **CLOSE, err_msg=name)
    vector = other.direction().vector
    codes = {name: moved(plain[name], vector, strengths) for name in ("code", "offset")}
    along = native.edit(inversion, "along", strengths, batch=batch)
    for name, code in codes.items():
        np.testing.assert_allclose(along.tensor(name), code, **CLOSE)
    expected = other.plain_edit(networks, repeated(plain["image"], 2), codes["code"], codes["offset"])
    np.testing.assert_allclose(along.tensor("picture"), expected, **CLOSE)
    assert np.abs(along.tensor("picture") - repeated(plain["picture"], 2).numpy()).max() > 0.01

    component = native.part("basis", kind=2, component=3, first_row=1, end_row=3, sigma=1.5)
    offset = np.zeros_like(images, shape=(other.ROWS, other.WIDTH))
    offset[1:3] = 1.5 * other.basis().comp[3, 0]
    turned = native.edit(inversion, component, strengths, batch=batch)
    expected = other.plain_turn(networks, moved(plain["code"], offset, strengths), repeated(plain["offset"], 2))
    np.testing.assert_allclose(turned.tensor("picture"), expected, **CLOSE)


def test_an_edit_by_nothing_is_the_inversion(library: Any, bundle: Path, images: np.ndarray) -> None:
    native = library.open(bundle)
    inversion = native.invert_tensor(images)
    np.testing.assert_allclose(native.edit(inversion, "along", [0]).tensor("picture"), inversion.tensor("picture"), rtol=0, atol=1e-6)


def test_files_travel_both_ways(library: Any, bundle: Path, images: np.ndarray, tmp_path: Path) -> None:
    native, python = library.open(bundle), Pipeline.load(bundle, "onnxruntime")
    ours, theirs = native.invert_tensor(images), python.invert(images)
    ours.save(tmp_path / "ours.safetensors")
    theirs.save(tmp_path / "theirs.safetensors")
    read, back = Inversion.load(tmp_path / "ours.safetensors"), library.load(tmp_path / "theirs.safetensors")
    assert read.model == theirs.model
    for name in native.names(TENSORS):
        np.testing.assert_array_equal(getattr(read, name), ours.tensor(name))
        np.testing.assert_array_equal(back.tensor(name), getattr(theirs, name))
    np.testing.assert_allclose(native.edit(back, "along", [2]).tensor("picture"), python.edit(read, "along", 2.0).pixels, **CLOSE)


def test_steps_are_counted_and_what_is_not_there_is_said(
    library: Any, bundle: Path, images: np.ndarray, refusal: Callable[..., tuple[int, str]]
) -> None:
    seen: list[tuple[str, int, int]] = []
    kind = dict(type(library.open(bundle).params)._fields_)["progress"]
    native = library.open(bundle, progress=kind(lambda stage, done, total, _: seen.append((stage.decode(), done, total)) or 0))
    seen.clear()
    inversion = native.invert_tensor(images, 2)
    steps = Pipeline.load(bundle, "onnxruntime").bundle.manifest.programs["invert"].steps
    assert [stage for stage, _, _ in seen] == 2 * [step.stage for step in steps]
    assert [(done, total) for _, done, total in seen] == [(done, 2 * len(steps)) for done in range(2 * len(steps))]
    component = native.part("basis", kind=1, end_row=1)
    for work in (
        lambda: native.baseline(inversion),
        lambda: native.edit(inversion, "along", move="turned"),
        lambda: native.edit(inversion, [component, native.part("along")]),
    ):
        assert refusal(work)[0] == 1
