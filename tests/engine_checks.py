"""What built engines have to show; shared by the tests of the demo bundle and of the full size."""

from __future__ import annotations

from sdic_export.tensorrt.engines import EngineReport


def check(report: EngineReport) -> None:
    """Every stage has an engine, and most of its weights are half."""
    engines = report.sidecar.stages
    for name in report.plan.bundle.manifest.stages:
        weights = engines[name].census["weight_bytes"]
        assert weights["float16"] > 0.5 * sum(weights.values()), name
