"""Hashes that need not be computed again: of files that had them before and have not changed since, and of no others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sdic_runtime.bundle import bundle as bundles
from sdic_runtime.bundle import unchanged
from sdic_runtime.bundle.bundle import Bundle
from sdic_runtime.errors import BundleError
from sdic_runtime.files import sha256

NAME = "onnx/fp32/dipn.onnx"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The files whose hash is computed, by name. Every file counts as settled, and nothing is remembered yet."""
    computed: list[str] = []

    def counting(path: Path) -> str:
        computed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(bundles, "sha256", counting)
    monkeypatch.setattr(unchanged, "SETTLED", -(10**18))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return computed


@pytest.fixture
def folder(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle()


def test_a_file_that_did_not_change_is_not_hashed_again(folder: Path, hashed: list[str]) -> None:
    Bundle.open(folder, remember=True).check()
    files = Bundle.open(folder).manifest.files
    assert len(hashed) == len(files)
    hashed.clear()
    Bundle.open(folder, remember=True).check()
    assert not hashed
    Bundle.open(folder).check()  # as everything does that does not say "remember"
    assert len(hashed) == len(files)


@pytest.mark.parametrize("same_time", [False, True])
def test_a_changed_file_of_the_same_size_is_found(folder: Path, hashed: list[str], same_time: bool) -> None:
    Bundle.open(folder, remember=True).check()
    path = folder / NAME
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.02)
    path.write_bytes(content)
    if same_time:  # the time of the last change of the inode cannot be set
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="is damaged: its SHA-256 is not the one in"):
        Bundle.open(folder, remember=True).check()


def test_another_file_in_its_place_is_hashed(folder: Path, hashed: list[str]) -> None:
    Bundle.open(folder, remember=True).check()
    hashed.clear()
    path = folder / NAME
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    Bundle.open(folder, remember=True).check()
    assert hashed == [path.name]


def test_what_changed_just_now_may_change_again_within_the_same_tick(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "SETTLED", 10**18)
    for _ in range(2):
        Bundle.open(folder, remember=True).check()
    assert len(hashed) == 2 * len(Bundle.open(folder).manifest.files)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_as_none(folder: Path, hashed: list[str], tmp_path: Path, content: bytes) -> None:
    Bundle.open(folder, remember=True).check()
    (record,) = (tmp_path / "state/sdic/checked").iterdir()
    record.write_bytes(content)
    hashed.clear()
    Bundle.open(folder, remember=True).check()
    assert len(hashed) == len(Bundle.open(folder).manifest.files)


def test_without_a_place_for_the_record_hashes_are_computed(
    folder: Path, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        Bundle.open(folder, remember=True).check()
    assert len(hashed) == 2 * len(Bundle.open(folder).manifest.files)


def test_a_wrong_hash_is_never_remembered(folder: Path, hashed: list[str]) -> None:
    path = folder / NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(BundleError, match="is damaged"):
            Bundle.open(folder, remember=True).check([NAME])
    assert hashed == [path.name] * 2
