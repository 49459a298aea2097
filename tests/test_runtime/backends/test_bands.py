"""A stage in bands of rows: the same numbers for any batch, from any number of threads, and sentences when the bands are not a stage."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime.backends.bands import Bands
from sdic_runtime.backends.onnxruntime import load
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.bundle.manifest import first_schema
from sdic_runtime.errors import BackendError, BundleError
from sdic_runtime.pipeline import Pipeline
from sdic_runtime.program import Method

SIZES = {"R": 128, "S": 64, "L": 12, "C": 8, "K": 4}
SDIC = msgspec.convert({**first_schema(), "method": "sdic", "sizes": SIZES}, Method)
TAIL = SDIC.stages["generator_tail"]
THIRDS = ((0, 40), (40, 96), (96, 128))


@pytest.fixture
def banded(make_bundle: Callable[..., Path], arrange_bands: Callable[..., list[Path]]) -> Path:
    """The tiny bundle with its tail in three bands of different heights."""
    folder = make_bundle()
    arrange_bands(folder, "generator_tail", THIRDS)
    return folder


def tail_inputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(SDIC.shape(name, count)).astype(np.float32) for name in TAIL.inputs}


def tail(backend: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    picture: np.ndarray = backend.run("generator_tail", inputs, ["picture"])["picture"]
    return picture


@pytest.mark.parametrize("threads", [1, 2, 7, None])
@pytest.mark.parametrize("count", [1, 3])
def test_bands_make_up_the_stage(threads: int | None, count: int, banded: Path) -> None:
    backend, own = (load(Bundle.open(banded), threads=threads, cpu_graphs=switch) for switch in (True, False))
    inputs = tail_inputs(count)
    got = tail(backend, inputs)
    assert got.shape == SDIC.shape("picture", count) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, tail(own, inputs), rtol=0, atol=1e-6)
    assert backend.description.endswith(", fp32, CPU-optimized graphs of generator_tail")


def test_bands_make_up_one_output_asked_for_alone(make_bundle: Callable[..., Path], arrange_bands: Callable[..., list[Path]]) -> None:
    folder = make_bundle()
    arrange_bands(folder, "generator_head:rgb", ((0, 20), (20, 32)), rm=2)
    backend, own = (load(Bundle.open(folder), threads=2, cpu_graphs=switch) for switch in (True, False))
    inputs = {"latent": np.ones(SDIC.shape("latent", 3), np.float32)}
    for outputs, factor in ((["rgb"], 2), (["feature", "rgb"], 1)):
        got, want = (part.run("generator_head", inputs, outputs) for part in (backend, own))
        for name in outputs:
            np.testing.assert_allclose(got[name], factor * want[name], rtol=0, atol=1e-6)


def test_each_band_has_its_share_of_the_threads(banded: Path) -> None:
    for threads, share in ((1, 1), (3, 1), (7, 2)):
        bands = load(Bundle.open(banded), threads=threads)._answer("generator_tail", ["picture"])
        assert [session.get_session_options().intra_op_num_threads for session in bands._sessions] == [share] * 3
        assert bands._helpers == min(threads, 3) - 1


def test_a_stage_in_the_middle_of_the_chain_may_be_in_bands_too(
    make_bundle: Callable[..., Path], arrange_bands: Callable[..., list[Path]]
) -> None:
    folder = make_bundle()
    arrange_bands(folder, "dipn", ((0, 16), (16, 64)), half=3)
    backend = load(Bundle.open(folder), threads=2)
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    result = backend.run("dipn", {"image": image, "reconstruction": np.zeros_like(image)}, ["discrepancy"])["discrepancy"]
    np.testing.assert_allclose(result, 1.5 * image, rtol=0, atol=1e-6)


def test_a_pipeline_is_used_from_several_threads(banded: Path, tiny_bundle: Path) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(4)]
    pipeline, own = (Pipeline.load(folder, "onnxruntime", threads=2) for folder in (banded, tiny_bundle))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: pipeline.invert([pictures[index % 4]] * (1 + index % 2)).pixels, range(12)))
    for index, pixels in enumerate(found):
        np.testing.assert_allclose(pixels[0], own.invert(pictures[index % 4]).pixels[0], rtol=0, atol=1e-5)


def test_bands_run_side_by_side_and_the_threads_end_with_the_backend() -> None:
    """Each band waits until the other one runs: one after the other they would never meet."""
    barrier = threading.Barrier(2, timeout=30)

    def wait(*_: Any) -> list[np.ndarray]:
        barrier.wait()
        return [np.ones((1, 3, 64, 128), np.float32)]

    bands: Bands | None = Bands("generator_tail", TAIL, SDIC, [session(64, wait), session(64, wait)], workers=2)
    assert bands is not None
    before = {thread for thread in threading.enumerate() if not thread.name.startswith("sdic-bands")}
    for count in (1, 3):
        assert (bands.run(["picture"], tail_inputs(count))[0] == 1).all()
    helpers = set(threading.enumerate()) - before
    assert [thread.name for thread in helpers if thread.name.startswith("sdic-bands")]
    bands = None
    gc.collect()
    for thread in helpers:
        thread.join(30)
        assert not thread.is_alive()


def session(rows: int, run: Callable[..., list[np.ndarray]] | None = None) -> Any:
    """What `Bands` uses of an ONNX Runtime session."""
    return SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name=name, shape=list(SDIC.shape(name, 1))) for name in TAIL.inputs],
        get_outputs=lambda: [SimpleNamespace(name="picture", shape=[1, 3, rows, 128])],
        run=run,
    )


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_band_raises_reaches_the_caller_and_ends_the_others(failing: int) -> None:
    calls = [0, 0]

    def run(band: int) -> Callable[..., list[np.ndarray]]:
        def one(*_: Any) -> list[np.ndarray]:
            calls[band] += 1
            if band == failing:
                raise ValueError("the band is broken")
            return [np.ones((1, 3, 64, 128), np.float32)]

        return one

    for workers in (1, 2):
        bands = Bands("generator_tail", TAIL, SDIC, [session(64, run(band)) for band in range(2)], workers)
        calls[:] = [0, 0]
        with pytest.raises(ValueError, match="^the band is broken$"):
            bands.run(["picture"], tail_inputs(50))
        assert sum(calls) < 100


def test_a_failing_band_is_one_sentence(banded: Path) -> None:
    backend = load(Bundle.open(banded), threads=2)
    inputs = tail_inputs(2)
    for wrong, message in (
        ({"rgb": inputs["rgb"][:, :, :31]}, ".*rgb"),
        ({"latent": inputs["latent"][:1]}, "the inputs are for 1 and 2 pictures; see: sdic-export verify"),
    ):
        with pytest.raises(BackendError, match=f'^the stage "generator_tail" failed: {message}') as caught:
            tail(backend, {**inputs, **wrong})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("band", [0, 2])
def test_a_band_that_fails_as_it_runs_is_one_sentence(band: int, banded: Path, break_one_band: Callable[..., None]) -> None:
    break_one_band(banded, "generator_tail", band)
    for threads in (1, 3):
        backend = load(Bundle.open(banded), threads=threads)
        with pytest.raises(BackendError, match=r'^the stage "generator_tail" failed: .*Gather.*; see: sdic-export verify ') as caught:
            tail(backend, tail_inputs(2))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "batch", "message"),
    [
        (
            ((0, 64), (64, 127)),
            1,
            r"give picture as \[1, 3, 64, 128\], \[1, 3, 63, 128\], which do not add up to the rows of \[1, 3, 128, 128",
        ),
        (((0, 65), (64, 128)), 1, r"give picture as \[1, 3, 65, 128\], \[1, 3, 64, 128\], which do not add up"),
        (((0, 64), (64, 128)), 2, r"takes feature as \[2, 4, 64, 64\] where the stage has \[1, 4, 64, 64\] for one picture"),
        (((0, 64), (64, 128)), "N", r"takes feature as \['N', 4, 64, 64\] where the stage has \[1, 4, 64, 64\] for one picture"),
    ],
)
def test_graphs_that_are_not_bands_of_the_stage_are_refused(
    rows: Any, batch: int | str, message: str, make_bundle: Callable[..., Path], arrange_bands: Callable[..., list[Path]]
) -> None:
    folder = make_bundle()
    arrange_bands(folder, "generator_tail", rows, batch)
    with pytest.raises(BundleError, match=f'stage "generator_tail" {message}.*; build it again with: sdic-export build$'):
        load(Bundle.open(folder), threads=1)


def test_the_names_of_every_band_are_checked(banded: Path, change: Callable[..., Path]) -> None:
    graphs = Bundle.open(banded).manifest.graphs
    first, _, last = graphs["generator_tail"]["onnxruntime-cpu"]
    change(
        banded, graphs={**graphs, "generator_tail": {**graphs["generator_tail"], "onnxruntime-cpu": (first, "onnx/fp32/dipn.onnx", last)}}
    )
    with pytest.raises(BundleError, match=r'dipn\.onnx has the inputs image .* where the stage "generator_tail" has feature, residual'):
        load(Bundle.open(banded), threads=1)


def test_a_damaged_band_is_found(banded: Path) -> None:
    path = banded / "onnx/fp32/generator_tail.cpu.2.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for lazy in (False, True):
        with pytest.raises(BundleError, match=r"generator_tail\.cpu\.2\.onnx is damaged: its SHA-256 is not the one in bundle\.json"):
            backend = load(Bundle.open(banded), threads=1, lazy=lazy)
            tail(backend, tail_inputs(1))
    load(Bundle.open(banded), threads=1, cpu_graphs=False)
