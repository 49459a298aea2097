"""PTI as a row: tuned per picture, kept picture by picture, and measured as any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_methods as small
import torch

from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_train.checkpoints.files import write_safetensors
from sdic_train.cli.app import main
from sdic_train.evaluation import tuned
from sdic_train.evaluation.evaluate import SECONDS
from sdic_train.evaluation.fid import frechet_distance
from sdic_train.evaluation.measures import Judges
from sdic_train.evaluation.tuned import EditPlan, Plan, Tuned, tuned_rows
from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader
from sdic_train.pipelines import Weights, pipeline_of
from sdic_train.trainers.tuning import TuningRecipe

FAST = TuningRecipe(rate=3e-3, perceptual=0.0)
SIDE = small.SMALL.working


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_small(tmp_path_factory.mktemp("tuned") / "e4e.pt", "e4e")


@pytest.fixture
def pictures() -> np.ndarray:
    images = small.small_images(small.SMALL, 3).numpy().transpose(0, 2, 3, 1)
    return ((images + 1) * 127.5).round().astype(np.uint8)


@pytest.fixture
def tunings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each tuning that was begun: the steps that it may take."""
    begun = list[int]()
    steps = tuned.Tuning.steps

    def counted(self: tuned.Tuning, count: int) -> Iterator[object]:
        begun.append(count)
        return steps(self, count)

    monkeypatch.setattr(tuned.Tuning, "steps", counted)
    return begun


def opened(path: Path, plan: Plan) -> Tuned:
    code, model = Weights(path).read()
    return Tuned(pipeline_of(code, model, path), SIDE, model, plan)


def edits() -> EditPlan:
    torch.manual_seed(0)
    smile = Direction(np.full((1, small.SMALL.style_width), 0.1, np.float32), "smile")
    return EditPlan({"smile": smile}, {"smile": 1.0}, PortraitReader().eval())


def test_every_picture_has_its_own_generator_and_measures_do_not_tune_again(
    checkpoint: Path, pictures: np.ndarray, tunings: list[int]
) -> None:
    seen = Judges(features=lambda picture: picture.mean((2, 3)).double().numpy())
    model = opened(checkpoint, Plan(2, 8, FAST))
    untuned = opened(checkpoint, Plan(2, 1, FAST))
    before = untuned.pipeline.invert(untuned.pipeline.prepare(pictures[1])).pixels
    rows = tuned_rows(model, pictures, seen, edits(), "PTI")
    assert tunings == [8, 8] and (rows.pictures, rows.steps) == (2, 8)

    # the second picture's tuning begins at the weights of the checkpoint, not at the first one's
    alone = opened(checkpoint, Plan(1, 8, FAST))
    found = alone.invert(alone.image(pictures[1:2]))
    np.testing.assert_array_equal(found.pixels, model.invert(model.image(pictures[1:2])).pixels)
    assert len(tunings) == 3
    target = alone.target(pictures[1:2])
    assert (alone.picture(found) - target).square().mean() < 0.8 * (alone.shown(before) - target).square().mean()
    np.testing.assert_allclose(alone.edit(found, edits().directions["smile"], 0.0), found.pixels, atol=1e-6)
    moved = torch.from_numpy(found.latent + np.float32(0.2))
    with torch.no_grad():
        np.testing.assert_allclose(
            alone.edit(found, edits().directions["smile"], 2.0), alone.model.generator(moved).numpy(), rtol=1e-4, atol=1e-5
        )

    # means of the pictures' rows, and FID of all
    singles = [tuned_rows(opened(checkpoint, Plan(1, 8, FAST)), pictures[index : index + 1], seen, edits(), "PTI") for index in (0, 1)]
    for column in ("SSIM", "PSNR", "L2"):
        assert rows.inversion[column] == pytest.approx(np.mean([single.inversion[column] for single in singles]), rel=1e-6)
    assert "FID" not in singles[0].inversion
    shown = [model.picture(model.invert(model.image(pictures[index : index + 1]))) for index in (0, 1)]
    assert seen.features is not None
    want = frechet_distance(seen.features(torch.cat(shown)), seen.features(torch.cat([model.target(pictures[:2])])))
    assert rows.inversion["FID"] == pytest.approx(want, rel=2e-2)
    for measure in ("moved", "others", "identity"):
        assert rows.edits["smile"][measure] == pytest.approx(np.mean([single.edits["smile"][measure] for single in singles]), abs=1e-6)


