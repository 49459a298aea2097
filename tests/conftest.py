"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Notes of engines that tests build are not left in the user's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def _exporter_table() -> Iterator[None]:
    """PyTorch's exporter makes its table of operators anew for every graph, which is a good part of the time of a small one: made once."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        except (ImportError, AttributeError):  # another PyTorch: slower tests
            pass
        yield
