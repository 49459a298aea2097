"""What libsdic tells, and its handles: threads, errors, memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from native_library import DirectionInfo, EditParams, EditPart, Extra, Image, Info, OpenParams, View
from native_pictures import DIRECTIONS, LETTERS, MOVES, PROGRAMS, TENSORS, THIRDS, assert_same_pictures, draw

from sdic_runtime import Pipeline, __version__
from sdic_runtime.bundle.manifest import first_schema


def test_version_and_info(library: Any, native: Any, python: Pipeline) -> None:
    assert library.raw.sdic_version().decode() == __version__
    info = native.info()
    assert (info.name, info.domain, info.licence) == (b"tiny", b"test", b"none")
    assert info.description.decode() == python.backend.description
    assert (info.method, info.identity) == (b"sdic", python.model.identity.encode())
    assert (info.resolution, info.working, info.picture_width, info.picture_height) == (128, 64, 128, 128)
    manifest = python.bundle.manifest
    assert {letter: native.size(letter) for letter in native.names(LETTERS)} == manifest.sizes
    assert native.names(DIRECTIONS) == list(python.directions) and native.names(TENSORS) == list(manifest.keeps)
    assert native.names(MOVES) == list(manifest.moves) and native.names(PROGRAMS) == list(manifest.programs)
    assert native.names(LETTERS + 1) == native.names(-1) == []


def test_what_is_known_of_directions(native: Any) -> None:
    smile, age, basis = (native.direction(name) for name in ("smile", "age", "basis"))
    assert (smile.kind, smile.component_count, smile.has_range, smile.minimum, smile.maximum) == (0, 0, 1, -3, 3)
    assert (age.kind, age.has_range) == (0, 0)
    assert (basis.kind, basis.component_count, basis.has_range) == (1, 6, 0)


def test_bands_in_several_threads(library: Any, make_bundle: Callable[..., Path], tiny: Any, native: Any) -> None:
    folder, pictures = make_bundle(), [draw(64, 64, seed=seed) for seed in range(4)]
    for stage, rows in (("generator_tail", THIRDS), ("dipn", ((0, 16), (16, 64)))):
        tiny.add_bands(folder, stage, rows)
    banded = library.open(folder, threads=2)
    expected = [native.invert(picture).tensor("pixels") for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: banded.invert(pictures[index % 4]).tensor("pixels"), range(16)))
    for index, pixels in enumerate(found):
        np.testing.assert_allclose(pixels, expected[index % 4], rtol=0, atol=1e-5)


def test_strength_zero_is_the_inversion_and_one_is_the_default(native: Any, python: Pipeline) -> None:
    picture = draw(50, 50)
    inversion = native.invert(picture)
    np.testing.assert_allclose(native.edit(inversion, "smile", [0]).tensor("pixels"), inversion.tensor("pixels"), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        native.edit(inversion, "smile").tensor("picture"), native.edit(inversion, "smile", [1], "paper").tensor("picture")
    )
    assert_same_pictures(native.edit(inversion, "smile"), python.edit(python.invert(picture), "smile"))


def test_the_default_batch_is_that_of_python(library: Any, tiny_bundle: Path, native: Any, python: Pipeline) -> None:
    steps: list[str] = []
    kind = dict(type(native.params)._fields_)["progress"]
    pipeline = library.open(tiny_bundle, progress=kind(lambda stage, *_: steps.append(stage.decode()) or 0))
    steps.clear()
    pipeline.invert(*[draw(4, 4)] * (python.default_batch + 1))
    assert steps.count("dicn") == 2
    steps.clear()
    pipeline.invert(*[draw(4, 4)] * python.default_batch)
    assert steps.count("dicn") == 1


def test_names_that_are_not_utf_8_do_not_stop_saving(native: Any, library: Any, tmp_path: Path) -> None:
    picture, handle = draw(5, 5), ctypes.c_void_p()
    image = type(native).image(picture, b"caf\xe9.png")
    native.library.call("sdic_invert", native.handle, ctypes.byref(image), ctypes.c_size_t(1), ctypes.c_size_t(0), ctypes.byref(handle))
    native.result(handle).save(tmp_path / "saved")
    assert library.load(tmp_path / "saved").name(0).startswith("caf")


def test_progress_is_told_before_every_stage_and_may_stop(library: Any, tiny_bundle: Path, native: Any, refusal: Any) -> None:
    from_python: list[tuple[str, int, int]] = []
    stop_at = [10**9]

    def progress(stage: bytes, done: int, total: int, _: Any) -> int:
        from_python.append((stage.decode(), done, total))
        return int(len(from_python) > stop_at[0])

    kind = dict(type(native.params)._fields_)["progress"]
    pipeline = library.open(tiny_bundle, progress=kind(progress))
    stages = list(first_schema()["stages"])
    assert [stage for stage, _, _ in from_python] == stages
    assert [(done, total) for _, done, total in from_python] == [(done, 6) for done in range(6)]
    from_python.clear()
    inversion = pipeline.invert(draw(9, 9), draw(9, 9), batch=1)
    assert [(done, total) for _, done, total in from_python] == [(done, 14) for done in range(14)]
    assert [stage for stage, _, _ in from_python[:7]] == [*stages[:5], "generator_head", "generator_tail"]
    from_python.clear()
    stop_at[0] = 2
    status, sentence = refusal(lambda: pipeline.edit(inversion, "smile"))
    assert status == 8 and "3 of 3 (generator_tail)" in sentence


def test_the_log_tells_what_was_loaded(library: Any, tiny_bundle: Path, native: Any) -> None:
    lines: list[tuple[int, str]] = []
    kind = dict(type(native.params)._fields_)["log"]
    library.open(tiny_bundle, log=kind(lambda level, message, _: lines.append((level, message.decode()))))
    assert (1, f'loading "dicn" from {tiny_bundle}/onnx/fp32/dicn.onnx') in lines
    assert all(level == 1 for level, _ in lines), lines


def test_several_threads_may_use_one_pipeline(native: Any) -> None:
    pictures = [draw(60, 80, seed=seed) for seed in range(4)]
    expected = [native.invert(picture).pictures() for picture in pictures]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            inversion = native.invert(pictures[index])
            if not (np.array_equal(inversion.pictures(), expected[index]) and len(native.edit(inversion, "smile", [1, 2])) == 2):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_last_error_belongs_to_its_thread(library: Any, refusal: Any) -> None:
    refusal(lambda: library.open("/nowhere"))
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(library.last_error()))
    thread.start()
    thread.join()
    assert seen == [""] and library.last_error().startswith("there is no bundle at /nowhere")


def test_nothing_is_freed_twice_and_null_is_no_handle(library: Any) -> None:
    for name in ("sdic_close", "sdic_result_free"):
        getattr(library.raw, name)(None)
    assert library.raw.sdic_result_count(None) == 0
    assert library.raw.sdic_result_name(None, ctypes.c_size_t(0)) is library.raw.sdic_pipeline_name(None, 0, ctypes.c_size_t(0)) is None


def test_the_name_of_the_library_changes_with_the_sizes_of_its_structures(release_build: Path) -> None:
    """`_default` writes a whole structure: a program that was compiled with a shorter one must not get this library."""
    assert (release_build / "libsdic.so").readlink().name == "libsdic.so.1"
    described = (OpenParams, Info, DirectionInfo, Image, EditPart, Extra, EditParams, View)
    assert [ctypes.sizeof(kind) for kind in described] == [72, 72, 32, 40, 72, 32, 72, 80]


GUARD = b"\xa5" * 64  # no pointer, and no number that passes


def shortened(structure: Any, end: str) -> ctypes.Array[ctypes.c_char]:
    """The bytes of a structure before the field `end`, with its struct_size, and guards behind them."""
    structure.struct_size = getattr(type(structure), end).offset
    return ctypes.create_string_buffer(bytes(structure)[: structure.struct_size] + GUARD, structure.struct_size + len(GUARD))


def test_a_structure_filled_by_hand_may_be_shorter(library: Any, tiny_bundle: Path, native: Any) -> None:
    params = shortened(OpenParams(provider=b"cpu", threads=1, verify=1), "onnxruntime_library")
    handle = ctypes.c_void_p()
    library.call("sdic_open", str(tiny_bundle).encode(), ctypes.byref(params), ctypes.byref(handle))
    library.raw.sdic_close(handle)
    assert params.raw.endswith(GUARD)

    info = shortened(Info(), "description")
    library.call("sdic_pipeline_info", native.handle, ctypes.byref(info))
    known = Info.from_buffer_copy(info.raw)
    assert (known.name, known.struct_size) == (b"tiny", Info.description.offset) and info.raw.endswith(GUARD)

    inversion, edited = native.invert(draw(9, 9)), ctypes.c_void_p()
    part = native.part("smile")
    edit = shortened(EditParams(parts=ctypes.pointer(part), part_count=1), "extras")  # as it was before there were extras
    library.call("sdic_edit", native.handle, inversion.handle, ctypes.byref(edit), ctypes.byref(edited))
    np.testing.assert_array_equal(native.result(edited).pictures(), native.edit(inversion, "smile").pictures())
    assert edit.raw.endswith(GUARD)
