"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# Without this MKL, inside PyTorch, keeps memory for every thread behind a lock of its own. Now and then that is never released again when
# threads that computed end at the same time, and they spin for as long as the process lives.
os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Notes of engines that tests build are not left in the user's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """No test leaves its handlers of signals to the others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.get_closest_marker(name) for name in ("full", "gpu")):
            item.add_marker(pytest.mark.timeout(0))
