"""Table 1 and the table of edits, on inverters whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdic_runtime.edits import Direction
from sdic_train.evaluation.evaluate import (
    ORDER,
    Timing,
    default_strengths,
    drawn_rows,
    edit_rows,
    inversion_row,
    markdown,
    mean_edit,
    only_directions,
)
from sdic_train.evaluation.measures import Judges, ms_ssim
from sdic_train.evaluation.models import Baseline, EditFirst, Evaluated
from sdic_train.losses.pixels import ssim
from sdic_train.pipelines import Weights, pipeline_of
from sdic_train.trainers.start import with_new_compensation

ONCE = Timing(1, 0)


class Known:
    """Adds a number everywhere; an edit brightens by its strength."""

    def __init__(self, error: float = 0.02) -> None:
        self.error = error

    def image(self, pictures: np.ndarray) -> np.ndarray:
        return pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1

    def target(self, pictures: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.image(pictures))

    def invert(self, image: np.ndarray) -> np.ndarray:
        return image + np.float32(self.error)

    def picture(self, inverted: np.ndarray) -> torch.Tensor:
        return self.shown(inverted)

    def edit(self, inverted: np.ndarray, direction: Direction, strength: float) -> np.ndarray:
        return inverted + np.float32(strength * direction.vector[0, 0])

    def shown(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels)


class Brightness(torch.nn.Module):
    """Reads the same number, 10 times the brightness, as every parameter, and no identity change."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        from sdic_train.portraits.portraits import PARAMETERS

        values = torch.zeros(len(picture), len(PARAMETERS))
        values[:, 0] = 10 * picture.mean((1, 2, 3))
        return values

    def identity(self, picture: torch.Tensor, omitted: str = "") -> torch.Tensor:
        assert omitted == "smile"  # what is edited does not count
        return torch.ones(len(picture), 1)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (5, 32, 32, 3)).astype(np.uint8)


def test_a_row_holds_known_distances(pictures: np.ndarray) -> None:
    rows = {error: inversion_row(Known(error), pictures, Judges(), ONCE, batch=2) for error in (0.2, 0.02)}
    assert list(rows[0.2]) == ["SSIM", "PSNR", "L2", "seconds"]
    assert rows[0.2]["L2"] == pytest.approx(0.04, rel=1e-4)
    assert rows[0.02]["PSNR"] == pytest.approx(-10 * np.log10(0.02**2 / 4), abs=1e-2)
    assert rows[0.02]["PSNR"] - rows[0.2]["PSNR"] == pytest.approx(20, abs=1e-2)
    assert rows[0.02]["SSIM"] > rows[0.2]["SSIM"]


def test_seconds_are_the_median_of_single_pictures_after_a_warm_up(pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = [0.0], []
    costs = iter([0, 0, 0, 90, 80, 1, 2, 3, 10, 4])  # three batches, two calls that warm up, five that count
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(Known):
        def invert(self, image: np.ndarray) -> np.ndarray:
            clock[0] += next(costs)
            sizes.append(len(image))
            return super().invert(image)

    assert inversion_row(Slow(), pictures, Judges(), Timing(5, 2), batch=2)["seconds"] == 3
    assert sizes == [2, 2, 1, *[1] * 7]


def test_identity_is_a_similarity_the_perceptual_distance_a_distance_and_fid_compares_with_the_pictures(pictures: np.ndarray) -> None:
    judges = Judges(
        lambda a, b: torch.full((len(a),), 0.25), lambda a, b: (a - b).abs().mean((1, 2, 3)), lambda x: x.mean((2, 3)).double().numpy()
    )
    row = inversion_row(Known(0.2), pictures, judges, ONCE, batch=2)
    assert row["ID"] == pytest.approx(0.75) and row["LPIPS"] == pytest.approx(0.2, rel=1e-3)
    assert row["FID"] == pytest.approx(3 * 0.2**2, rel=1e-3)  # the means of three channels moved, the covariances did not
    assert [column for column in ORDER if column in row] == ["ID", "SSIM", "PSNR", "LPIPS", "L2", "seconds", "FID"]


def test_ms_ssim_joins_where_its_scales_fit() -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12, generator=random), size=(176, 176), mode="bilinear") * 2 - 1
    b = (a + 0.2 * torch.randn(a.shape, generator=random)).clamp(-1, 1)
    row = Judges().distances(a, b)
    assert list(row) == ["SSIM", "PSNR", "L2", "MS-SSIM"] and row["MS-SSIM"].shape == (2,)
    assert "MS-SSIM" not in Judges().distances(a[..., :160], b[..., :160])
    assert ms_ssim(a, a).tolist() == pytest.approx([1, 1], abs=1e-5)
    np.testing.assert_allclose(ms_ssim(a, b).numpy(), [by_definition(x, y) for x, y in zip(a, b, strict=True)], atol=2e-3)
    assert (ms_ssim(a, b) > ssim(a, b)).all()  # noise averages out at coarser scales


