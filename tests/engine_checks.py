"""What built engines have to show; shared by the tests of the demo bundle and of the full size."""

from __future__ import annotations

from sdic_export.tensorrt.census import graph_census
from sdic_export.tensorrt.engines import EngineReport
from sdic_runtime.backends.tensorrt.engine_files import graph_file


def check(report: EngineReport) -> None:
    """Every stage has an engine, and most of its weights are half where it multiplies by weights."""
    engines, bundle = report.sidecar.stages, report.plan.bundle
    for name in bundle.manifest.stages:
        weights = engines[name].census["weight_bytes"]
        products = graph_census(graph_file(bundle, name, report.plan.settings.precision)).layers
        assert not products or weights["float16"] > 0.5 * sum(weights.values()), name
