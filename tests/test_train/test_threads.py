"""PyTorch's threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sdic_train import threads


@pytest.fixture
def kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("asked", "quota", "expected"), [(None, 2, 2), (0, 2, 2), (None, 9, 3), (5, 2, 5)])
def test_a_quota_limits_what_pytorch_chooses_and_not_what_was_asked_for(
    asked: int | None, quota: int, expected: int, kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "available_cpus", lambda: quota)
    threads.use_threads(asked)
    assert torch.get_num_threads() == expected
