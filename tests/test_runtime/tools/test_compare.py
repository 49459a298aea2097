"""Differences against independent formulas, and a backend that is wrong in one known stage."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from sdic_runtime.cli import app as cli
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.errors import SdicError
from sdic_runtime.tools.compare import Comparison, Difference, compare_backends, difference

OFFSET = 0.01


def load_skewed(
    bundle: Any, stage: str = "dicn", tensor: str = "residual", offset: float = OFFSET, nan: bool = False, ran: str = "fp32"
) -> Any:
    """ONNX Runtime with `offset` added to one tensor of one stage."""
    from sdic_runtime.backends.onnxruntime import OnnxRuntime

    class Skewed(OnnxRuntime):
        description = "ONNX Runtime, but wrong"

        def run(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            results = super().run(name, inputs, outputs)
            if name == stage and tensor in results:
                results[tensor] = results[tensor] + np.float32(math.nan if nan else offset)
            return results

    backend = Skewed(bundle, "fp32", threads=1)
    backend.precision = ran
    return backend


@pytest.fixture(autouse=True)
def skewed_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the backend `skewed`."""
    module = types.ModuleType("skewed_backend")
    module.load = load_skewed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skewed_backend", module)
    monkeypatch.setitem(sys.modules["sdic_runtime.backends.registry"].BUILT_IN, "skewed", "skewed_backend:load")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def rows(comparison: Comparison) -> dict[tuple[str, str], Any]:
    return {(item.where, item.tensor): item for item in comparison.differences}


def worst(comparison: Comparison) -> Difference:
    return max(comparison.differences, key=lambda item: item.ratio)


def test_a_difference_by_hand() -> None:
    found = difference("dipn", "discrepancy", np.array([1.0, 2.0, 3.5], np.float32), np.array([1.0, 2.0, 3.0], np.float32))
    assert (found.where, found.tensor, found.largest) == ("dipn", "discrepancy", 0.5)
    assert found.ratio == pytest.approx(0.5 / math.sqrt(2 / 3))
    assert found.psnr == pytest.approx(10 * math.log10(2**2 / (0.25 / 3)))
    assert found.cosine == pytest.approx(15.5 / math.sqrt(17.25 * 14))


def test_psnr_of_a_picture_clamps_and_uses_the_range_of_a_picture() -> None:
    random = np.random.default_rng(0)
    want = random.uniform(-1.5, 1.5, (1, 3, 8, 8)).astype(np.float32)
    got = want + random.normal(0, 0.05, want.shape).astype(np.float32)
    expected = peak_signal_noise_ratio(np.clip(want, -1, 1).astype(np.float64), np.clip(got, -1, 1).astype(np.float64), data_range=2)
    assert difference("edit", "picture", got, want).psnr == pytest.approx(expected, abs=1e-6)
    spread = float(want.max()) - float(want.min())
    expected = peak_signal_noise_ratio(want.astype(np.float64), got.astype(np.float64), data_range=spread)
    assert difference("e4e", "latent", got, want).psnr == pytest.approx(expected, abs=1e-6)


def test_equal_constant_and_broken_tensors() -> None:
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    same = difference("a", "b", ones, ones)
    assert (same.largest, same.ratio, same.psnr, same.cosine) == (0, 0, math.inf, 1)
    assert difference("a", "b", zeros, zeros).cosine == 1
    assert difference("a", "b", zeros, ones).ratio == 1
    # Without a deviation the size of the value counts: one number for one picture, or all zeros.
    assert difference("a", "b", np.array([100.001], np.float32), np.array([100], np.float32)).ratio == pytest.approx(1e-5, rel=0.01)
    assert difference("a", "b", ones * np.float32(1e-9), zeros).ratio == pytest.approx(1e-9)
    for bad in (math.nan, math.inf):
        broken = difference("a", "b", np.array([1, bad], np.float32), ones[:2])
        assert broken.ratio == math.inf and broken.psnr == -math.inf and math.isnan(broken.cosine)
        assert broken.as_dict() == {"where": "a", "tensor": "b", "largest": None, "ratio": None, "psnr": None, "cosine": None}


def test_different_shapes_are_different_models() -> None:
    with pytest.raises(SdicError, match=r"e4e gave latent with shape \[2\] where \[3\] was expected; the backends hold different models"):
        difference("e4e", "latent", np.ones(2, np.float32), np.ones(3, np.float32))


def test_the_wrong_stage_is_the_only_one_that_differs_on_equal_inputs(tiny_bundle: Path, pipeline: Any, picture: Path) -> None:
    table = pipeline.bundle.manifest.stages
    found = rows(compare_backends(tiny_bundle, picture, "skewed", "onnxruntime:threads=1"))
    assert found["dicn", "residual"].largest == pytest.approx(OFFSET, rel=1e-3)
    stages = {key: item.largest for key, item in found.items() if key[0] in table}
    assert list(stages) == [(name, tensor) for name, stage in table.items() for tensor in stage.outputs]
    assert [key for key, largest in stages.items() if largest > 0] == [("dicn", "residual")]
    chain = {key: item.largest for key, item in found.items() if key[0] not in table}
    affected = [("inversion", "residual"), ("inversion", "picture"), ("edit", "picture")]
    assert [key for key, largest in chain.items() if largest > 0] == affected


