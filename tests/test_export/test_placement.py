"""Bundles appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from sdic_export import placement
from sdic_export.placement import check_place, placed_folder
from sdic_runtime import leftovers
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import ArgumentError, BundleError, SdicError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bundle_at(path: Path, content: str = "old") -> Path:
    path.mkdir(parents=True)
    (path / "bundle.json").write_text(content)
    return path


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with placed_folder(target) as folder:
        (folder / "bundle.json").write_text("new")
        assert not target.exists()
        assert folder.parent == target.parent  # the same file system, so that one rename does it
    assert (target / "bundle.json").read_text() == "new"
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SdicError("no"), MemoryError])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(BaseException) as caught, placed_folder(target) as folder:
        (folder / "part").write_text("half")
        raise error
    assert caught.value is error or caught.type is error
    assert names(tmp_path) == []


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    with placed_folder(target) as folder:
        (folder / "bundle.json").write_text("new")
    assert names(target) == ["bundle.json"]


def test_a_bundle_is_replaced_only_with_force(tmp_path: Path) -> None:
    target = bundle_at(tmp_path / "bundle")
    for name in ("onnx/fp16/left.onnx", "engines/tensorrt-1/engine.json", "engines/tensorrt-1/e4e.engine.cache", "engines/to_bytes.onnx"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("old")
    with pytest.raises(SdicError, match=r"there is already a bundle at .*bundle; replace it with --force or name another folder"):
        check_place(target, force=False)
    with placed_folder(target, force=True) as folder:
        (folder / "bundle.json").write_text("new")
        assert (target / "bundle.json").read_text() == "old"
    assert names(target) == ["bundle.json"] and (target / "bundle.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def test_files_that_no_manifest_lists_are_never_overwritten(tmp_path: Path) -> None:
    target = write_bundle(tmp_path / "bundle")
    (target / "directions/.lock").write_text("")
    check_place(target, force=True)
    mine = ["best.pt", "directions/mine.safetensors", "directions/notes.txt", "onnx/fp32/notes.txt"]
    for name in mine:
        (target / name).write_text("mine")
    told = ", ".join(mine[:3]) + " and 1 more, which the bundle there does not list; move that away or name another folder$"
    with pytest.raises(ArgumentError, match=f"^{target} also holds {told}"):
        check_place(target, force=True)
    for name in mine[1:]:
        (target / name).unlink()
    with pytest.raises(ArgumentError, match=f"^{target} also holds best.pt, which"), placed_folder(target, force=True):
        pytest.fail("work was begun")
    (target / "bundle.json").write_text("damaged")
    with pytest.raises(ArgumentError, match="also holds best.pt, directions/age.safetensors, directions/basis.safetensors and 1 more"):
        check_place(target, force=True)
    assert (target / "best.pt").read_text() == "mine"


def test_the_old_bundle_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = bundle_at(tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt), placed_folder(target, force=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["bundle"] and (target / "bundle.json").read_text() == "old"
    rename = os.rename

    def failing(source: Path, to: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, to)

    monkeypatch.setattr(placement, "exchange", lambda new, old: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(SdicError, match=r"cannot write .*bundle: no space left on device"), placed_folder(target, force=True):
        pass
    assert names(tmp_path) == ["bundle"] and (target / "bundle.json").read_text() == "old"


def test_other_folders_and_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_text("picture")
    with pytest.raises(SdicError, match=r"photos is a folder with other files in it, which are not overwritten; name a new folder"):
        check_place(tmp_path / "photos", force=True)
    with pytest.raises(SdicError, match=r"one\.png is a file; name a folder for the bundle"):
        check_place(tmp_path / "photos" / "one.png", force=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sentence = r"cannot write to .*file: not a directory; choose another place"
    with pytest.raises(SdicError, match=sentence), placed_folder(tmp_path / "file" / "bundle"):
        pass


KILLED = """
import os, sys
from pathlib import Path
from sdic_export import placement
exchange, rename, count = sys.argv[2] == "exchange", os.rename, 0
if not exchange:
    placement.exchange = lambda new, old: False
def killing(source, target):
    global count
    count += 1
    rename(source, target)
    if count == int(sys.argv[3]):
        os._exit(9)
os.rename = killing
with placement.placed_folder(Path(sys.argv[1]), force=True) as folder:
    (folder / "bundle.json").write_text("new")
    if int(sys.argv[3]) == 0:
        os._exit(9)
    if exchange:
        from sdic_runtime import leftovers
        leftovers.remove = lambda path: os._exit(9)
"""


@pytest.mark.parametrize(
    ("how", "after", "there", "content"),
    [
        ("exchange", 0, True, "old"),
        ("exchange", 1, True, "new"),
        ("renames", 0, True, "old"),
        ("renames", 1, False, "old"),
        ("renames", 2, True, "new"),
    ],
)
def test_a_kill_leaves_the_old_or_the_new_bundle_and_the_next_run_nothing_else(
    how: str, after: int, there: bool, content: str, tmp_path: Path
) -> None:
    target = bundle_at(tmp_path / "bundle")
    if how == "exchange" and not placement.exchange(bundle_at(tmp_path / "a"), bundle_at(tmp_path / "b")):
        pytest.skip("this file system cannot exchange two names")
    for name in ("a", "b"):
        leftovers.remove(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", KILLED, target, how, str(after)])
    assert done.returncode == 9 and target.exists() is there and len(names(tmp_path)) == 2
    with pytest.raises(BundleError, match="is not valid JSON"):
        Bundle.open(target)  # a reader sees the bundle, whose manifest is a word
    assert (target / "bundle.json").read_text() == content
    with placed_folder(target, force=True) as folder:
        (folder / "bundle.json").write_text("next")
    assert names(tmp_path) == ["bundle"] and names(target) == ["bundle.json"] and (target / "bundle.json").read_text() == "next"


def test_a_link_to_a_bundle_is_replaced_and_not_what_it_names(tmp_path: Path) -> None:
    bundle_at(tmp_path / "one")
    (tmp_path / "current").symlink_to("one")
    with placed_folder(tmp_path / "current", force=True) as folder:
        (folder / "bundle.json").write_text("new")
    assert names(tmp_path) == ["current", "one"] and (tmp_path / "one/bundle.json").read_text() == "old"
