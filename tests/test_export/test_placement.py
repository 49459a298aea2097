"""Bundles appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdic_export.placement import check_place, placed_folder
from sdic_runtime.errors import SdicError


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
    (target / "extra").write_text("old")
    with pytest.raises(SdicError, match=r"there is already a bundle at .*bundle; replace it with --force or name another folder"):
        check_place(target, force=False)
    with placed_folder(target, force=True) as folder:
        (folder / "bundle.json").write_text("new")
        assert (target / "bundle.json").read_text() == "old"
    assert names(target) == ["bundle.json"] and (target / "bundle.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


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
