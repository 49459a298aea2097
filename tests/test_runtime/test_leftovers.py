"""What processes that died left behind is removed, and what living ones work on is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdic_runtime import leftovers
from sdic_runtime.files import replacing

pytestmark = pytest.mark.skipif(leftovers.fcntl is None, reason="no locks on files")

PROGRAM = """
import sys, time
from pathlib import Path
from sdic_runtime.leftovers import held
def make(path):
    path.mkdir() if sys.argv[2] == "folder" else path.touch()
with held(Path(sys.argv[1]), make) as path:
    if sys.argv[2] == "folder":
        (path / "part").write_text("half")
    print(path.name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(folder: Path, kind: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a temporary file or folder, and its path."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, folder / process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_swept", set())


def write(path: Path) -> None:
    """The next run."""
    leftovers._swept.clear()
    with replacing(path) as temporary:
        temporary.write_text("new")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_go_when_their_process_is_dead_and_not_before(kind: str, tmp_path: Path) -> None:
    with other_process(tmp_path, kind) as (process, path):
        write(tmp_path / "a")
        assert path.exists() and leftovers.is_temporary(path.name)
        process.kill()
        process.wait()
        assert path.exists()
        write(tmp_path / "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_other_machines_and_other_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = leftovers.marks()
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "marks", lambda: {"host": "0" * 8, "boot": "1" * 8})
        foreign = leftovers.new_name()
        patch.setattr(leftovers, "marks", lambda: {"host": here["host"], "boot": "1" * 8})
        earlier_boot = leftovers.new_name()
        patch.setattr(leftovers, "marks", lambda: {"host": "0" * 8, "boot": here["boot"]})
        container = leftovers.new_name()
    kept = [foreign, ".x.tmp", ".0123abcd.tmp", "a.tmp"]
    for name in (*kept, earlier_boot, container):
        (tmp_path / name).touch()
    write(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "b"])
    leftovers.remove_dead(tmp_path, others=True)
    assert not (tmp_path / foreign).exists() and (tmp_path / ".x.tmp").exists()


@pytest.mark.parametrize("name", [".0123abcd.tmp", ".draft.20240131.tmp", ".download-complete"])
def test_names_that_are_only_like_those_of_leftovers_stay_however_old(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("mine")
    os.utime(path, (0, 0))
    write(tmp_path / "b")
    leftovers.remove_dead(tmp_path, others=True)
    assert path.read_text() == "mine"


def test_a_link_with_the_name_of_a_leftover_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    (tmp_path / leftovers.new_name()).symlink_to("mine")
    (tmp_path / leftovers.new_name()).symlink_to("mine/file")
    os.mkfifo(tmp_path / leftovers.new_name())
    write(tmp_path / "b")
    assert (tmp_path / "mine/file").read_text() == "precious"


def test_an_entry_taken_for_a_leftover_before_it_was_locked_is_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        path.touch()
        made.append(path)
        if len(made) == 1:
            leftovers.remove_dead(tmp_path)
            assert not path.exists()

    with leftovers.held(tmp_path, make) as path:
        assert path.exists() and path == made[1]
    assert list(tmp_path.iterdir()) == []