def test_an_early_difference_is_seen_end_to_end_but_not_in_later_stages(tiny_bundle: Path, picture: Path) -> None:
    found = rows(compare_backends(tiny_bundle, picture, "skewed:stage=e4e,tensor=latent", "onnxruntime:threads=1"))
    assert found["generator_head", "feature"].largest == 0 < found["inversion", "feature"].largest
    assert found["e4e", "latent"].largest == pytest.approx(OFFSET, rel=1e-3)


def test_swapping_the_culprit_shows_it_and_swapping_another_stage_does_not(tiny_bundle: Path, picture: Path) -> None:
    guilty = compare_backends(tiny_bundle, picture, "skewed", "onnxruntime:threads=1", swap="dicn")
    innocent = compare_backends(tiny_bundle, picture, "skewed", "onnxruntime:threads=1", swap="dipn")
    assert not guilty.passed and worst(guilty).tensor in ("residual", "picture")
    assert innocent.passed and worst(innocent).ratio == 0
    assert {item.where for item in innocent.differences} == {"dipn", "inversion", "edit"}
    assert guilty.backend.endswith("dicn on ONNX Runtime, but wrong")


def test_the_tolerance_decides(tiny_bundle: Path, picture: Path) -> None:
    ratio = worst(compare_backends(tiny_bundle, picture, "skewed", "onnxruntime:threads=1")).ratio
    for tolerance, passed in ((ratio, True), (ratio * 0.999, False), (0.0, False)):
        assert compare_backends(tiny_bundle, picture, "skewed", "onnxruntime:threads=1", tolerance=tolerance).passed is passed
    assert compare_backends(tiny_bundle, picture, "onnxruntime", "onnxruntime").tolerance == 1e-4


def test_nan_never_passes(tiny_bundle: Path, picture: Path) -> None:
    assert not compare_backends(tiny_bundle, picture, "skewed:nan=true", "onnxruntime:threads=1", tolerance=1e9).passed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"swap": "decoder"}, r'there is no stage "decoder"; the stages are e4e, generator_head'),
        ({"tolerance": math.nan}, r"the tolerance is nan; give a number of at least 0"),
        ({"tolerance": -1.0}, r"the tolerance is -1\.0; give a number of at least 0"),
        ({"precision": "fp16"}, r'has no complete set of stages in precision "fp16"; it has: fp32'),
    ],
)
def test_bad_options(tiny_bundle: Path, picture: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SdicError, match=sentence):
        compare_backends(tiny_bundle, picture, "onnxruntime", "onnxruntime", **options)


def test_the_least_exact_precision_that_runs_decides(make_bundle: Callable[..., Path], picture: Path) -> None:
    bundle = make_bundle("coarse", tolerances={"fp32": 1e-4, "bf16": 0.5})
    reduced, exact = "skewed:ran=bf16", "onnxruntime:threads=1"
    for pair, tolerance in (((reduced, exact), 0.5), ((exact, reduced), 0.5), ((exact, exact), 1e-4)):
        comparison = compare_backends(bundle, picture, *pair)
        assert comparison.passed and comparison.tolerance == tolerance
    assert compare_backends(bundle, picture, exact, exact, precision="auto").tolerance == 1e-4
    with pytest.raises(SdicError, match='^the bundle gives no tolerance for precision "fp8"; name one with --tolerance$'):
        compare_backends(bundle, picture, "skewed:ran=fp8", exact)


def test_another_edit_can_be_compared(tiny_bundle: Path, picture: Path) -> None:
    found = [
        rows(compare_backends(tiny_bundle, picture, "skewed:stage=generator_tail,tensor=picture", "onnxruntime:threads=1", order=order))
        for order in (None, EditOrder.parse("smile:1"), EditOrder.parse("age:-2"))
    ]
    assert found[0]["edit", "picture"] == found[1]["edit", "picture"] != found[2]["edit", "picture"]


def test_the_command_exits_with_1_above_the_tolerance(tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(picture), "--bundle", str(tiny_bundle), "--backend", "skewed", "--against", "onnxruntime:threads=1"]
    assert cli.main(command) == 1
    out, errors = capsys.readouterr()
    assert errors.startswith("4 tensors are above the tolerance, first dicn residual: it differs by ") and "1.0e-04 is allowed" in errors
    marked = [line.split()[:2] for line in out.splitlines() if line.endswith("above the tolerance")]
    assert marked == [["dicn", "residual"], ["inversion", "residual"], ["inversion", "picture"], ["edit", "picture"]]
    assert cli.main([*command, "--tolerance", "100"]) == 0


def test_a_bundle_without_directions_is_compared_without_an_edit(make_bundle: Callable[..., Path], picture: Path) -> None:
    bundle = make_bundle("plain", directions={})
    assert "edit" not in {item.where for item in compare_backends(bundle, picture, "onnxruntime", "onnxruntime").differences}
