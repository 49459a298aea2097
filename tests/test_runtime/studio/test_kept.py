"""What the studio keeps in memory, and for how long."""

from __future__ import annotations

import pytest

from sdic_runtime.errors import OutOfMemoryError
from sdic_runtime.studio.kept import GoneError, Kept


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_not_used_is_forgotten() -> None:
    clock = Clock()
    kept: Kept[str] = Kept(10, 1000, 60, clock)
    one, other = kept.add("one", 10), kept.add("other", 20)
    clock.now = 50
    assert kept.get(one) == "one"
    clock.now = 100
    assert kept.get(one) == "one" and kept.size == 10 and len(kept) == 1
    with pytest.raises(GoneError, match="not here any more; send it again"):
        kept.get(other)


def test_room_is_made_for_what_comes() -> None:
    kept: Kept[str] = Kept(2, 100, 60, Clock())
    first, second = kept.add("first", 40), kept.add("second", 40)
    kept.get(first)
    third = kept.add("third", 10)  # three are one too many: the second was not used for the longest time
    assert kept.get(first) == "first" and kept.get(third) == "third" and kept.size == 50
    with pytest.raises(GoneError):
        kept.get(second)
    kept.add("large", 95)
    assert len(kept) == 1 and kept.size == 95
    with pytest.raises(OutOfMemoryError, match="needs 101 bytes in memory, and the service keeps 100; send a smaller picture"):
        kept.add("too large", 101)
    assert len(kept) == 1


def test_handles_cannot_be_guessed_and_dropping_twice_is_nothing() -> None:
    kept: Kept[int] = Kept(100, 1000, 60)
    handles = {kept.add(number, 1) for number in range(50)}
    assert len(handles) == 50 and min(map(len, handles)) >= 24
    handle = handles.pop()
    kept.drop(handle)
    kept.drop(handle)
    assert kept.size == 49
