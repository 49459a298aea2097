"""Page-locked memory for what goes to a GPU and comes back, on a fake GPU; a late one does nothing before it is waited for."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import fake_cuda
from fake_gpu import FakeGpu

from sdic_runtime.backends.cuda.pinned import PAGE, PinnedPool
from sdic_runtime.pipeline import Pipeline


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def pool(gpu: FakeGpu) -> Iterator[PinnedPool]:
    fake: Any = gpu
    with gpu.active():
        yield PinnedPool(fake, most=4 * PAGE)


def made(pool: PinnedPool, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    array = pool.array(shape, dtype)
    assert array is not None
    return array


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_an_array_is_the_callers(pool: PinnedPool, gpu: FakeGpu) -> None:
    array = made(pool, 2, 3, 5)
    assert array.flags.writeable and array.flags.c_contiguous and (array.dtype, array.shape) == (np.float32, (2, 3, 5))
    assert address(array) in gpu.pinned
    array[...] = np.arange(30).reshape(2, 3, 5)
    copy = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(copy, array)
    assert address(copy) not in gpu.pinned
    other = made(pool, 2, 3, 5)
    other[...] = -1
    assert array.max() == 29


def test_memory_is_used_again_when_the_array_and_its_views_are_gone(pool: PinnedPool) -> None:
    array = made(pool, 4, 100)
    first, view = address(array), array[1:3].T
    buffer = memoryview(array[3])
    del array
    assert address(made(pool, 4, 100)) != first
    del view
    assert address(made(pool, 4, 100)) != first
    del buffer
    assert address(made(pool, 50, dtype=np.uint8)) == first  # by size, of whichever kind


def test_beyond_the_limit_there_is_none(pool: PinnedPool, gpu: FakeGpu) -> None:
    held = [made(pool, PAGE, dtype=np.uint8) for _ in range(4)]
    assert pool.array((1,)) is None
    held.pop()
    assert pool.array((2 * PAGE,), np.uint8) is None  # what is unused and of another size is given back, and does not suffice
    assert len(gpu.pinned) == 3
    held.pop()
    assert made(pool, 2 * PAGE, dtype=np.uint8).nbytes == sum(item.nbytes for item in gpu.pinned.values()) - 2 * PAGE
    assert pool.array((5 * PAGE,), np.uint8) is None and pool.array((0, 3)) is None


def test_what_the_driver_refuses_is_not_asked_for_again(pool: PinnedPool, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    held = made(pool, 1)
    gpu.refuse_pinned = True
    assert pool.array((PAGE,)) is None
    gpu.refuse_pinned = False
    assert pool.array((PAGE,)) is None and address(held) in gpu.pinned
    assert pool.array((PAGE // 2,)) is not None  # but less may be had


def test_arrays_outlive_the_pool(pool: PinnedPool, gpu: FakeGpu) -> None:
    array, view = made(pool, 7), made(pool, 5)[2:]
    array[...], view[...] = 3, 4
    del pool
    gc.collect()
    assert len(gpu.pinned) == 2 and array.sum() == 21 and view.sum() == 12


def test_closing_frees_what_nobody_holds_and_the_rest_when_it_is_let_go(pool: PinnedPool, gpu: FakeGpu) -> None:
    array, _ = made(pool, 7), made(pool, 8)
    del _
    array[...] = 3
    pool.close()
    assert len(gpu.pinned) == 1 and array.sum() == 21
    box = [array]
    del array
    depth, gpu.depth = gpu.depth, 0  # outside of the context
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert not gpu.pinned and gpu.depth == 0
    gpu.depth = depth


def test_arrays_may_go_in_any_thread(pool: PinnedPool, gpu: FakeGpu) -> None:
    stop = threading.Event()
    boxes: list[list[np.ndarray]] = [[] for _ in range(3)]

    def let_go(box: list[np.ndarray]) -> None:
        while not stop.is_set() or box:
            box[:1] = []

    threads = [threading.Thread(target=let_go, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    for index in range(3000):
        array = pool.array((index % 3 + 1, 1024))
        if array is not None:
            array[...] = index
            assert (array == index).all()
            boxes[index % 3].append(array)
    stop.set()
    for thread in threads:
        thread.join()
    del array
    pool.close()
    assert not gpu.pinned


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_forked_process_may_hold_is_not_used_again(pool: PinnedPool, gpu: FakeGpu) -> None:
    held, unused = made(pool, 9), made(pool, 2 * PAGE, dtype=np.uint8)
    before, free = address(held), address(unused)
    del unused
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    del held
    later = made(pool, 9)
    assert gpu.freed_pinned == [before]
    assert address(made(pool, 2 * PAGE, dtype=np.uint8)) == free
    first = address(later)
    del later
    assert address(made(pool, 9)) == first
    assert gpu.freed_pinned == [before]


@pytest.fixture
def late() -> FakeGpu:
    return FakeGpu(late=True)


@pytest.fixture
def on_gpu(tiny_bundle: Path, late: FakeGpu) -> Iterator[Pipeline]:
    with fake_cuda(late):
        yield Pipeline.load(tiny_bundle, "onnxruntime", device="cuda", threads=1, warm_up=False)


def test_a_gpu_that_is_late_gives_the_numbers_of_the_cpu(on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray) -> None:
    image = image[:1]
    for each in (image, image[..., ::-1].copy(), image):
        found, want = on_gpu.invert(each), pipeline.invert(each)
        np.testing.assert_allclose(found.pixels, want.pixels, rtol=0, atol=1e-4)
        edited, expected = on_gpu.edit(found, "smile", 2), pipeline.edit(want, "smile", 2)
        np.testing.assert_allclose(edited.pixels, expected.pixels, rtol=0, atol=1e-4)
        assert np.abs(np.asarray(found.images[0], int) - np.asarray(want.images[0], int)).max() <= 1


def test_uploads_are_not_waited_for_and_their_memory_stays_until_they_are_done(on_gpu: Pipeline, late: FakeGpu) -> None:
    backend, waits = on_gpu.backend, late.waits
    source = np.zeros((4, 100), np.float32)
    tensors = []
    for index in range(5):
        source[...] = index
        tensors.append(backend.upload(source))
    assert late.waits == waits and len(late.waiting) >= 5
    for index, tensor in enumerate(tensors):
        assert (backend.download(tensor) == index).all()
    pages = len(late.pinned)
    for _ in range(5):
        backend.upload(source)
    assert len(late.pinned) == pages


@pytest.mark.parametrize("refused", [True, False])
def test_without_page_locked_memory_everything_works_as_well(
    on_gpu: Pipeline, pipeline: Pipeline, image: np.ndarray, late: FakeGpu, refused: bool
) -> None:
    late.refuse_pinned = refused
    if not refused:
        on_gpu.backend.pinned._most = PAGE
    source = image[:1].copy()
    tensor = on_gpu.backend.upload(source)
    source[...] = 0
    np.testing.assert_array_equal(on_gpu.backend.download(tensor), image[:1])
    np.testing.assert_allclose(on_gpu.invert(image).pixels, pipeline.invert(image).pixels, rtol=0, atol=1e-4)
    assert sum(item.nbytes for item in late.pinned.values()) <= PAGE


def test_results_outlive_the_backend_and_are_not_written_over(on_gpu: Pipeline, image: np.ndarray, late: FakeGpu) -> None:
    first = on_gpu.invert(image[:1])
    pixels, images = first.pixels, first.images
    kept, shown = pixels.copy(), np.asarray(images[0]).copy()
    assert address(pixels) in late.pinned
    for _ in range(3):
        on_gpu.invert(image[:1, :, ::-1].copy()).pixels  # noqa: B018 - downloads it
    on_gpu.close()
    np.testing.assert_array_equal(pixels, kept)
    np.testing.assert_array_equal(images[0], shown)
    pixels += 1
    assert list(late.pinned) == [address(pixels)]
    del first, pixels
    gc.collect()
    assert not late.pinned


def test_a_picture_as_bytes_is_one_wait(on_gpu: Pipeline, image: np.ndarray, late: FakeGpu) -> None:
    picture = on_gpu.invert(image).tensors["picture"].on(on_gpu.backend)
    waits = late.waits
    assert on_gpu.backend.to_bytes(picture, (0, on_gpu.sizes["R"])).dtype == np.uint8
    assert late.waits == waits + 1


def test_the_gpu_memory_that_was_taken(on_gpu: Pipeline, image: np.ndarray, late: FakeGpu) -> None:
    assert on_gpu.backend.gpu_memory == 0
    on_gpu.invert(image)
    taken = on_gpu.backend.gpu_memory
    assert taken == sum(item.nbytes for item in late.buffers.values()) > 0
    late.total += 2 * taken  # as if another program gave memory back
    assert on_gpu.backend.gpu_memory == 0


def test_arrays_that_are_held_at_the_end_do_not_disturb_it() -> None:
    lines = (
        "from fake_gpu import FakeGpu",
        "from sdic_runtime.backends.cuda.pinned import PinnedPool",
        "gpu = FakeGpu()",
        "gpu.free_host = lambda address: print('freed')",
        "pools = [PinnedPool(gpu) for _ in range(2)]",
        "with gpu.active():",
        "    arrays = [pool.array((5,)) for pool in pools]",
        "    pools[0].close()",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
