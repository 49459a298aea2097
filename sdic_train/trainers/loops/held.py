"""A run's folder belongs to one training at a time: two would mix their states and their logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdic_runtime.errors import FileError

if TYPE_CHECKING:
    from sdic_train.trainers.compute import Compute

LOCK = ".sdic-train.lock"


@contextmanager
def held(folder: Path, compute: Compute) -> Iterator[None]:
    """Keep other trainings out of `folder`, which is made, for the length of the block. The processes of one run share it: the first holds
    it for all. The system lets go of it however that process ends. Raises FileError, in all processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until_end:
        compute.alone(_hold, folder, until_end)
        compute.wait()
        yield


def _hold(folder: Path, until_end: ExitStack) -> None:
    from filelock import FileLock, SoftFileLock, Timeout

    if FileLock is SoftFileLock:  # what takes the place of locks where there are none: a file that stays when its process is killed
        return
    try:
        until_end.enter_context(_firm(FileLock, folder / LOCK).acquire(timeout=0))
    except Timeout:
        raise FileError(f"another training works in {folder}; wait for it to end, or choose another folder with --out") from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks; where nothing can be written, the run's own files say so


def _firm(kind: Any, path: Path) -> Any:
    """A lock of `kind` that is none where the file system has none; later versions of filelock would write a file that stays."""
    option = "fallback_to_soft"
    return kind(path, **{option: False} if option in signature(kind.__init__).parameters else {})