def by_definition(a: torch.Tensor, b: torch.Tensor) -> float:
    """Wang et al. 2003 on scikit-image's structural similarity: contrast and structure at five scales, luminance at the last."""
    from skimage.metrics import structural_similarity

    value, x, y = 1.0, (a.double() + 1) / 2, (b.double() + 1) / 2
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        first, second = x.numpy(), y.numpy()
        if scale < 4:  # a luminance term of 1: K1 so large that the means do not count
            options["K1"] = 1e6
        else:
            options.pop("K1")
        _, whole = structural_similarity(first, second, full=True, **options)
        value *= whole[:, 5:-5, 5:-5].mean() ** weight
        x, y = (torch.nn.functional.avg_pool2d(each[None], 2)[0] for each in (x, y))
    return float(value)


def test_edits_are_measured_towards_the_other_side(pictures: np.ndarray) -> None:
    directions = {"smile": Direction(np.asarray([0.14]), "smile"), "unknown": Direction(np.asarray([1.0]), "unknown")}
    reader: Any = Brightness()
    rows = edit_rows(Known(), pictures, directions, {"smile": 0.5}, reader, ONCE, batch=3)
    assert list(rows) == ["smile"]
    # smile runs from -1 to 1, its sides are .7 of that apart
    assert rows["smile"]["moved"] == pytest.approx(0.5 * 1.4 / (0.7 * 2), rel=1e-4)
    assert rows["smile"]["others"] == 0 and rows["smile"]["identity"] == 1 and rows["smile"]["seconds"] >= 0


def test_what_a_perfect_edit_does_is_drawn() -> None:
    from sdic_train.portraits.portraits import changed_sample

    reader: Any = Brightness()
    rows = drawn_rows(reader, ["smile"], 5, 4, 32)
    moved = []
    for index in range(4):
        before, after, amount = changed_sample(5, index, 32, "smile")
        moved.append((after.mean() - before.mean()) / 127.5 * 10 / 1.4 * (1 if amount > 0 else -1))
    assert rows["smile"]["moved"] == pytest.approx(np.mean(moved), rel=1e-3, abs=1e-5)
    assert rows["smile"]["others"] == 0 and rows["smile"]["identity"] == 1


def test_edits_of_a_table_are_means_over_attributes() -> None:
    same = {"strength": 1.0, "others": 0.1, "identity": 0.9}
    rows = {name: {**same, "moved": moved, "seconds": 2 * moved} for name, moved in {"a": 1.0, "b": 3.0}.items()}
    assert mean_edit(rows) == {"moved": 2, "others": 0.1, "identity": 0.9, "edit seconds": 4}
    assert mean_edit({}) == {}


def test_strengths_come_from_the_suggested_range() -> None:
    directions = {"a": Direction(np.ones(4), "a", strength_range=(-6.0, 6.0)), "b": Direction(np.ones(4), "b")}
    assert default_strengths(directions) == {"a": 6.0, "b": 3.0}
    assert only_directions({**directions, "pca": object()}) == directions


