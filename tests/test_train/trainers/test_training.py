"""Training runs: losses fall, a resumed run repeats an undisturbed one, bad options are one sentence."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import other_device
import pytest
import torch

from sdic_runtime.errors import ArgumentError, SdicError
from sdic_train.checkpoints.load import load_encoder, load_generator, load_sdic
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.identity import ObjectIdentity
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.recognition import ResNet50
from sdic_train.networks.stylegan2 import downsample
from sdic_train.trainers.base import Trainer
from sdic_train.trainers.encoder import EncoderRecipe, EncoderTrainer
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.loops.run import LOG, RESULT, STATE, RunOptions, read_log, train
from sdic_train.trainers.methods.sdic import SdicRecipe, SdicTrainer
from sdic_train.trainers.pictures import batch_pictures
from sdic_train.trainers.reader import ReaderRecipe, ReaderTrainer
from sdic_train.trainers.recipes import ENCODER, SDIC
from sdic_train.trainers.start import with_kept_compensation, with_new_compensation

WIDTHS = {4: 8, 8: 8, 16: 4}
FIT = GeneratorRecipe(size=16, rate=1e-2, adversarial=0.0, fit=1.0, r1=0.0, path=0.0, mixing=0.0, mapping_factor=100.0, momentum=0.5)
Make = Callable[[], Trainer]


@pytest.fixture
def makers(portraits: PictureSet, reader: PortraitReader, encoder_file: Path, make_compute: Callable[..., Any]) -> dict[str, Make]:
    """A tiny trainer of every kind, made anew at each call."""
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)
    stylegan2 = GeneratorRecipe(size=16, r1_every=2, path_every=2)
    code = replace(ENCODER["code"], rate=3e-3, warm_up=0, decay=0.0)

    def sdic(recipe: SdicRecipe) -> Trainer:
        return SdicTrainer(with_new_compensation(encoder_file, 0), recipe, portraits, make_compute(2), 30, *distances)

    return {
        "stylegan2": lambda: GeneratorTrainer(TINY, stylegan2, portraits, make_compute(4), 30, WIDTHS),
        "fit": lambda: GeneratorTrainer(TINY, FIT, portraits, make_compute(4), 30, WIDTHS),
        "encoder": lambda: EncoderTrainer(
            load_generator(encoder_file), EncoderRecipe(rate=1e-3, first_delta=2, delta_every=1), portraits, make_compute(2), 30, *distances
        ),
        "code": lambda: EncoderTrainer(load_generator(encoder_file), code, portraits, make_compute(4), 30, None, None),
        "sdic": lambda: sdic(SdicRecipe()),
        "released": lambda: sdic(SDIC["released"]),
        "reader": lambda: ReaderTrainer(ReaderRecipe(), portraits, make_compute(8), 30),
    }


def _losses(folder: Path) -> list[list[str]]:
    with (folder / LOG).open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize(
    ("kind", "steps", "column"), [("fit", 30, "fit"), ("code", 30, "code"), ("sdic", 48, "l2"), ("reader", 20, "parameters")]
)
def test_losses_fall(kind: str, steps: int, column: str, makers: dict[str, Make], tmp_path: Path) -> None:
    train(makers[kind](), RunOptions(tmp_path, steps))
    values = read_log(tmp_path / LOG)[column]
    assert np.mean(values[-5:]) < 0.8 * np.mean(values[:3])


@pytest.mark.parametrize("kind", ["encoder", "sdic", "reader"])
def test_a_step_stays_on_its_device(kind: str, makers: dict[str, Make], monkeypatch: pytest.MonkeyPatch) -> None:
    assert other_device.steps(makers[kind](), monkeypatch) == {other_device.OTHER}


@pytest.mark.parametrize("kind", ["stylegan2", "fit", "encoder", "sdic", "released", "reader"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(kind: str, makers: dict[str, Make], tmp_path: Path) -> None:
    train(makers[kind](), RunOptions(tmp_path / "whole", 4))

    interrupted = makers[kind]()
    advance = interrupted.advance

    def fail_at_three() -> dict[str, float]:
        if interrupted.step == 3:
            raise KeyboardInterrupt
        return advance()

    interrupted.advance = fail_at_three  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, RunOptions(tmp_path / "killed", 4, save_steps=2))
    again = makers[kind]()
    train(again, RunOptions(tmp_path / "killed", 4, save_steps=2))
    assert _losses(tmp_path / "killed") == _losses(tmp_path / "whole")


def test_results_are_checkpoints(makers: dict[str, Make], tmp_path: Path) -> None:
    for kind in ("fit", "encoder", "sdic"):
        train(makers[kind](), RunOptions(tmp_path / kind, 1))
    assert load_generator(tmp_path / "fit" / RESULT).config == TINY
    encoder, average = load_encoder(tmp_path / "encoder" / RESULT)
    assert average.shape == (encoder.config.rows, encoder.config.style_width)
    model = load_sdic(tmp_path / "sdic" / RESULT)
    assert model(torch.zeros(1, 3, TINY.working, TINY.working)).shape == (1, 3, TINY.resolution, TINY.resolution)


def test_sdic_leaves_encoder_and_generator_alone(makers: dict[str, Make]) -> None:
    trainer = makers["sdic"]()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}  # type: ignore[attr-defined]
    trainer.advance()
    after = trainer.model.state_dict()  # type: ignore[attr-defined]
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"dipn", "dicn"}


def test_the_released_recipe_lets_the_encoders_batch_norm_drift(makers: dict[str, Make]) -> None:
    trainer = makers["released"]()
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}  # type: ignore[attr-defined]
    trainer.advance()
    after = trainer.model.encoder.state_dict()  # type: ignore[attr-defined]
    changed = {name.rsplit(".", 1)[1] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_progressive_deltas_open_one_row_after_the_other(makers: dict[str, Make]) -> None:
    trainer = makers["encoder"]()
    opened = []
    for step in (0, 1, 2, 3, 9):
        trainer.step = step
        opened.append(trainer._deltas())  # type: ignore[attr-defined]
    assert opened == [0, 0, 1, 2, 8]


def test_steps_can_be_raised_where_the_rates_do_not_depend_on_them(
    portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    def run(name: str, steps: int, decay: float) -> list[float]:
        trainer = GeneratorTrainer(TINY, replace(FIT, decay=decay), portraits, make_compute(4), steps, WIDTHS)
        train(trainer, RunOptions(tmp_path / name, steps))
        return read_log(tmp_path / name / LOG)["fit"]

    whole = run("whole", 3, 0.0)
    run("raised", 2, 0.0)
    assert run("raised", 3, 0.0) == whole
    run("falling", 2, 0.5)
    with pytest.raises(ArgumentError, match=r"holds a run of 2 steps \(now 3\), and its rates fall towards their end; start another"):
        run("falling", 3, 0.5)


def test_another_recipe_does_not_resume(
    makers: dict[str, Make], portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    train(makers["fit"](), RunOptions(tmp_path, 1))
    other = GeneratorTrainer(TINY, replace(FIT, rate=0.5), portraits, make_compute(4), 30, WIDTHS)
    with pytest.raises(SdicError) as caught:
        train(other, RunOptions(tmp_path, 2))
    assert (
        str(caught.value) == f"{tmp_path} holds a run with another rate (0.01, now 0.5); give the same options, another --out, or --restart"
    )


def test_a_damaged_state_is_named(makers: dict[str, Make], tmp_path: Path) -> None:
    train(makers["fit"](), RunOptions(tmp_path, 1))
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(SdicError, match=r"^the saved state .*state\.pt cannot be read \(\w+\); delete it to start again, or restore it$"):
        train(makers["fit"](), RunOptions(tmp_path, 2))


def test_tensorboard_holds_every_step_of_a_killed_run_once(makers: dict[str, Make], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed = makers["fit"]()
    advance = killed.advance

    def fail_at_three() -> dict[str, float]:
        if killed.step == 3:
            raise KeyboardInterrupt
        return advance()

    killed.advance = fail_at_three  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(killed, RunOptions(tmp_path, 5, save_steps=2, tensorboard=True))
    train(makers["fit"](), RunOptions(tmp_path, 5, tensorboard=True))
    logs = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    logs.Reload()
    assert {"generator", "fit"} <= set(logs.Tags()["scalars"])
    events = logs.Scalars("fit")
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert np.allclose([event.value for event in events], read_log(tmp_path / LOG)["fit"])


def test_without_tensorboard_nothing_is_begun(makers: dict[str, Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SdicError) as caught:
        train(makers["fit"](), RunOptions(tmp_path / "run", 1, tensorboard=True))
    assert str(caught.value) == '--tensorboard needs the package "tensorboard"; install it with: pip install "sdic-toolkit[train]"'
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(makers: dict[str, Make], tmp_path: Path) -> None:
    trainer = makers["fit"]()
    with torch.no_grad():
        trainer.generator.input.input.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(
        SdicError,
        match=r'^the loss "generator" became nan at step 1; begin again with a smaller rate \(--set rate=...\), in another folder than',
    ):
        train(trainer, RunOptions(tmp_path, 2))
    assert not (tmp_path / STATE).exists()


def test_what_a_generator_cannot_grow_from_is_one_sentence(
    makers: dict[str, Make], portraits: PictureSet, make_compute: Callable[..., Any]
) -> None:
    other = GeneratorTrainer(replace(TINY, style_width=32), FIT, portraits, make_compute(4), 1, WIDTHS)
    for state, sentence in (
        (makers["encoder"]().state(), "the run to grow from trained no generator; name the folder of a run of"),
        (other.state(), r"the run to grow from has a generator of other sizes \(\S+ is \[.*\] instead of \[.*\]\); give the --sizes"),
    ):
        with pytest.raises(ArgumentError, match=f"^{sentence}"):
            makers["fit"]().grow_from(state)  # type: ignore[attr-defined]


def test_identity_is_float32_under_mixed_precision(reader: PortraitReader) -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for network in (PortraitIdentity(reader), ObjectIdentity(ResNet50().eval())):
            found = network(pictures, pictures)
            assert found.dtype == torch.float32 and found.abs().max() < 1e-6  # a cosine in bfloat16 is wrong in the third digit


def test_missing_labels_networks_and_wrong_batches_are_one_sentence(
    portraits: PictureSet, encoder_file: Path, make_compute: Callable[..., Any]
) -> None:
    unlabelled = PictureSet(portraits.pictures)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: GeneratorTrainer(TINY, FIT, unlabelled, make_compute(4), 1, WIDTHS),
            "the loss fit needs labelled pictures (the portraits); use --set fit=0 for a folder",
        ),
        (
            lambda: GeneratorTrainer(TINY, replace(FIT, size=256), portraits, make_compute(4), 1, WIDTHS),
            "the training size 256 does not fit a generator of 128; use a power of two from 8 to it",
        ),
        (
            lambda: SdicTrainer(with_new_compensation(encoder_file, 0), SdicRecipe(), portraits, make_compute(2), 1, None, None),
            "the loss perceptual has the weight 0.8 and no network; name its weights with --perceptual, or use --set perceptual=0",
        ),
        (
            lambda: SdicTrainer(
                with_new_compensation(encoder_file, 0), SdicRecipe(optimizer="sgd"), portraits, make_compute(2), 1, None, None
            ),
            'the optimizer "sgd" is unknown; use ranger or adam',
        ),
        (lambda: make_compute(6, accumulate=4), "the batch of 6 cannot be cut into 1 processes times 4 parts; use a multiple of 4"),
        (lambda: make_compute(4, precision="fp8"), 'the precision "fp8" is unknown; use fp32 or bf16'),
    ]
    for make, sentence in cases:
        with pytest.raises(SdicError) as caught:
            make()
        assert str(caught.value) == sentence


def test_without_context_the_volume_is_all_that_counts(
    portraits: PictureSet, reader: PortraitReader, encoder_file: Path, make_compute: Callable[..., Any]
) -> None:
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)
    trainer = SdicTrainer(with_new_compensation(encoder_file, 0), SdicRecipe(context=False), portraits, make_compute(2), 9, *distances)
    trainer.advance()
    fusion = trainer.model.dipn.hourglass_fusion.CGF_16.eval()
    volume, context = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        assert torch.allclose(fusion(volume, context), fusion.agg(volume), atol=1e-6)


def test_a_kept_compensation_goes_on_where_the_run_before_ended(
    portraits: PictureSet, reader: PortraitReader, encoder_file: Path, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)
    recipe = SdicRecipe(optimizer="adam", fusion="affine")
    train(
        SdicTrainer(with_new_compensation(encoder_file, 0, fusion="affine"), recipe, portraits, make_compute(2), 9, *distances),
        RunOptions(tmp_path, 2),
    )
    model = with_kept_compensation(tmp_path / RESULT, "affine")
    again = SdicTrainer(model, replace(recipe, keep=True), portraits, make_compute(2), 9, *distances)
    image, _ = batch_pictures(portraits, 2, TINY.working, torch.Generator().manual_seed(0), mirror=True)
    with torch.no_grad():
        pictures = downsample(load_sdic(tmp_path / RESULT)(image), TINY.working)
    norm = model.dipn.corr_stem.bn.running_var.clone()
    assert again.advance()["l2"] == pytest.approx((pictures - image).square().mean().item(), rel=1e-4)
    assert torch.equal(model.dipn.corr_stem.bn.running_var, norm)


def test_settled_batch_norm_is_the_one_that_is_used_later(
    portraits: PictureSet, reader: PortraitReader, encoder_file: Path, make_compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdic_train.trainers.methods.method.SETTLING", 3)
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)
    trainer = SdicTrainer(with_new_compensation(encoder_file, 0), SdicRecipe(settle_norm=1), portraits, make_compute(2), 9, *distances)
    norm = trainer.model.dipn.corr_stem.bn
    trainer.advance()
    moving = norm.running_var.clone()
    trainer.advance()
    settled = norm.running_var.clone()
    trainer.advance()
    assert not torch.allclose(moving, settled)
    assert torch.equal(norm.running_var, settled)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("optimizer", ["adam", "ranger"])
def test_the_optimizer_begins_anew_when_batch_norm_is_settled(
    optimizer: str,
    portraits: PictureSet,
    reader: PortraitReader,
    encoder_file: Path,
    make_compute: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its memory is of gradients through the batches' statistics; with it, and at the whole rate, a good network is lost in ten steps."""
    monkeypatch.setattr("sdic_train.trainers.methods.method.SETTLING", 1)
    recipe = SdicRecipe(rate=0.01, optimizer=optimizer, warm_up=2, settle_norm=3)
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)
    trainer = SdicTrainer(with_new_compensation(encoder_file, 0), recipe, portraits, make_compute(2), 99, *distances)
    rates, before = list[float](), trainer.optimizer
    for _ in range(6):
        trainer.advance()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005, 0.01, 0.01])
    again = trainer.optimizer
    assert again is not before and len(again.state) == len(before.state) > 0
    assert {id(weight) for weight in again.state} == {id(weight) for weight in trainer.trained.parameters()}
    if optimizer == "adam":
        assert {int(state["step"]) for state in again.state.values()} == {3}


