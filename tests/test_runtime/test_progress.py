"""Bars only where a person sees them, and results that are never lost among them."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator

import pytest

from sdic_runtime import progress as module
from sdic_runtime.progress import progress, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error becomes a terminal; not a fixture, because pytest puts its own stream back before the test starts."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAY_SECONDS", 0.0)
    assert list(progress(range(3), "things")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_bar_counts_up_to_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_letters() -> Iterator[str]:
        for letter in "abc":
            time.sleep(0.15)  # longer than tqdm waits between two drawings
            yield letter

    monkeypatch.setattr(module, "DELAY_SECONDS", 0.01)
    terminal = on_terminal(monkeypatch)
    assert list(progress(slow_letters(), "letters", total=3, unit="letter")) == ["a", "b", "c"]
    assert "letters:" in terminal.getvalue() and "/3 [" in terminal.getvalue()


def test_what_is_done_in_a_moment_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    assert list(progress(range(3), "things")) == [0, 1, 2]
    assert "things" not in terminal.getvalue()


@pytest.mark.parametrize("error", [False, True])
def test_lines_go_to_their_own_stream_with_and_without_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: bool
) -> None:
    say("plain", error)
    monkeypatch.setattr(module, "shown", lambda: True)
    say("beside a bar", error)
    out, errors = capsys.readouterr()
    assert (errors if error else out) == "plain\nbeside a bar\n" and (out if error else errors) == ""


def test_a_terminal_gets_no_control_codes_of_a_name_and_a_pipe_the_name_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a\x1b[31m\u202egnp.exe\tb"
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        monkeypatch.setattr(sys, "stdout", stream)
        say(name)
    assert terminal.getvalue() == "a\\x1b[31m\\u202egnp.exe\\tb\n" and pipe.getvalue() == f"{name}\n"
