"""The TensorRT backend on a fake GPU: host memory for device memory, ONNX Runtime for engines, a list of calls for a CUDA graph."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_engines import ALONE, inverted, opened
from fake_gpu import FakeLibrary

from sdic_runtime.backends.cuda.tensors import ALIGNMENT, DeviceTensor
from sdic_runtime.backends.onnxruntime import OnnxRuntime
from sdic_runtime.backends.tensorrt.backend import TensorRt
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, SdicError
from sdic_runtime.pictures import to_bytes
from sdic_runtime.pipeline import Pipeline


def arrays(backend: Any, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: backend.download(tensor) for name, tensor in tensors.items()}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], within: float = 0.0) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=within, err_msg=name)


def test_a_program_runs_on_the_device_and_gives_what_the_host_gives(
    bundle: Bundle, library: FakeLibrary, host: OnnxRuntime, image: np.ndarray
) -> None:
    backend = opened(bundle, library, graphs=False)
    found = inverted(backend, image)
    assert all(isinstance(tensor, DeviceTensor) for tensor in found.values())
    same(arrays(backend, found), inverted(host, image))
    assert library.gpu.launches == 0
    assert "no CUDA graphs: they were switched off" in backend.description


def test_a_program_is_captured_once_and_replayed(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    first = inverted(backend, image[:1])
    assert library.gpu.launches == 1
    library.enqueued.clear()
    other = inverted(backend, image[1:2])
    assert library.gpu.launches == 2
    assert library.enqueued.count("e4e") == 1
    same(arrays(backend, first), inverted(host, image[:1]))  # the second run left the results of the first alone
    same(arrays(backend, other), inverted(host, image[1:2]))
    assert backend.graph_obstacle is None
    assert ", CUDA graphs, " in backend.description


def test_steps_of_a_stage_are_one_batch_where_the_engines_take_it(bundle: Bundle, host: OnnxRuntime, gpu: Any, image: np.ndarray) -> None:
    kept = inverted(host, image[:1])
    given = {**kept, "latent_enhanced": kept["latent_enhanced"] + np.float32(0.5)}
    expected = host.run_program("edit", {name: given[name] for name in host.method.programs["edit"].takes})
    for largest, heads in ((4, ["generator_head"]), (1, ["generator_head", ALONE])):
        library = FakeLibrary(host, gpu, largest=largest)
        backend = opened(bundle, library, graphs=False)
        backend.largest_batch = largest
        found = backend.run_program("edit", {name: backend.upload(given[name]) for name in backend.method.programs["edit"].takes})
        assert sorted(name for name in library.enqueued if name.startswith("generator_head")) == heads
        same(arrays(backend, found), expected, 1e-5)


def test_replays_allocate_nothing_new(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    def once() -> None:
        backend.download(inverted(backend, image[:1])["picture"])

    once()
    once()
    before = library.gpu.allocations
    for _ in range(5):
        once()
    assert library.gpu.allocations == before


def test_each_batch_has_a_graph_and_contexts_of_its_own(
    backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray
) -> None:
    for batch in (1, 3, 1, 3):
        same(arrays(backend, inverted(backend, image[:batch])), inverted(host, image[:batch]))
    assert library.contexts == 2 * len(library.graphs)
    assert len(library.workspaces) == 1  # one for all engines


def test_edits_are_captured_per_program(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    tensors, on_host = inverted(backend, image[:1]), inverted(host, image[:1])
    before = library.gpu.launches
    for program in ("edit", "edit_released", "edit"):
        found = backend.run_program(program, tensors)
        same(arrays(backend, found), host.run_program(program, on_host), within=1e-6)  # two codes are one batch
    assert library.gpu.launches == before + 3
    assert {key[0] for key in backend._captured} == {"invert", "edit", "edit_released"}


def test_one_output_has_an_engine_of_its_own(backend: TensorRt, host: OnnxRuntime, library: FakeLibrary, image: np.ndarray) -> None:
    latent = host.run("e4e", {"image": image}, ["latent"])["latent"]
    for outputs, graph in ((["rgb"], ALONE), (["feature"], "generator_head"), (["feature", "rgb"], "generator_head")):
        assert backend.variant("generator_head", outputs) == (graph, "fp32")
        found = backend.run("generator_head", {"latent": backend.upload(latent)}, outputs)
        assert library.enqueued[-1] == graph
        same(arrays(backend, found), host.run("generator_head", {"latent": latent}, outputs))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda library: setattr(library, "capturable", False), 'TensorRT cannot capture the stage "e4e"'),
        (lambda library: setattr(library.gpu, "break_captures", True), "the capture broke: the driver refused it"),
        (
            lambda library: setattr(library.gpu, "graphs", None),
            'pycuda has no stream capture and the package "cuda-bindings" is not installed',
        ),
    ],
)
def test_without_capture_the_reason_is_named_and_the_numbers_are_the_same(
    bundle: Bundle, library: FakeLibrary, host: OnnxRuntime, image: np.ndarray, spoil: Callable[[Any], None], reason: str
) -> None:
    spoil(library)
    backend = opened(bundle, library)
    same(arrays(backend, inverted(backend, image)), inverted(host, image))
    assert backend.graph_obstacle == reason
    assert f"no CUDA graphs: {reason}" in backend.description
    assert library.gpu.launches == 0


def test_a_part_of_a_tensor_lies_where_the_tensor_lies_and_keeps_it(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    whole = backend.upload(image)
    part = backend.slice(whole, slice(1, 3))
    assert part is not None
    assert (part.address, part.shape) == (whole.address + image[0].nbytes, image[1:3].shape)
    again = backend.slice(part, slice(-1, None))
    assert again is not None
    del whole, part
    gc.collect()
    backend.upload(np.zeros_like(image))  # would take the memory that nobody holds
    np.testing.assert_array_equal(backend.download(again), image[2:])
    assert backend.slice(again, slice(5, 9)).shape == (0, *image.shape[1:])  # type: ignore[union-attr]
    assert backend.slice(again, slice(None, None, 2)) is None


def test_pictures_of_an_inversion_stay_on_the_device(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline
) -> None:
    on_gpu = Pipeline(bundle, backend)
    inversion, expected = on_gpu.invert(image), pipeline.invert(image)
    found = np.concatenate([backend.download(item.tensors["picture"].on(backend)) for item in inversion])
    np.testing.assert_array_equal(found, expected.pixels)
    whole = inversion.tensors["picture"].on(backend)
    assert [item.tensors["picture"].on(backend).keeps for item in inversion] == [whole] * 3


def test_a_part_that_is_not_aligned_is_copied_for_the_engine(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    shape = (1, image[0].size + 1)
    room = backend.upload(np.concatenate([np.zeros(1, np.float32), image[0].ravel()]).reshape(shape))
    part = room.part(0, 1)
    part.address, part.shape = room.address + 4, image[:1].shape
    assert part.address % ALIGNMENT
    found = backend.run("e4e", {"image": part}, ["latent"])["latent"]
    np.testing.assert_array_equal(backend.download(found), host.run("e4e", {"image": image[:1]}, ["latent"])["latent"])


def test_the_pipeline_uses_whole_graphs(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline
) -> None:
    on_gpu = Pipeline(bundle, backend)
    inversion, expected = on_gpu.invert(image[:1]), pipeline.invert(image[:1])
    np.testing.assert_array_equal(inversion.pixels, expected.pixels)
    edited = on_gpu.edit(inversion, "smile", [0.0, 2.0])
    np.testing.assert_array_equal(edited.pixels, pipeline.edit(expected, "smile", [0.0, 2.0]).pixels)
    assert library.gpu.launches == 2
    assert library.enqueued.count("e4e") == 2  # once to warm up, once by the graph, and not for the edit


def test_without_a_batch_size_the_pipeline_keeps_within_the_profile(bundle: Bundle, backend: TensorRt, image: np.ndarray) -> None:
    on_gpu = Pipeline(bundle, backend)
    assert on_gpu.default_batch == 4
    assert len(on_gpu.invert(np.repeat(image, 2, 0))) == 6  # in a batch of 4 and one of 2


def test_pictures_become_bytes_on_the_device(
    bundle: Bundle, backend: TensorRt, library: FakeLibrary, image: np.ndarray, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inversion, expected = Pipeline(bundle, backend).invert(image[:2]), pipeline.invert(image[:2])
    downloads: list[tuple[int, ...]] = []
    to_host, waits = library.gpu.to_host, library.gpu.waits
    monkeypatch.setattr(library.gpu, "to_host", lambda array, *words: downloads.append(array.shape) or to_host(array, *words))
    for ours, theirs in zip(inversion.images, expected.images, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    side = bundle.manifest.sizes["R"]
    assert downloads == [(2, side, side, 3), (2,)] and library.gpu.waits == waits + 1  # no floats of the picture
    assert library.enqueued[-1] == "to_bytes"


def test_a_picture_with_nan_is_refused_as_on_the_host(backend: TensorRt) -> None:
    picture = np.zeros(backend.method.shape("picture", 1), np.float32)
    picture[0, 1, 5, 7] = np.nan
    with pytest.raises(SdicError, match="^the generated picture holds NaN or infinite values"):
        backend.to_bytes(backend.upload(picture), backend.bundle.manifest.visible_rows)


def test_rows_that_nobody_sees_become_bytes_on_the_host(backend: TensorRt, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "visible_rows", (4, 9))
    picture = np.random.default_rng(0).normal(0, 1, backend.method.shape("picture", 1)).astype(np.float32)
    np.testing.assert_array_equal(backend.to_bytes(backend.upload(picture), (3, 9)), to_bytes(picture, (3, 9)))
    assert "to_bytes" not in library.enqueued


def test_four_threads_share_it(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    expected = [inverted(host, image[index : index + 1])["picture"] for index in range(3)]
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(4):
            found = inverted(backend, image[index : index + 1])
            if not np.array_equal(backend.download(found["picture"]), expected[index]):
                failures.append(str(index))

    threads = [threading.Thread(target=work, args=(index % 3,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closing_gives_all_memory_back(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    backend.warm_up(1)
    assert library.gpu.buffers
    backend.close()
    assert not library.gpu.buffers


def test_warm_up_captures_an_inversion_and_the_default_edits(backend: TensorRt, library: FakeLibrary, image: np.ndarray) -> None:
    backend.warm_up(2)
    assert {key[0] for key in backend._captured} == {"invert", "edit"}
    library.gpu.allocations = library.gpu.launches = 0
    inverted(backend, image[:2])
    assert (library.gpu.allocations, library.gpu.launches) == (0, 1)


def test_warm_up_runs_what_the_manifest_says(bundle: Bundle, library: FakeLibrary, change: Callable[..., Path]) -> None:
    moves = bundle.manifest.moves
    ganspace = msgspec.structs.replace(moves["released"], kinds=("ganspace",))
    change(bundle.path, moves={"some": msgspec.structs.replace(moves["paper"], kinds=("direction",)), "other": ganspace})
    backend = opened(Bundle.open(bundle.path), library)
    backend.warm_up(1)
    assert {key[0] for key in backend._captured} == {"invert", "edit", "edit_released"}
    change(bundle.path, moves={})
    backend = opened(Bundle.open(bundle.path), library)
    backend.warm_up(1)
    assert {key[0] for key in backend._captured} == {"invert"}


def test_a_wait_reaches_the_gpu(backend: TensorRt, library: FakeLibrary) -> None:
    before = library.gpu.waits
    backend.synchronize()
    assert library.gpu.waits == before + 1


def test_tensors_leave_and_come_by_dlpack_without_a_copy(backend: TensorRt) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = backend.upload(array)
    seen = np.from_dlpack(tensor)
    np.testing.assert_array_equal(seen, array)
    assert seen.ctypes.data == tensor.address


def test_a_borrowed_tensor_is_used_where_it_lies(backend: TensorRt, host: OnnxRuntime, image: np.ndarray) -> None:
    class Foreign:
        """A tensor of another library."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    source = image.copy()
    tensor = backend.upload(Foreign(source))
    assert tensor.address == source.ctypes.data
    found = backend.run("e4e", {"image": tensor}, ["latent"])["latent"]
    np.testing.assert_array_equal(backend.download(found), host.run("e4e", {"image": image}, ["latent"])["latent"])
    with pytest.raises(ArgumentError, match="^the tensor is float64; give float32$"):
        backend.upload(Foreign(source.astype(np.float64)))
