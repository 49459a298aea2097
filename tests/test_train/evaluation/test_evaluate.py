"""Table 1 and the table of edits, on inverters whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sdic_runtime.edits import Direction
from sdic_train.config import TINY
from sdic_train.evaluation.evaluate import (
    Change,
    ModelInverter,
    PipelineInverter,
    default_strengths,
    edit_table,
    markdown,
    only_directions,
    table,
)
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.trainers.start import with_new_compensation


class Known:
    """e4e adds .2 everywhere, SDIC adds .02; an edit brightens by its strength."""

    def e4e(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.2

    def sdic(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.02

    def edits(self, image: torch.Tensor, changes: Sequence[Change]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        before = image + 0.02
        return before, [before + strength * float(direction.vector[0, 0]) for direction, strength in changes]


class Brightness(torch.nn.Module):
    """Reads the same number, 10 times the brightness, as every parameter, and no identity change."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        from sdic_train.portraits.portraits import PARAMETERS

        values = torch.zeros(len(picture), len(PARAMETERS))
        values[:, 0] = 10 * picture.mean((1, 2, 3))
        return values

    def identity(self, picture: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(picture), 1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5


def test_the_table_holds_known_distances(images: torch.Tensor) -> None:
    rows = table(Known(), images, None, None, batch=2)
    assert list(rows) == ["e4e", "SDIC"]
    assert rows["e4e"]["L2"] == pytest.approx(0.04, rel=1e-4)
    assert rows["SDIC"]["PSNR"] == pytest.approx(-10 * np.log10(0.02**2 / 4), abs=1e-2)
    assert rows["SDIC"]["PSNR"] - rows["e4e"]["PSNR"] == pytest.approx(20, abs=1e-2)
    assert rows["SDIC"]["SSIM"] > rows["e4e"]["SSIM"]
    assert "ID" not in rows["e4e"]


def test_seconds_are_those_of_all_calls_but_the_first(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(Known):
        def e4e(self, image: torch.Tensor) -> torch.Tensor:
            clock[0] += 2
            return super().e4e(image)

        def sdic(self, image: torch.Tensor) -> torch.Tensor:
            clock[0] += 3
            return super().sdic(image)

    rows = table(Slow(), images, None, None, batch=2)  # five pictures: three calls
    assert rows["e4e"]["seconds"] == pytest.approx(3 * 2 / 5) and rows["SDIC"]["seconds"] == pytest.approx(3 * 3 / 5)


def test_of_a_bundle_only_the_steps_of_the_initial_code_are_run() -> None:
    from sdic_runtime.pipeline import Pipeline

    with Pipeline.load(backend="onnxruntime", threads=1) as pipeline:
        image = np.random.default_rng(0).uniform(-1, 1, (2, 3, pipeline.sizes["S"], pipeline.sizes["S"])).astype(np.float32)
        want = pipeline.baseline(pipeline.invert(image)).pixels.clip(-1, 1)
        inner, asked = pipeline.backend.run, []
        pipeline.backend.run = lambda stage, inputs, outputs: asked.append(stage) or inner(stage, inputs, outputs)  # type: ignore[method-assign]
        found = PipelineInverter(pipeline).e4e(torch.from_numpy(image))
    assert asked == ["e4e", "generator_head", "generator_tail"]
    np.testing.assert_array_equal(found.numpy(), want)


def test_identity_is_a_similarity_and_the_perceptual_distance_a_distance(images: torch.Tensor) -> None:
    rows = table(Known(), images, lambda a, b: torch.full((len(a),), 0.25), lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert rows["e4e"]["ID"] == pytest.approx(0.75) and rows["e4e"]["LPIPS"] == pytest.approx(0.2, rel=1e-3)


def test_edits_are_measured_towards_the_other_side(images: torch.Tensor) -> None:
    directions = {"smile": Direction(np.asarray([0.14]), "smile"), "unknown": Direction(np.asarray([1.0]), "unknown")}
    reader = Brightness()
    rows = edit_table(Known(), images, directions, {"smile": 0.5}, reader, batch=3)  # type: ignore[arg-type]
    assert list(rows) == ["smile"]
    assert rows["smile"]["moved"] == pytest.approx(
        0.5 * 1.4 / (0.7 * 2), rel=1e-4
    )  # smile runs from -1 to 1, its sides are .7 of that apart
    assert rows["smile"]["others"] == 0 and rows["smile"]["identity"] == 1


def test_strengths_come_from_the_suggested_range() -> None:
    directions = {"a": Direction(np.ones(4), "a", strength_range=(-6.0, 6.0)), "b": Direction(np.ones(4), "b")}
    assert default_strengths(directions) == {"a": 4.0, "b": 3.0}
    assert only_directions({**directions, "pca": object()}) == directions


def test_markdown() -> None:
    assert markdown({"e4e": {"L2": 0.04}}, "method") == "| method | L2 |\n| --- | --- |\n| e4e | 0.04 |"


def test_a_model_inverter_gives_pictures_of_the_working_size(encoder_file: Path, reader: PortraitReader) -> None:
    inverter = ModelInverter(with_new_compensation(encoder_file, 0).eval())
    image = torch.zeros(2, 3, TINY.working, TINY.working)
    direction = Direction(np.ones(TINY.style_width, np.float32), "any")
    assert inverter.e4e(image).shape == inverter.sdic(image).shape == image.shape
    before, (still, moved) = inverter.edits(image, [(direction, 0.0), (direction, 1.0)])
    assert torch.allclose(before, inverter.sdic(image), atol=1e-5)
    assert torch.allclose(still, before, atol=1e-5)
    assert not torch.allclose(moved, before, atol=1e-3)


def test_edit_first_compensates_towards_the_unedited_picture(encoder_file: Path) -> None:
    model = with_new_compensation(encoder_file, 0).eval()
    image = torch.rand(1, 3, TINY.working, TINY.working) * 2 - 1
    direction = Direction(np.ones(TINY.style_width, np.float32), "any")
    usual, ablation = ModelInverter(model), ModelInverter(model, edit_first=True)
    changes = [(direction, 0.0), (direction, 1.0)]
    (_, ours), (_, theirs) = usual.edits(image, changes), ablation.edits(image, changes)
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    assert not torch.allclose(ours[1], theirs[1], atol=1e-3)
