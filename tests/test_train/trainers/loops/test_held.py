"""Only one training at a time works in a run's folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdic_runtime.errors import FileError
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.loops.fill import FillOptions, fill
from sdic_train.trainers.loops.held import LOCK, held
from sdic_train.trainers.loops.run import LOG, RECIPE, STATE, RunOptions, read_log, train
from sdic_train.trainers.reader import ReaderRecipe, ReaderTrainer

REFUSED = "^another training works in .*run; wait for it to end, or choose another folder with --out$"
HOLDER = """
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from sdic_train.trainers.loops.held import held
with held(Path(sys.argv[1]), SimpleNamespace(alone=lambda work, *given: work(*given), wait=lambda: None)):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def reading(portraits: PictureSet, make_compute: Callable[..., Any]) -> Callable[[], ReaderTrainer]:
    return lambda: ReaderTrainer(ReaderRecipe(decay=0.0), portraits, make_compute(2), 2)


def process(main: bool) -> Any:
    """What `held` uses of a `Compute`."""
    return SimpleNamespace(alone=lambda work, *given: work(*given) if main else None, wait=lambda: None)


def test_a_second_training_in_a_folder_is_refused_and_leaves_it_as_it_is(reading: Callable[[], ReaderTrainer], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(reading(), RunOptions(folder, 1))
    before = {name: (folder / name).read_bytes() for name in (RECIPE, STATE, LOG)}
    with held(folder, process(main=True)):
        for again in (True, False):
            with pytest.raises(FileError, match=REFUSED):
                train(reading(), RunOptions(folder, 2, resume=again))
            with pytest.raises(FileError, match=REFUSED):
                fill(reading(), FillOptions(folder, time.time() + 9, resume=again))
        assert {name: (folder / name).read_bytes() for name in before} == before
    train(reading(), RunOptions(folder, 2))
    assert len(read_log(folder / LOG)["parameters"]) == 2


def test_of_several_processes_the_first_alone_holds_the_folder(tmp_path: Path) -> None:
    with held(tmp_path, process(main=False)), held(tmp_path, process(main=True)), held(tmp_path, process(main=False)):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that inherit")
def test_a_run_that_was_killed_goes_on_although_a_child_of_it_lives(reading: Callable[[], ReaderTrainer], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(FileError, match=REFUSED):
            train(reading(), RunOptions(folder, 1))
        holder.kill()
        holder.wait()
        assert (folder / LOCK).exists()
        train(reading(), RunOptions(folder, 1))
        os.kill(child, 0)  # it lived all the time
    finally:
        holder.kill()
        holder.wait()
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_platform_without_locks_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    with held(tmp_path, process(main=True)):
        assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
def test_a_file_system_without_locks_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def broken(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", broken)
    with held(tmp_path, process(main=True)), held(tmp_path, process(main=True)):
        assert not any(path.read_bytes() for path in tmp_path.iterdir())
