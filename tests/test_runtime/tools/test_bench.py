"""The arithmetic of the measurements, and real ones of the tiny bundle in their own processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_runtime.backends.base import Backend
from sdic_runtime.cli.app import main
from sdic_runtime.cli.bench import ratio
from sdic_runtime.errors import SdicError
from sdic_runtime.program import Method
from sdic_runtime.tools import bench
from sdic_runtime.tools.bench import Plan, Timed, measure_apart, peak_memory, pooled, stage_seconds, timing


def plan(bundle: Path | None = None, **changes: Any) -> Plan:
    return Plan(
        **{
            "bundle": str(bundle),
            "backend": "onnxruntime:threads=1",
            "precision": None,
            "checkpoint": None,
            "batches": (1,),
            "runs": 2,
            "warm_up": 1,
            **changes,
        }
    )


def test_percentiles_and_throughput() -> None:
    found = timing([float(value) for value in range(1, 11)], batch=4)
    assert (found["p50"], found["p90"], found["p99"]) == pytest.approx((5.5, 9.1, 9.91))
    assert (found["mean"], found["runs"], found["pictures_per_second"]) == pytest.approx((5.5, 10, 40 / 55))


class Clock(Backend):
    """A device on a clock of its own: asking it for a stage takes a millisecond, and the work itself is done when it is waited for."""

    name = description = "clock"  # type: ignore[assignment]

    def __init__(self, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(method)
        self.now, self.asked = 0.0, 0.0
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        self.now += 0.001
        self.asked += 1 + list(self.method.stages).index(stage)
        return dict.fromkeys(outputs)

    def synchronize(self) -> None:
        self.now, self.asked = self.now + self.asked, 0.0


def test_a_stage_that_runs_twice_counts_with_both_and_its_work_on_the_device_counts(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = list(pipeline.bundle.manifest.stages)
    passes = stage_seconds(Clock(pipeline.bundle.manifest, monkeypatch), np.zeros(1), plan(runs=3, warm_up=2))
    once = {stage: 1.001 + index for index, stage in enumerate(stages)}
    assert passes == [pytest.approx({**once, "generator_head": 2 * once["generator_head"]})] * 3


def test_timed_stages_give_what_the_backend_gives(pipeline: Any) -> None:
    timed = Timed(pipeline.backend)
    image = np.zeros((1, 3, 64, 64), np.float32)
    (expected,) = pipeline.backend.run("e4e", {"image": image}, ["latent"]).values()
    assert np.array_equal(timed.run("e4e", {"image": image}, ["latent"])["latent"], expected)
    assert timed.seconds["e4e"] > 0


def test_ratio_says_how_many_times_as_fast_as_the_first() -> None:
    first = {"batches": [{"batch": 1, "edit": {"p50": 3.0}}, {"batch": 2, "edit": {"p50": 8.0}}]}
    assert (ratio(first, 1, "edit", 1.5), ratio(first, 2, "edit", 16.0)) == (2.0, 0.5)


@pytest.mark.parametrize(("option", "least"), [("--runs", 1), ("--batch", 1), ("--warm-up", 0), ("--rounds", 1)])
def test_numbers_that_are_too_small(option: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", option, str(least - 1)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Invalid value for '{option}': ") and f"{least}; see: sdic-run bench --help" in error


def test_a_real_measurement_has_all_its_parts(tiny_bundle: Path, pipeline: Any) -> None:
    found = measure_apart(plan(tiny_bundle, batches=(1, 3), runs=3))
    assert (found["backend"], found["bundle"], found["runs"], found["warm_up"]) == ("onnxruntime:threads=1", "tiny", 3, 1)
    assert found["description"].startswith("ONNX Runtime ") and found["load_seconds"] > 0 and found["first_call_seconds"] > 0
    assert [batch["batch"] for batch in found["batches"]] == [1, 3] and found["gpu_memory_bytes"] is None
    for batch in found["batches"]:
        assert list(batch["stages"]) == list(pipeline.bundle.manifest.stages)
        for each in (batch["inversion"], batch["edit"], *batch["stages"].values()):
            assert 0 < each["p50"] <= each["p90"] <= each["p99"] and each["runs"] == 3
            assert each["pictures_per_second"] == pytest.approx(batch["batch"] / each["mean"])


def test_the_pictures_of_a_batch_are_computed_all_at_once(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where fewer would be by default, as with large pictures: the stages beside them are timed for the whole batch."""
    monkeypatch.setattr(type(pipeline), "default_batch", 1)
    sizes, run = set[int](), pipeline.backend.run

    def seen(stage: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        sizes.add(len(next(iter(inputs.values()))))
        return run(stage, inputs, outputs)

    monkeypatch.setattr(pipeline.backend, "run", seen)
    pictures = np.zeros(pipeline.bundle.manifest.shape("image", 3), np.float32)
    bench.measure_batch(pipeline, plan(rows=(8,)), 3, pictures)
    assert sizes == {3}


def test_edits_of_the_later_rows_are_timed_beside_the_others(tiny_bundle: Path) -> None:
    found = measure_apart(plan(tiny_bundle, rows=(2, 8)))
    (batch,) = pooled([found, found])["batches"]
    names = ["inversion", "edit", "edit from row 2", "edit from row 8"]
    assert bench.called(batch) == names and all(len(batch[name]["seconds"]) == 4 for name in names)


def test_rounds_are_pooled_call_by_call() -> None:
    def measured(seconds: Sequence[float], load: float, peak: int | None) -> dict[str, Any]:
        each = timing(seconds, 2)
        batch = {"batch": 2, "inversion": each, "edit": each, "stages": {"dicn": each}}
        memory = {"peak_memory_bytes": peak, "gpu_memory_bytes": peak and 2 * peak}
        return {"backend": "clock", "load_seconds": load, "first_call_seconds": load / 2, "batches": [batch], **memory}

    found = pooled([measured((1.0, 2.0), 3.0, 10), measured((5.0, 9.0), 4.0, 30), measured((3.0, 4.0), 8.0, None)])
    assert (found["backend"], found["rounds"], found["load_seconds"], found["first_call_seconds"]) == ("clock", 3, 4.0, 2.0)
    assert (found["peak_memory_bytes"], found["gpu_memory_bytes"]) == (30, 60)
    for each in (*(found["batches"][0][what] for what in ("inversion", "edit")), found["batches"][0]["stages"]["dicn"]):
        assert each == timing((1.0, 2.0, 5.0, 9.0, 3.0, 4.0), 2)
    without = pooled([measured((1.0,), 1.0, None)])
    assert (without["peak_memory_bytes"], without["gpu_memory_bytes"]) == (None, None)


def test_the_memory_of_a_measurement_is_not_that_of_the_process_which_asked_for_it(tiny_bundle: Path) -> None:
    held = np.ones(80_000_000, np.float32)
    own, found = peak_memory(), measure_apart(plan(tiny_bundle))["peak_memory_bytes"]
    assert own is not None and own >= held.nbytes
    assert 20_000_000 < found < held.nbytes


def test_a_failure_in_the_other_process_is_its_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SdicError, match='^there is no backend "nonsense"'):
        measure_apart(plan(tiny_bundle, backend="nonsense"))
    with pytest.raises(SdicError, match=f"^there is no bundle at {tmp_path}/none"):
        measure_apart(plan(tmp_path / "none"))


def test_more_pictures_than_memory_holds_are_one_sentence(tiny_bundle: Path) -> None:
    with pytest.raises(SdicError, match="^not enough memory for 1000000000000 pictures at once; use a smaller --batch$"):
        measure_apart(plan(tiny_bundle, batches=(1, 10**12)))


def test_what_cannot_be_is_found_before_any_backend_is_loaded(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure_apart", pytest.fail)
    base = ["bench", "--bundle", str(tiny_bundle)]
    for row in ("12", "99"):
        assert main([*base, "--row", "2", "--row", row]) == 2
        assert f"error: --row is {row}, and the style rows of {tiny_bundle} are 0 to 11; name one of them" in capsys.readouterr().err
    assert main([*base, "--json", "/proc/none/x.json"]) == 2
    assert capsys.readouterr().err.endswith("choose another one with --json\n")


def test_a_process_that_dies_is_reported(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'Killed' >&2\nexit 137\n")
    broken.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(broken))
    with pytest.raises(SdicError, match="the process measuring onnxruntime:threads=1 ended with code 137: Killed"):
        measure_apart(plan(tiny_bundle))
