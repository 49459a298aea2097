"""What built engines have to show; shared by the tests of the demo bundle and of the full size."""

from __future__ import annotations

from typing import Any

from sdic_runtime.stages import STAGES


def check(stages: Any) -> None:
    """Every stage has an engine, and most of its weights are half."""
    assert set(STAGES) <= set(stages)
    for name in STAGES:
        weights = stages[name].census["weight_bytes"]
        assert weights["float16"] > 0.5 * sum(weights.values()), name
