"""Files of bundles that libsdic refuses with a sentence about the subject, as Python does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_refusals import BUNDLE, RUN, black, change_manifest, set_key

from sdic_runtime import Bundle, Pipeline


def test_a_graph_reads_listed_weights_and_runs_known_operators(library: Any, refused: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The same bundles as in tests/fuzz, refused by both with the same words."""
    from fuzz.seeds import endless, make_copy, reading

    for index, location in enumerate(("w.data", "../../../w.data", str(tmp_path / "w.data"))):
        (tmp_path / str(index)).mkdir()
        reading(folder := make_copy(tmp_path / str(index)), location)
        python = lambda folder=folder: Bundle.open(folder).check()  # noqa: E731
        refused(BUNDLE, lambda folder=folder: library.open(folder), f'reads "{location}", which the bundle does not list', python=python)
    (tmp_path / "loop").mkdir()
    folder = endless(make_copy(tmp_path / "loop"))
    refused(BUNDLE, lambda: library.open(folder), "runs Loop", "SDIC_TRUST=1", python=lambda: Bundle.open(folder).check())
    monkeypatch.setenv("SDIC_TRUST", "1")
    library.open(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("name", ["bundle.json", "onnx/fp32/dipn.onnx"])
def test_a_pipe_in_a_bundle(library: Any, refused: Any, make_bundle: Callable[..., Path], name: str) -> None:
    folder = make_bundle()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(BUNDLE, lambda: library.open(folder), "it is no regular file", python=lambda: Bundle.open(folder).check())


def test_a_sentence_is_short_and_printable(library: Any, refused: Any, tmp_path: Path) -> None:
    said = refused(BUNDLE, lambda: library.open(tmp_path / ("\x1b[31m\n" + "ä" * 3000)), "there is no bundle at", "build it with")
    assert len(said.encode()) <= 400 and said.isprintable()


def damage(kind: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    actions: dict[str, Callable[[], Any]] = {
        "flipped": lambda: path.write_bytes(content),
        "short": lambda: path.write_bytes(content[:-5]),
        "empty": lambda: path.write_bytes(b""),
        "missing": path.unlink,
    }
    actions[kind]()


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "missing"])
def test_a_damaged_file(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any, kind: str) -> None:
    def graph(folder: Path) -> Path:
        return folder / "onnx/fp32/dicn.onnx"

    def optimized(folder: Path) -> Path:
        return Path(tiny.add_cpu_graph(folder, "dipn", half=3))

    def alone(folder: Path) -> Path:
        return Path(tiny.add_cpu_graph(folder, "generator_head:rgb", rm=2))

    for place in (graph, optimized, alone):
        folder = make_bundle(place.__name__)
        damage(kind, path := place(folder))
        refused(BUNDLE, lambda folder=folder: library.open(folder), path, python=lambda folder=folder: Pipeline.load(folder, "onnxruntime"))
    folder = make_bundle("directions")
    damage(kind, folder / "directions/smile.safetensors")
    native, python = library.open(folder), Pipeline.load(folder, "onnxruntime", threads=1)
    ours, theirs = native.invert(black(4, 4, 3)), python.invert(black(4, 4, 3))
    refused(BUNDLE, lambda: native.edit(ours, "smile"), "smile.safetensors", python=lambda: python.edit(theirs, "smile"))
    refused(BUNDLE, lambda: native.direction("smile"), "smile.safetensors")


def test_a_graph_of_more_outputs_than_the_one_it_is_for(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("graphs", "generator_head:rgb", {"fp32": ["onnx/fp32/generator_head.onnx"]}))
    refused(BUNDLE, lambda: library.open(folder), f"{folder}/onnx/fp32/generator_head.onnx", "feature", "rgb")


def test_a_graph_of_another_size(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    change_manifest(folder, set_key("sizes", "K", 5))
    refused(BUNDLE, lambda: library.open(folder), "feature", 64, python=lambda: Pipeline.load(folder, "onnxruntime"))


@pytest.mark.parametrize(
    ("rows", "batch"), [(((0, 64), (64, 127)), 1), (((0, 65), (64, 128)), 1), (((0, 64), (64, 128)), 2), (((0, 64), (64, 128)), "N")]
)
def test_graphs_that_are_not_bands_of_the_stage(
    library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any, rows: Any, batch: int | str
) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", rows, batch)
    python = lambda: Pipeline.load(folder, "onnxruntime", threads=1)  # noqa: E731
    refused(BUNDLE, lambda: library.open(folder), "generator_tail", "picture" if batch == 1 else "feature", python=python)


def test_a_band_that_fails(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    tiny.add_bands(folder, "generator_tail", ((0, 64), (64, 128)))
    tiny.break_band(folder, "generator_tail", 1)
    native, picture, python = library.open(folder, threads=2), black(64, 64, 3), Pipeline.load(folder, "onnxruntime", threads=2)
    refused(RUN, lambda: native.invert(picture), "generator_tail", "Gather", folder, python=lambda: python.invert(picture))


def test_hashes_are_not_compared_when_asked(library: Any, refused: Any, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    path = folder / "onnx/fp32/dicn.onnx"
    path.write_bytes(path.read_bytes().replace(b"dicn", b"DICN"))  # the name of the graph
    refused(BUNDLE, lambda: library.open(folder), path, "SHA-256")
    assert library.open(folder, verify=0).info().name == b"tiny"


def test_a_graph_that_is_not_the_stage(library: Any, refused: Any, make_bundle: Callable[..., Path], tiny: Any) -> None:
    folder = make_bundle()
    shutil.copy(folder / "onnx/fp32/e4e.onnx", folder / "onnx/fp32/dipn.onnx")
    tiny.change_manifest(folder, ["onnx/fp32/dipn.onnx"])
    refused(BUNDLE, lambda: library.open(folder), "dipn", "reconstruction", python=lambda: Pipeline.load(folder, "onnxruntime"))
    folder = make_bundle("text")
    (folder / "onnx/fp32/e4e.onnx").write_text("not a graph")
    tiny.change_manifest(folder, ["onnx/fp32/e4e.onnx"])
    refused(
        BUNDLE,
        lambda: library.open(folder),
        f"{folder}/onnx/fp32/e4e.onnx",
        "is no ONNX file",
        python=lambda: Pipeline.load(folder, "onnxruntime"),
    )
