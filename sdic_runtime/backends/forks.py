"""What a process that forked off needs: libraries whose threads are not there any more must neither be used nor be waited for."""

from __future__ import annotations

import ctypes
import os
import weakref
from contextlib import suppress
from typing import Any, Protocol


class Forked(Protocol):
    """A backend that lets go of what belongs to threads."""

    def after_fork(self) -> None:
        """Forget sessions and locks, and load anew when asked."""


_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def register(backend: Forked) -> None:
    """Have `backend.after_fork` called in every process that forks off from here."""
    _alive.add(backend)


def leave(*things: Any) -> None:
    """Never end these objects: their ends would wait for threads that a fork did not bring along."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(things))


def _after_fork() -> None:
    if not _alive:
        return
    with suppress(AttributeError, OSError):  # not every C library has it
        library = ctypes.CDLL(None)
        library.on_exit(library._exit, None)  # called first with the exit status: handlers of inference libraries wait for their threads
    for backend in list(_alive):
        backend.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