def test_markdown_orders_columns_and_marks_what_is_missing() -> None:
    assert markdown({"e4e": {"L2": 0.04}}, "method") == "| method | L2 |\n| --- | --- |\n| e4e | 0.04 |"
    rows = {"a": {"own": 1.0, "L2": 0.04}, "b": {"seconds": 0.5, "ID": "0.9†"}}
    lines = markdown(rows, "method", ORDER).splitlines()
    assert lines[0] == "| method | ID | L2 | Time (s) | own |" and lines[2:] == ["| a | - | 0.04 | - | 1 |", "| b | 0.9† | - | 0.5 | - |"]


def test_of_a_bundle_only_the_steps_of_the_initial_code_are_run() -> None:
    from sdic_runtime.pipeline import Pipeline

    with Pipeline.load(backend="onnxruntime", threads=1) as pipeline:
        size = pipeline.sizes["S"]
        pictures = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
        want = pipeline.baseline(pipeline.invert(list(pictures))).pixels.clip(-1, 1)
        inner, asked = pipeline.backend.run, []
        pipeline.backend.run = lambda stage, inputs, outputs: asked.append(stage) or inner(stage, inputs, outputs)  # type: ignore[method-assign]
        model = Baseline(pipeline, size)
        found = model.picture(model.invert(model.image(pictures)))
    assert asked == ["e4e", "generator_head", "generator_tail"]
    np.testing.assert_allclose(found.numpy(), want, atol=1e-6)


@pytest.fixture
def sdic_file(encoder_file: Path, tmp_path: Path) -> Path:
    from sdic_train.checkpoints.load import save_checkpoint

    model, path = with_new_compensation(encoder_file, 0), tmp_path / "sdic.safetensors"
    save_checkpoint(path, model.config, model.latent_avg, **dict(model.named_children()))
    return path


def test_a_checkpoint_is_evaluated_by_the_programs_of_its_method(sdic_file: Path) -> None:
    code, network = Weights(sdic_file).read()
    sizes, direction = code.tables(network.config).sizes, Direction(np.ones(network.config.style_width, np.float32), "any")
    pictures = np.random.default_rng(0).integers(0, 256, (2, sizes["S"], sizes["S"], 3), np.uint8)
    image = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1)
    with pipeline_of(code, network, sdic_file) as pipeline, torch.no_grad():
        model, start = Evaluated(pipeline, sizes["S"]), Baseline(pipeline, sizes["S"])
        inverted = model.invert(model.image(pictures))
        small = torch.nn.functional.interpolate
        close = {"rtol": 1e-4, "atol": 1e-5}
        options: dict[str, Any] = {"size": (sizes["S"], sizes["S"]), "mode": "bilinear", "align_corners": False}
        torch.testing.assert_close(model.target(pictures), image, **close)
        torch.testing.assert_close(model.picture(inverted), small(network(image).clamp(-1, 1), **options), **close)
        first = small(network.generator(network.encode(image)).clamp(-1, 1), **options)
        torch.testing.assert_close(start.picture(start.invert(model.image(pictures))), first, **close)
        still, moved = (model.edit(inverted, direction, strength) for strength in (0.0, 1.0))
        np.testing.assert_allclose(still, inverted.pixels, atol=1e-5)
        found = network.invert(image)
        torch.testing.assert_close(torch.from_numpy(moved), network.edit(found, torch.ones_like(found.latent)), **close)


def test_edit_first_compensates_towards_the_unedited_picture(sdic_file: Path) -> None:
    code, network = Weights(sdic_file).read()
    size, direction = network.config.working, Direction(np.ones(network.config.style_width, np.float32), "any")
    pictures = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    with pipeline_of(code, network, sdic_file) as pipeline:
        usual, ablation = Evaluated(pipeline, size), EditFirst(pipeline, size, network)
        ours, theirs = (model.invert(model.image(pictures)) for model in (usual, ablation))
        np.testing.assert_allclose(usual.edit(ours, direction, 0.0), ablation.edit(theirs, direction, 0.0), atol=1e-5)
        assert np.abs(usual.edit(ours, direction, 1.0) - ablation.edit(theirs, direction, 1.0)).max() > 1e-3
        torch.testing.assert_close(ablation.picture(theirs), usual.picture(ours))
