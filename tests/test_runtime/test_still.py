"""The memory that inversions share for their edits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdic_runtime.still import Common, Still, Stills


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_many_threads_hold_no_more_than_the_limit(hasty: None) -> None:
    stills, shared = [Still() for _ in range(3000)], Stills(limit=50)

    def edited(still: Still) -> None:
        still.common = Common(bytes=10)
        shared.bound(still)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(edited, stills))
    assert 0 < sum(still.common.bytes for still in stills) <= 50


def test_what_nobody_holds_any_more_takes_no_room() -> None:
    shared, first = Stills(limit=25), Still(Common(bytes=10))
    shared.bound(first)
    for _ in range(5):
        gone = Still(Common(bytes=10))
        shared.bound(gone)
        del gone
    assert first.common.bytes == 10
