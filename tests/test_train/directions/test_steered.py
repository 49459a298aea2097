"""Directions trained on pairs of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from other_device import OTHER
from PIL import Image

from sdic_runtime.directions import load_direction
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_runtime.pictures import to_images
from sdic_train.checkpoints.files import write_safetensors
from sdic_train.checkpoints.load import save_checkpoint
from sdic_train.cli.app import main
from sdic_train.cli.steering import Plan, steer_drawn
from sdic_train.config import TINY
from sdic_train.data.pairs import Pair
from sdic_train.directions.steered import Steering, SteeringRecipe, as_direction, reached
from sdic_train.networks.encoded import Encoded
from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader
from sdic_train.networks.sdic.model import SDIC
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.compute import Compute

PLAIN = SteeringRecipe(rate=1.0, perceptual=0)  # the encoder is random, and what it sees much too little


@pytest.fixture(scope="module")
def model() -> SDIC:
    torch.manual_seed(5)
    return SDIC(TINY).eval().requires_grad_(False)


@torch.no_grad()
def known_pairs(model: Encoded, truth: torch.Tensor) -> Iterator[Pair]:
    """Pictures whose edits by a known step are their second ones, but for what the inversions lack."""
    random = torch.Generator().manual_seed(1)
    for index in range(6):
        before = (torch.rand(1, 3, TINY.working, TINY.working, generator=random) * 2 - 1) * 0.9
        amount = (-1.0) ** index
        if isinstance(model, SDIC):
            found = model.invert(before)
            own, edited = found.picture, model.edit(found, amount * truth)
        else:
            code = model.encode(before)
            own, edited = model.generator(code), model.generator(code + amount * truth)
        lacks = downsample(own.clamp(-1, 1), TINY.working) - before
        yield Pair(before, downsample(edited, TINY.working) - lacks, amount)


@pytest.mark.parametrize("method", ["sdic", "e4e"])
def test_the_step_between_known_pairs_is_found(method: str, model: SDIC, make_compute: Callable[..., Compute]) -> None:
    network: Encoded = model
    if method == "e4e":
        network = Encoded(TINY)
        network.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(("dipn", "dicn"))})
        network.eval().requires_grad_(False)
    truth = 0.1 * torch.randn(TINY.rows, TINY.style_width, generator=torch.Generator().manual_seed(2))
    runs = []
    for _ in range(2):
        steering = Steering(network, PLAIN, make_compute(3))
        for pair in known_pairs(network, truth):
            steering.add(pair)
        losses = [each["pixels"] for each in steering.train(60)]
        runs.append((losses, steering.step))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert sum(losses[-5:]) < 0.35 * sum(losses[:5])
    assert torch.cosine_similarity(steering.step.flatten(), truth.flatten(), 0) > 0.5
    assert steering.amounts == (-1, 1) and not steering.step.requires_grad


def test_how_far_a_step_moves_is_read_along_the_amounts(model: SDIC, make_compute: Callable[..., Compute]) -> None:
    steering = Steering(model, PLAIN, make_compute(2))
    for pair in known_pairs(model, torch.ones(TINY.rows, TINY.style_width)):
        steering.add(pair)
    steering.step = torch.ones(TINY.rows, TINY.style_width)
    assert steering.moved(lambda picture: torch.ones(len(picture)), [1.0]) == (0, [0])
    steering._kept = steering._kept[:2]
    changes = [
        float((steering.edited([kept], 0.5).clamp(-1, 1) - steering.edited([kept], 0.0).clamp(-1, 1)).mean()) for kept in steering._kept
    ]
    assert [kept.amount for kept in steering._kept] == [1, -1]
    steering.add(next(known_pairs(model, torch.zeros(TINY.rows, TINY.style_width)))._replace(further=True))  # is not measured
    asked, found = steering.moved(lambda picture: picture.mean((1, 2, 3)), [0.5, 0.0])
    wanted = [float((kept.wanted.clamp(-1, 1) - steering.edited([kept], 0.0).clamp(-1, 1)).mean()) for kept in steering._kept[:2]]
    assert asked == pytest.approx((wanted[0] - wanted[1]) / 2, abs=1e-6)
    assert found == pytest.approx([(changes[0] - changes[1]) / 2, 0], abs=1e-6) and found[0] != 0


@pytest.mark.parametrize(
    ("asked", "found", "times", "far"),
    [
        (1.0, [1.1, 1.3, 1.5, 1.7, 1.9], 1.0, 1.1),  # there already
        (1.0, [0.8, 0.9, 1.1, 1.2, 1.3], 1.375, 1.0),  # between two
        (1.0, [0.9, 0.93, 0.95, 0.96, 0.97], 1.0, 0.9),  # what follows is not worth it
        (1.0, [0.6, 0.7, 0.75, 0.76, 0.77], 1.5, 0.75),
        (1.0, [0.4, 0.5, 0.6, 0.7, 0.8], 2.0, 0.8),
        (1.0, [-0.1, -0.2, -0.3, -0.4, -0.5], 1.0, -0.1),
    ],
)
def test_the_range_ends_where_more_is_not_asked_or_not_worth_it(asked: float, found: list[float], times: float, far: float) -> None:
    assert reached(asked, found) == pytest.approx((times, far))


def test_the_direction_has_rows_of_length_one_and_the_range_of_the_amounts() -> None:
    direction = as_direction(torch.full((3, 4), 2.0), (-0.5, 1.0), "smile", "trained")
    assert direction.strength_range == (-2, 4) and direction.vector.shape == (3, 4)
    assert direction.vector[0] @ direction.vector[0] == pytest.approx(1)


def test_what_cannot_be_trained_on_is_told(model: SDIC, make_compute: Callable[..., Compute]) -> None:
    with pytest.raises(ArgumentError, match="the loss perceptual needs a network"):
        Steering(model, SteeringRecipe(), make_compute(2))
    steering = Steering(model, PLAIN, make_compute(2))
    with pytest.raises(ArgumentError, match="there are no pairs"):
        next(steering.train(1))
    picture = torch.zeros(1, 3, TINY.working, TINY.working)
    steering.add(Pair(picture, picture, 1.0))
    with pytest.raises(ArgumentError, match="have the same codes"):
        next(steering.train(1))


@pytest.fixture(scope="module")
def reader_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    write_safetensors(path, {name: value.contiguous() for name, value in PortraitReader().state_dict().items()}, {"format": READER_FORMAT})
    return path


def test_the_command_draws_pairs(model: SDIC, reader_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {name: getattr(model, name) for name in ("encoder", "generator", "dipn", "dicn")}
    save_checkpoint(tmp_path / "model.safetensors", TINY, model.latent_avg, **parts)
    words = ["directions", "steer", "--model", tmp_path / "model.safetensors", "--attributes", "glasses, light", "--count", 3, "--steps", 2]
    words += ["--batch", 2, "--perceptual", reader_file, "--device", "cpu", "--threads", 1, "--out", tmp_path / "out"]
    assert main([str(word) for word in [*words, "--reader", reader_file]]) == 0
    captured = capsys.readouterr()
    assert "glasses: pixels " in captured.err and "perceptual " in captured.err and "light.safetensors: strengths -" in captured.out
    for name in ("glasses", "light"):
        found = load_direction(tmp_path / "out" / f"{name}.safetensors")
        assert isinstance(found, Direction) and found.vector.shape == (TINY.rows, TINY.style_width) and found.strength_range
        assert found.strength_range[0] == -found.strength_range[1] < 0
        assert "trained on 4 pairs of pictures in 2 steps; its range moves photos by" in found.method
    assert main([str(word) for word in [*words[:4], "--attributes", "wit", *words[6:]]]) == 2
    assert '"wit" is no attribute of a portrait' in capsys.readouterr().err
    assert main([str(word) for word in [*words, "--seed", 900_000]]) == 2
    assert "--seed 900000 takes pictures that are kept for evaluation (seeds from 900000 on)" in capsys.readouterr().err


def test_the_reader_reads_where_the_pictures_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        step = torch.ones(2, 3)

        def moved(self, read: Callable[[torch.Tensor], torch.Tensor], times: Sequence[float]) -> tuple[float, list[float]]:
            assert read(torch.empty(1, 3, 128, 128, device=OTHER)).device == OTHER
            return 1.0, [1.0] * len(times)

    compute = Compute(2, "cpu")
    compute.device = OTHER
    plan = Plan(tmp_path, tmp_path, 1, PLAIN, compute, None)
    monkeypatch.setattr(Plan, "networks", lambda plan: SDIC(TINY))
    monkeypatch.setattr(Plan, "trained", lambda *_: Elsewhere())
    steer_drawn(plan, ["light"], 2, 1, PortraitReader().eval())
    assert load_direction(tmp_path / "light.safetensors").name == "light"  # type: ignore[union-attr]


def test_the_command_takes_a_file_of_pairs(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = torch.Generator().manual_seed(0)
    for name in "abcd":
        to_images((torch.rand(1, 3, 20, 20, generator=random) * 2 - 1).numpy())[0].resize((70, 70), Image.Resampling.NEAREST).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "beard.csv").write_text("a.png,b.png,0.5\nc.png,d.png,-2\n")
    words = [
        str(word)
        for word in ("directions", "steer", "--model", encoder_file, "--pairs", tmp_path / "beard.csv", "--out", tmp_path, "--steps", 2)
    ]
    assert main([*words, "--set", "perceptual=0", "--device", "cpu"]) == 0
    found = load_direction(tmp_path / "beard.safetensors")
    assert isinstance(found, Direction) and found.name == "beard" and found.strength_range
    assert found.strength_range[0] == pytest.approx(-4 * found.strength_range[1], rel=0.06)
    capsys.readouterr()
    for more, message in (
        ([], "the loss perceptual needs a network"),
        (["--attributes", "smile"], "give either --pairs"),
        (["--reader", "r.safetensors"], "--reader reads drawn portraits"),
        (["--out", str(encoder_file), "--set", "perceptual=0"], "cannot write into the folder"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
