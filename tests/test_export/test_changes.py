"""A finished bundle that several commands change, or that one of them leaves in the middle."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_export import reduced
from sdic_export.changes import LOCK, changing
from sdic_export.directions.bundle import add_directions, remove_directions
from sdic_export.half.stages import HalfProgress, add_precision
from sdic_runtime import files
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.edits import Direction
from sdic_runtime.errors import BundleError, FileError, SdicError

LAST = "checking the whole chain"  # what `half` says last


@pytest.fixture
def bundle(built: Any, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(built.folder, tmp_path / "bundle"))
    add_directions(folder, partial(named, "old"))
    return folder


def named(name: str, manifest: Any) -> dict[str, Any]:
    return {name: Direction(np.ones(manifest.sizes["C"]), name, "made")}


def at_the_end(act: Callable[[], object]) -> HalfProgress:
    """Progress that does something while `half` has written everything but the manifest."""
    return HalfProgress(begin=lambda what: act() if what.startswith(LAST) else None)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != Path(LOCK).name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_directions_may_change_while_half_works(bundle: Path) -> None:
    def act() -> None:
        add_directions(bundle, partial(named, "new"))
        remove_directions(bundle, ["old"])

    add_precision(bundle, progress=at_the_end(act))
    opened = Bundle.open(bundle)
    opened.check()
    assert set(opened.manifest.directions) == {"new"} and opened.manifest.precisions == ["fp16", "fp32"]


def test_directions_may_change_while_bfloat16_is_measured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdic_runtime.backends.registry import load_backend

    def load(opened: Bundle, precision: str) -> Any:
        add_directions(bundle, partial(named, "new"))
        remove_directions(bundle, ["old"])
        return load_backend("onnxruntime", opened, threads=1)

    monkeypatch.setattr(reduced, "require_bf16", lambda: None)
    monkeypatch.setattr(reduced, "load", load)
    reduced.record_cost(bundle)
    opened = Bundle.open(bundle)
    opened.check()
    assert set(opened.manifest.directions) == {"new"} and "bf16" in opened.manifest.tolerances


def test_of_two_at_once_the_second_leaves_what_the_first_made(bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"^{bundle} already has fp16 graphs in .*; build the bundle again to replace them$"):
        add_precision(bundle, progress=at_the_end(lambda: add_precision(bundle)))
    opened = Bundle.open(bundle)
    opened.check()
    assert opened.manifest.precisions == ["fp16", "fp32"] and sorted(path.name for path in (bundle / "onnx").iterdir()) == ["fp16", "fp32"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_disk_that_fails_behind_the_new_manifest_leaves_what_it_lists(
    bundle: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        if path == bundle:
            raise error

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises((FileError, KeyboardInterrupt)):
        add_precision(bundle)
    opened = Bundle.open(bundle)
    opened.check()
    assert opened.manifest.precisions == ["fp16", "fp32"]


def test_a_failure_before_the_new_manifest_leaves_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle)

    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdic_export.changes.write_manifest", fail)
    with pytest.raises(FileError, match="cannot write into .*: no space left on device"):
        add_precision(bundle)
    assert contents(bundle) == before and [path.name for path in (bundle / "onnx").iterdir()] == ["fp32"]


def _killed(folder: Path) -> None:
    add_precision(folder, progress=at_the_end(lambda: os._exit(9)))


def test_what_a_killed_half_left_is_no_obstacle(bundle: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(bundle,))
    process.start()
    process.join()
    assert process.exitcode == 9 and len(list((bundle / "onnx").iterdir())) == 2
    left = bundle / "onnx/fp16"  # as one that died between the graphs and the manifest leaves it
    left.mkdir()
    for name in ("e4e.onnx", "e4e.onnx.data", "former.onnx"):
        (left / name).write_bytes(b"half a graph")
    add_precision(bundle)
    Bundle.open(bundle).check()
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["fp16", "fp32"] and not (left / "former.onnx").exists()


def test_files_of_others_are_no_leftovers(bundle: Path) -> None:
    mine = bundle / "onnx/fp16/notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(BundleError, match=f"^the fp16 graphs have no place: {mine} is something else; move it away$"):
        add_precision(bundle)
    assert mine.read_text() == "mine"


def test_a_model_that_was_built_anew_meanwhile_is_left_alone(bundle: Path) -> None:
    seen = msgspec.structs.replace(Bundle.open(bundle).manifest, method="other")
    with pytest.raises(SdicError, match="has become another model in the meantime; start again$"), changing(bundle, seen):
        pytest.fail("it went on")