def test_a_run_without_context_resumes_behind_its_settling(
    portraits: PictureSet,
    reader: PortraitReader,
    encoder_file: Path,
    make_compute: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("sdic_train.trainers.methods.method.SETTLING", 1)

    def run(folder: str, stop: int) -> list[float]:
        recipe = SdicRecipe(rate=0.01, optimizer="adam", settle_norm=2, context=False)
        judges = PortraitPerceptual(reader), PortraitIdentity(reader)
        trainer = SdicTrainer(with_new_compensation(encoder_file, 0), recipe, portraits, make_compute(2), 4, *judges)
        train(trainer, RunOptions(tmp_path / folder, stop))
        assert len(trainer.optimizer.param_groups[0]["params"]) < len(list(trainer.trained.parameters()))
        return read_log(tmp_path / folder / LOG)["total"]

    whole = run("whole", 4)
    run("again", 3)
    assert run("again", 4) == whole


def test_another_seed_sees_other_pictures(makers: dict[str, Make], monkeypatch: pytest.MonkeyPatch) -> None:
    from sdic_train.trainers.methods import method

    seen: list[torch.Tensor] = []
    drawn = method.batch_pictures

    def watched(*given: Any) -> Any:
        pictures, values = drawn(*given)
        seen.append(pictures.clone())
        return pictures, values

    monkeypatch.setattr(method, "batch_pictures", watched)
    first, same, other = (makers["sdic"]() for _ in range(3))
    other.recipe = replace(other.recipe, seed=1)
    for trainer in (first, same, other):
        trainer.advance()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
