"""Commands that are killed, asked to end or interrupted at a random moment lose nothing and leave nothing. `make fuzz` does more of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.commands import COMMANDS, Inputs
from fuzz.interruptions import run, same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SHORT = {"directions": 0, "batch": 2}  # with the number of the case: a kill, Ctrl-C
RAY_NEEDS_A_SHORT_PATH = "ray"


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", SHORT)
def test_one_interruption(name: str, heard: None, tmp_path: Path) -> None:
    (case,), _ = run(COMMANDS[name], Inputs(tmp_path / "inputs"), SHORT[name], 1, tmp_path)
    assert case.interrupted and case.faults == []


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != RAY_NEEDS_A_SHORT_PATH])
def test_interruptions_of_all_kinds(name: str, heard: None, tmp_path: Path) -> None:
    cases, _ = run(COMMANDS[name], Inputs(tmp_path / "inputs"), 0, 6, tmp_path)
    assert [case.faults for case in cases] == [[]] * 6
    assert sum(case.interrupted for case in cases) >= 5


def test_files_are_compared_by_what_they_say() -> None:
    assert same("a.jsonl", b"1\n2\n", b"2\n1\n") and not same("a.jsonl", b"1\n", b"2\n1\n")
    assert same("a.png", b"12", b"12") and not same("a.png", b"12", b"1")