def test_a_run_that_was_stopped_goes_on_and_one_with_other_settings_begins_anew(
    checkpoint: Path, pictures: np.ndarray, tunings: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(3, 2, FAST, folder=tmp_path / "tuned")
    keep = tuned._keep

    def stopped(path: Path, *parts: object) -> None:
        if path.name == "002":
            raise KeyboardInterrupt
        keep(path, *parts)  # type: ignore[arg-type]

    monkeypatch.setattr(tuned, "_keep", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuned_rows(opened(checkpoint, plan), pictures, Judges(), edits(), "PTI e4e/1")
    monkeypatch.setattr(tuned, "_keep", keep)
    folder = tmp_path / "tuned/PTI_e4e_1"
    assert sorted(path.name for path in folder.iterdir()) == ["000.json", "000.png", "001.json", "001.png"]
    rows = tuned_rows(opened(checkpoint, plan), pictures, Judges(), edits(), "PTI e4e/1")
    assert len(tunings) == 4
    again = tuned_rows(opened(checkpoint, plan), pictures, Judges(), edits(), "PTI e4e/1")
    assert len(tunings) == 4 and again == rows
    (folder / "000.json").write_text("{")  # what a fault of the disk leaves
    record = json.loads((folder / "001.json").read_text())
    (folder / "001.json").write_text(json.dumps({**record, "key": "another"}))
    back = tuned_rows(opened(checkpoint, plan), pictures, Judges(), edits(), "PTI e4e/1")
    assert len(tunings) == 6
    assert {**back.inversion, SECONDS: 0.0} == {**rows.inversion, SECONDS: 0.0}
    for other in (
        (opened(checkpoint, Plan(3, 3, FAST, folder=plan.folder)), pictures, edits()),
        (opened(checkpoint, Plan(3, 2, TuningRecipe(rate=1e-3, perceptual=0.0), folder=plan.folder)), pictures, edits()),
        (opened(checkpoint, plan), pictures[::-1].copy(), None),
    ):
        begun = len(tunings)
        tuned_rows(other[0], other[1], Judges(), other[2], "PTI e4e/1")
        assert len(tunings) == begun + 3


def test_a_method_without_a_code_to_tune_around_is_one_sentence(pictures: np.ndarray, tmp_path: Path) -> None:
    path = small.write_small(tmp_path / "inverter.pt", "sfe-inverter")
    code, model = Weights(path).read()
    found = Tuned(pipeline_of(code, model, path), model.config.working, model, Plan(1, 1, FAST))
    with pytest.raises(ArgumentError, match="has no encoder whose code a generator could be tuned around"):
        tuned_rows(found, pictures, Judges(), None, "PTI")


def test_the_command_prints_how_many_pictures_were_tuned_to(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tunings: list[int]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    words = ["--size", str(SIDE), "--count", "3", "--processes", "1", "--seed", "900000", "--photo"]
    assert main(["dataset", "--out", str(data), *words]) == 0
    reader, ways = tmp_path / "reader.safetensors", tmp_path / "directions"
    write_safetensors(reader, PortraitReader().state_dict(), {"format": READER_FORMAT})
    ways.mkdir()
    write_safetensors(ways / "smile.safetensors", {"direction": torch.ones(1, small.SMALL.style_width)}, {"kind": "direction"})
    base = ["evaluate", "--data", str(data), "--runs", "1", "--threads", "1", "--tune", str(checkpoint)]
    short = ["--tune-count", "2", "--tune-steps", "2", "--out", str(out)]
    capsys.readouterr()
    assert main([*base, *short]) == 2
    assert "the tuning's loss needs a perceptual network; name its weights with --tune-perceptual" in capsys.readouterr().err
    everything = [*base, *short, str(checkpoint), "--tune-perceptual", str(reader), "--published", "--tune-set", "stop=0"]
    everything += ["--identity", str(reader), "--reader", str(reader), "--directions", str(ways)]
    assert main(everything) == 0
    text = capsys.readouterr().out
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines[:6] == ["| method", "| ---", "| e4e", "| e4e, the paper", "| PTI, 2 pictures", "| PTI, 2 pictures, the paper"]
    said = "PTI, 2 pictures: the generator was tuned to each of the first 2 pictures from e4e's code, 2 steps on average."
    assert said in text and "3 pictures, judged at" in text
    report = json.loads((out / "evaluation.json").read_text())
    about = report["models"]["PTI, 2 pictures"]
    assert (about["method"], about["pictures"], about["steps"], about["pivot"]) == ("pti", 2, 2, "e4e")
    assert set(report["edits"]["PTI, 2 pictures"]) == {"smile"} and report["inversion"]["PTI, 2 pictures"]["ID"] <= 1
    begun = len(tunings)
    assert main(everything) == 0 and len(tunings) == begun  # all of it is kept
    assert main(["evaluate", "--data", str(data)]) == 2
    assert "there is nothing to measure; name a bundle or a checkpoint, or one with --tune" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(data), "--tune", str(tmp_path), "--tune-set", "perceptual=0"]) == 2
    assert f"{tmp_path} is a bundle, whose generator cannot be tuned; give --tune the checkpoint" in capsys.readouterr().err
