"""Pivotal tuning: its losses and stops on a small model, its checkpoint through the command, and the official numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import official_methods as official
import pytest
import small_methods as small
import torch
from official_checkpoint import DATA, example_edits, example_pictures
from PIL import Image
from torch import Tensor

from sdic_runtime.errors import ArgumentError
from sdic_train.checkpoints.load import read_checkpoint
from sdic_train.cli.app import main
from sdic_train.config import FACES
from sdic_train.methods import METHODS, method_of_file
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.tuning import Tuning, TuningRecipe, pivots_of

FAST = TuningRecipe(rate=3e-3)


def pooled(a: Tensor, b: Tensor) -> Tensor:
    """A stand-in for LPIPS: squared differences of means of 8 x 8 pixels, [N]."""
    return torch.nn.functional.avg_pool2d(a - b, 8).square().mean((1, 2, 3))


def tuning(recipe: TuningRecipe = FAST, pictures: int = 1) -> Tuning:
    model = small.small_model("e4e")
    images = small.small_images(model.config, pictures)
    return Tuning(model.generator, pivots_of(model, images), images, recipe, pooled, model.latent_avg)


def test_the_pictures_come_nearer_and_only_the_synthesis_moves() -> None:
    made = tuning(replace(FAST, stop=0.0))
    before = {name: tensor.clone() for name, tensor in made.generator.state_dict().items()}
    steps = list(made.steps(12))
    assert len(steps) == 12 and steps[-1].total < 0.7 * steps[0].total
    moved = {name for name, tensor in made.generator.state_dict().items() if not torch.equal(tensor, before[name])}
    still = {name for name in before if name.startswith(("style.", "noises.")) or name.endswith(".kernel")}
    assert moved == set(before) - still
    with torch.no_grad():
        picture = made.generator(made.pivots)
    assert torch.nn.functional.mse_loss(picture, made.targets).item() < steps[-1].l2


def test_the_bars_of_a_letterboxed_domain_are_not_compared() -> None:
    losses = []
    for change in (0.0, 1.0):
        made = tuning(replace(FAST, stop=0.0))
        config = made.generator.config
        made.generator.config = replace(config, encoder=replace(config.encoder, crop=(config.working // 8, config.working * 7 // 8)))
        made.targets = made.targets.clone()
        made.targets[:, :, : config.resolution // 8] += change
        losses.append(next(made.steps(1)))
    assert losses[0] == losses[1]


def test_a_single_picture_stops_before_the_step_and_several_take_turns() -> None:
    made = tuning(replace(FAST, stop=1e9))
    before = made.generator.conv1.conv.weight.clone()
    assert len(list(made.steps(5))) == 1 and torch.equal(made.generator.conv1.conv.weight, before)
    steps = list(tuning(replace(FAST, stop=1e9), pictures=2).steps(2))
    assert [step.picture for step in steps] == [0, 1, 0, 1]


def test_locality_is_nothing_at_first_and_compares_at_its_reach() -> None:
    made = tuning(replace(FAST, locality=0.1, stop=0.0))
    around = made._around(made.pivots, 0)
    assert (around - made.pivots).norm().item() == pytest.approx(30, rel=1e-5)
    steps = list(made.steps(3))
    assert steps[0].locality == 0 and steps[1].locality > 0
    assert steps[1].total == pytest.approx(steps[1].l2 + steps[1].perceptual + steps[1].locality, rel=1e-5)


def test_what_does_not_fit_is_one_sentence() -> None:
    model = small.small_model("e4e")
    images = small.small_images(model.config, 1)
    pivots = pivots_of(model, images)
    with pytest.raises(ArgumentError, match=r"the targets are \[1, 3, 64, 64\]; tuning needs a picture of 128 x 128"):
        Tuning(model.generator, pivots, images[:, :, :64, :64], FAST, pooled)
    with pytest.raises(ArgumentError, match="the loss perceptual needs a network"):
        Tuning(model.generator, pivots, images, FAST)
    with pytest.raises(ArgumentError, match="has no encoder that gives a code to tune around"):
        pivots_of(small.small_model("sfe-inverter"), images)


@pytest.mark.parametrize("method", ["restyle-e4e", "psp"])
def test_the_code_tuned_around_is_that_of_the_inversion(method: str) -> None:
    model = small.small_model(method)
    images = small.small_images(model.config, 1)
    inverted = official.torch_backend(METHODS[method], model).run_program("invert", {"image": images})
    assert torch.equal(pivots_of(model, images), inverted["latent"])


def photo(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((160, 160), Image.Resampling.BICUBIC).save(path)
    return path


def test_the_command_writes_a_checkpoint_of_the_person(tmp_path: Path) -> None:
    checkpoint = small.write_small(tmp_path / "e4e.pt", "e4e")
    pictures = [str(photo(tmp_path / f"{index}.png", index)) for index in range(2)]
    settings = ["--set", "perceptual=0", "--set", "rate=0.003", "--steps", "3", "--device", "cpu"]
    assert main(["tune", *pictures, "--model", str(checkpoint), "--out", str(tmp_path / "me.safetensors"), *settings]) == 0
    assert method_of_file(tmp_path / "me.safetensors") is METHODS["e4e"]
    tuned, original = (METHODS["e4e"].load(path, None) for path in (tmp_path / "me.safetensors", checkpoint))
    assert torch.equal(tuned.latent_avg, original.latent_avg)
    assert torch.equal(tuned.encoder.styles[0].linear.weight, original.encoder.styles[0].linear.weight)
    assert not torch.equal(tuned.generator.conv1.conv.weight, original.generator.conv1.conv.weight)


@pytest.mark.parametrize("method", ["hfgi", "sfe"])
def test_a_method_that_adds_a_feature_leaves_its_encoder_and_generator(method: str, tmp_path: Path) -> None:
    checkpoint, out = small.write_small(tmp_path / "model.pt", method), tmp_path / "me.safetensors"
    settings = ["--set", "perceptual=0", "--steps", "1", "--device", "cpu"]
    assert main(["tune", str(photo(tmp_path / "a.png")), "--model", str(checkpoint), "--out", str(out), *settings]) == 0
    assert read_checkpoint(out).kind == "e4e"


def test_a_generator_alone_needs_a_pivot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator, out = tmp_path / "generator.pt", str(tmp_path / "me.safetensors")
    torch.save({"g_ema": small.small_model("e4e").generator.state_dict()}, generator)
    command = ["tune", str(photo(tmp_path / "a.png")), "--model", str(generator), "--set", "perceptual=0"]
    assert main([*command, "--out", out]) == 2
    assert "is a generator without an encoder; give a saved inversion with --pivot" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "me.pt")]) == 2
    assert "give a name that ends in .safetensors" in capsys.readouterr().err


SMALLER = replace(FACES, resolution=256, channels={4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128})


def official_generator() -> Generator:
    with torch.device("meta"):
        generator = Generator(SMALLER)
    shapes = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    state = {name: torch.from_numpy(np.asarray(official.drawn_pti(f"decoder.{name}", shape))) for name, shape in shapes.items()}
    generator.load_state_dict(state, assign=True)
    return generator


def picture_parts(name: str, picture: Tensor) -> official.Arrays:
    array = picture.detach().numpy()
    return {f"{name}.slice": array[:, :, 1::2, 1::2], f"{name}.crop": array[:, :, 104:152, 104:152], **official.stats(name, array)}


@pytest.mark.full
@pytest.mark.parametrize("form", ["w", "wplus"])
def test_the_official_numbers(form: str) -> None:
    with np.load(DATA / "methods" / "pti.expected.npz") as file:
        want = {name.removeprefix(f"{form}."): array for name, array in file.items() if name.startswith(f"{form}.")}
    generator, target = official_generator(), torch.from_numpy(example_pictures(official.SEED, 1))
    pivot = torch.from_numpy(want["pivot"]).expand(1, 14, -1) if form == "w" else torch.from_numpy(official.pti_code())
    direction = torch.from_numpy(example_edits(official.SEED, 14)[0])
    with torch.no_grad():
        got = picture_parts("before", generator(pivot))
    made = Tuning(generator, pivot, target, TuningRecipe(stop=0.0), pooled)
    losses = np.array([(step.l2, step.perceptual, step.total) for step in made.steps(5)])
    np.testing.assert_allclose(losses, want["losses"], rtol=1e-4)
    with torch.no_grad():
        got |= picture_parts("inversion", generator(pivot)) | picture_parts("edit", generator(pivot + 1.5 * direction))
    ratio, array = official.worst({name: official.cut(name, value) for name, value in got.items()}, want)
    assert ratio <= 1e-3, array


@pytest.mark.full
def test_the_official_locality() -> None:
    with np.load(DATA / "methods" / "pti.expected.npz") as file:
        want = file["regularized.losses"]

    class Drawn(Tuning):
        def random_code(self, step: int) -> Tensor:
            return torch.from_numpy(official.drawn(f"pti.noises.z.{step}", (1, 512)))

    average = torch.from_numpy(official.drawn("latent_avg", (512,)))
    target = torch.from_numpy(example_pictures(official.SEED, 1))
    recipe = TuningRecipe(stop=0.0, locality=0.1)
    steps = Drawn(official_generator(), torch.from_numpy(official.pti_code()), target, recipe, pooled, average).steps(3)
    np.testing.assert_allclose([(step.l2, step.perceptual, step.total) for step in steps], want, rtol=1e-4)
