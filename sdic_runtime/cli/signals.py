"""Signals that ask a command to end: it ends as after Ctrl-C, and nothing half-done is left."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

SIGNALS = ("SIGTERM", "SIGHUP")  # SIGINT is Python's
DEAF_SECONDS = 5.0  # `timeout` and process groups send a signal twice; the second must not disturb the cleaning up
SIGNALLED, BROKEN_PIPE = 128, 13  # a shell's exit code for a death by a signal is 128 and its number


class Ended(KeyboardInterrupt):
    """The process was asked to end."""


@dataclass
class Heard:
    """The signal that came last, 0 when none did."""

    number: int = 0

    def code(self, otherwise: int) -> int:
        """The exit code of an interrupted command."""
        return SIGNALLED + self.number if self.number else otherwise


@contextmanager
def ending_well() -> Iterator[Heard]:
    """Raise `Ended` in the block where a signal would end the process at once. Signals that the starter ignores (nohup) or that somebody
    handles already stay as they are."""
    heard, when = Heard(), -DEAF_SECONDS

    def end(number: int, frame: Any) -> None:
        nonlocal when
        before, when = when, time.monotonic()
        if when - before > DEAF_SECONDS:
            heard.number = number
            raise Ended

    numbers = [int(getattr(signal, name)) for name in SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield heard
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def reader_gone(stream: TextIO) -> bool:
    """Whether `stream` is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def silence(stream: TextIO) -> None:
    """What is still written to `stream` goes nowhere; else Python would complain once more when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def hold_standard_streams() -> None:
    """Where the starter closed standard input, output or error, put nothing in its place: else the next file that is opened would get its
    number, and whatever a library prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
