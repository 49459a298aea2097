"""The recipes of all methods: losses fall, a resumed run repeats an undisturbed one, what is frozen stays; the result is a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import other_device
import pytest
import torch
from fake_graphs import FakeGraphs
from PIL import Image
from torch import nn

from sdic_runtime.edits import Direction
from sdic_runtime.errors import SdicError
from sdic_train.checkpoints.files import read_safetensors, write_safetensors
from sdic_train.checkpoints.load import describe, load_encoder, load_generator, read_checkpoint, save_checkpoint
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.losses.portrait import PortraitIdentity, PortraitPerceptual
from sdic_train.methods import METHODS, method_of_file
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.portrait_reader import PortraitReader
from sdic_train.networks.stylegan2 import Generator
from sdic_train.pipelines import Weights, pipeline_of
from sdic_train.trainers.base import Trainer
from sdic_train.trainers.encoder import EncoderTrainer
from sdic_train.trainers.loops import graphs
from sdic_train.trainers.loops.run import RESULT
from sdic_train.trainers.methods import method as method_trainer
from sdic_train.trainers.methods.hfgi import CORNERS, perspective, warped
from sdic_train.trainers.methods.method import MethodTrainer
from sdic_train.trainers.methods.trainings import TRAININGS, Sources, new_model
from sdic_train.trainers.recipes import ENCODER, METHOD
from sdic_train.trainers.start import backbone_weights, take

# What a tiny training can show: fewer iterations, a rate at which twelve steps matter, and every schedule within them.
SHORT = {
    "rate": 5e-3, "optimizer": "adam", "warm_up": 0, "settle_norm": 0, "iterations": 2, "first_delta": 0, "delta_every": 100, "blend": 1,
    "first_adversarial": 1, "latent_r1_every": 2, "r1_every": 2, "body": 1, "shallow": True, "narrow": 4,
}  # fmt: skip
OWN = {"fs": {"rate": 1e-3}, "restyle-psp": {"first_delta": -1}}  # of a method
STEPS = 4
ALL_ROWS = 10_000  # steps by which all have come in
Make = Callable[..., MethodTrainer]


def short(recipe: Any, **changes: Any) -> Any:
    known = {name: value for name, value in SHORT.items() if hasattr(recipe, name)}
    return replace(recipe, **{**known, **changes})


@pytest.fixture(autouse=True)
def _settle_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_trainer, "SETTLING", 1)


@pytest.fixture(scope="module")
def w_encoder_file(encoder_file: Path, portraits: PictureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder into W that has not learned anything."""
    from sdic_train.trainers.compute import Compute

    recipe = replace(ENCODER["w"], perceptual=0.0, identity=0.0)
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    EncoderTrainer(load_generator(encoder_file), recipe, portraits, Compute(2, "cpu"), 1, None, None).save(path)
    return path


@pytest.fixture
def make(
    portraits: PictureSet,
    reader: PortraitReader,
    encoder_file: Path,
    w_encoder_file: Path,
    make_compute: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Make:
    """A tiny trainer of a method and a recipe."""

    def made(method: str, recipe: str, batch: int = 2, earlier: Path | None = None, **changes: Any) -> MethodTrainer:
        training, chosen = TRAININGS[method], short(METHOD[method][recipe], **{**OWN.get(method, {}), **changes})
        encoder = w_encoder_file if method == "hyperstyle" else encoder_file
        if training.starts_from and earlier is None:
            earlier = tmp_path_factory.mktemp("inverter") / RESULT
            made("sfe-inverter", recipe).save(earlier)
        model = new_model(method, Sources(encoder_file, encoder, None, earlier), chosen)
        vector = np.random.default_rng(0).normal(size=(1, TINY.style_width)).astype(np.float32)
        options = {"directions": [Direction(vector, strength_range=(-1, 1))]} if training.edits else {}
        distances = PortraitPerceptual(reader), PortraitIdentity(reader)
        return training.trainer(model, chosen, portraits, make_compute(batch), STEPS, *distances, **options)

    return made


def saved(trainer: Trainer) -> Any:
    """Its state after a trip through a file."""
    file = io.BytesIO()
    torch.save(trainer.state(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("recipe", ["paper", "demo"])
@pytest.mark.parametrize("method", TRAININGS)
def test_losses_fall(method: str, recipe: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(method, recipe)
    monkeypatch.setattr(trainer, "random", lambda: torch.Generator().manual_seed(0))  # the same pictures in every step
    totals = [trainer.advance()["total"] for _ in range(STEPS)]
    assert totals[-1] < 0.97 * totals[0]


@pytest.mark.parametrize("method", ["restyle-psp", "restyle-e4e", "hyperstyle"])
def test_batch_norm_is_settled_with_the_iterations_of_the_recipe(method: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdic_train.trainers.methods.method.SETTLING", 1)
    trainer = make(method, "demo", iterations=3)
    owner, name = (trainer.model.hypernet, "steps") if method == "hyperstyle" else (trainer.model, "step")
    watched = Mock(wraps=getattr(owner, name))
    monkeypatch.setattr(owner, name, watched)
    trainer.settle()
    assert watched.call_count == 3


@pytest.mark.parametrize("method", TRAININGS)
def test_a_run_that_goes_on_from_another_keeps_what_it_learned(method: str, make: Make, tmp_path: Path) -> None:
    first = make(method, "demo")
    with torch.no_grad():
        for weight in first.trained.parameters():
            weight += 0.25
    first.step = ALL_ROWS
    first.save(tmp_path / RESULT)
    second = make(method, "demo", earlier=tmp_path / RESULT)
    for (name, before), after in zip(first.trained.named_parameters(), second.trained.parameters(), strict=True):
        torch.testing.assert_close(after, before, msg=name)


@pytest.mark.parametrize("method", TRAININGS)
def test_losses_fall_and_a_resumed_run_has_the_same(method: str, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    earlier = None
    if TRAININGS[method].starts_from:
        earlier = tmp_path / RESULT
        make("sfe-inverter", "released").save(earlier)
    first, again = (make(method, "released", settle_norm=STEPS - 1, earlier=earlier) for _ in range(2))
    for trainer in (first, again):
        monkeypatch.setattr(trainer, "random", lambda: torch.Generator().manual_seed(0))
    found = [first.advance() for _ in range(STEPS - 1)]
    again.load_state(saved(first))
    found.append(first.advance())
    assert found[-1] == again.advance()
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.model.state_dict().items())
    assert found[-2]["total"] < 0.97 * found[0]["total"]
    assert set(found[-1]) <= set(first.losses)


def test_rows_and_features_come_in_on_schedule(make: Make) -> None:
    trainer = make("restyle-e4e", "paper", first_delta=2, delta_every=2)
    found = []
    for trainer.step in (0, 2, 3, 4, 30):
        found.append((trainer._deltas(), sorted(trainer._of_code(trainer.model.latent_avg[None]))))
    every, last = ["delta", "latent_adversarial"], ["latent_adversarial"]
    assert found == [(0, every), (1, every), (1, every), (2, every), (None, last)]
    fs, clcae = make("fs", "paper", blend=4), make("clcae", "released", batch=4)
    assert [fs.mix for fs.step in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    assert [clcae.mix for clcae.step in (0, 1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1, 1 / 3])  # an epoch is twelve pictures


@pytest.mark.parametrize("method", TRAININGS)
def test_only_what_trains_changes(method: str, make: Make) -> None:
    for recipe in ("paper", "released"):
        trainer = make(method, recipe)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.advance()
        changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
        own = {id(module) for module in trainer.trained}
        trained = tuple(f"{name}." for name, module in trainer.model.named_modules() if id(module) in own)
        drifting = {name for name in changed if not name.startswith(trained)}
        assert changed - drifting
        assert bool(drifting) == (recipe == "released" and bool(trainer.drifting))
        assert all(".running_" in name or name.endswith(".num_batches_tracked") for name in drifting)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_as_many_edits_are_learned_in_any_number_of_parts(
    parts: int, make: Make, make_compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, deltas, edited, inverted = make("sfe", "paper", batch=4), list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    compute: Any = make_compute(4, accumulate=parts)
    trainer.compute = trainer.adversary.compute = compute  # type: ignore[attr-defined]
    editor, edits, judged = trainer.model.editor.forward, trainer.edits, trainer.judged  # type: ignore[attr-defined]
    monkeypatch.setattr(trainer.model.editor, "forward", lambda fused, delta: (deltas.extend(delta), editor(fused, delta))[1])
    monkeypatch.setattr(trainer, "edits", lambda image, offset: (edited.extend(image), edits(image, offset))[1])
    monkeypatch.setattr(trainer, "judged", lambda picture: (inverted.extend(picture), judged(picture))[1])
    images = MethodTrainer.batch(trainer, 4, trainer.random())
    trainer.advance()
    assert len(deltas) == 4 and sum(bool(delta.abs().max() > 0) for delta in deltas) == 2 and len(inverted) == 2
    assert torch.equal(torch.stack(edited), images[2:])
    assert trainer.step == 1, "from which the discriminator takes part"
    assert all(np.isfinite(value) for value in trainer.advance().values())


def test_a_batch_that_has_no_edit_is_refused(make: Make) -> None:
    with pytest.raises(SdicError, match=r"^a batch of 1 has no picture left to edit, .*; use --batch 2$"):
        make("sfe", "paper", batch=1)


@pytest.mark.parametrize("method", TRAININGS)
def test_a_step_stays_on_its_device(method: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert other_device.steps(make(method, "demo"), monkeypatch, count=1) == {other_device.OTHER}


@pytest.mark.parametrize("method", ["restyle-psp", "sfe"])
def test_recorded_steps_are_the_steps(method: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    plain, recorded = (make(method, "demo") for _ in range(2))
    recorded.graphs = FakeGraphs(recorded)
    for _ in range(3):
        expected, found = plain.advance(), recorded.advance()
        assert found == pytest.approx(expected, rel=1e-4)
    (graph,) = recorded.graphs.graphs
    assert graph.replays == 3 and recorded.graphs.said == ["steps are CUDA graphs from here on"]  # once to check it


def test_a_phase_is_recorded_anew_and_what_varies_never(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    trainer = make("fs", "demo", settle_norm=5, blend=3)
    trainer.graphs = FakeGraphs(trainer)
    counts = []
    for _ in range(8):
        trainer.advance()
        counts.append(len(trainer.graphs.graphs))
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2]
    varying = (("clcae", "paper"), ("restyle-e4e", "paper"), ("fs", "released"))  # dropout, a discriminator, noise
    assert all(make(method, recipe).phase() is None for method, recipe in varying)


@pytest.mark.parametrize(("options", "told"), [({"fault": "no capture\nmore"}, "no capture"), ({"shift": 1.0}, "became")])
def test_steps_go_on_where_they_cannot_be_recorded(options: Any, told: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    plain, trainer = make("hfgi", "demo"), make("hfgi", "demo")
    trainer.graphs = FakeGraphs(trainer, **options)
    for _ in range(3):
        assert trainer.advance()["total"] == pytest.approx(plain.advance()["total"], rel=1e-3)
    (said,) = trainer.graphs.said
    assert told in said and "more" not in said


def test_mixed_precision_warps_a_map_as_float32_does() -> None:
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    numbers = perspective(CORNERS, CORNERS * 0.93)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found = warped(x, numbers)
    assert torch.allclose(found, warped(x, numbers), atol=1e-5)


def test_the_terms_of_released_weights_are_not_said_of_those_that_were_trained_here(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sdic_train.cli.app import main

    trainer = make("fs", "demo")
    trainer.save(tmp_path / RESULT)
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.effect_noise((64, 64), 90 + index).save(tmp_path / f"in/{index}.png")
    data = str(tmp_path / "data")
    assert main(["dataset", "--from", str(tmp_path / "in"), "--size", "128", "--held-out", "1", "--out", data]) == 0
    assert main(["evaluate", str(tmp_path / RESULT), "--data", data, "--count", "2", "--runs", "1", "--no-baseline"]) == 0
    captured = capsys.readouterr()
    assert "| FS |" in captured.out and "InterDigital" not in captured.err


@pytest.mark.parametrize("method", TRAININGS)
def test_the_result_is_a_checkpoint_of_the_method(method: str, make: Make, tmp_path: Path) -> None:
    trainer, path = make(method, "demo"), tmp_path / RESULT
    trainer.advance()
    trainer.step = ALL_ROWS
    trainer.save(path)
    code = method_of_file(path)
    trained = getattr(trainer.recipe, "iterations", None)
    assert code.name == method and code.iterations == trained and (trained or code is METHODS[method])
    said = dict(describe(path))
    assert said["method"] == method and "also needs" not in said and "InterDigital" not in said["licence"]
    model = code.read(path, None)
    assert not model.training
    trainer.model.eval()
    image = trainer.shown(model.config.working)[:2]
    with torch.no_grad():
        assert torch.allclose(model(image), trainer.model(image), atol=1e-5)
    tables, stages = code.for_model(model.config).tables(model.config), code.functions(model, model.generator)
    assert set(stages) == {*tables.stages, *(part for cut in tables.cuts.values() for part in cut.stages)}


@pytest.mark.parametrize(("method", "name"), [("restyle-psp", None), ("hyperstyle", "hyperstyle")])
def test_a_method_that_iterates_is_used_as_it_was_trained(method: str, name: str | None, make: Make, tmp_path: Path) -> None:
    """All that read a checkpoint, such as `evaluate`, run as many iterations as the training had, and five where the file does not say."""
    trainer, path = make(method, "demo", iterations=3), tmp_path / RESULT
    trainer.save(path)
    code, model = Weights(path, method=name).read()
    assert code.iterations == 3
    image = trainer.shown(model.config.working)[:1].cpu()
    with pipeline_of(code, model, path) as pipeline, torch.no_grad():
        assert np.allclose(pipeline.invert(image.numpy()).tensors["picture"].host(), model(image, iterations=3), atol=1e-4)
    tensors, metadata = read_safetensors(path)
    for said, count in ((None, 5), ("many", None), ("0", None)):
        rest = {name: text for name, text in metadata.items() if name != "iterations"}
        write_safetensors(path, tensors, {**rest, **({"iterations": said} if said else {})})
        if count:
            assert Weights(path, method=name).read()[0].iterations == count
        else:
            with pytest.raises(SdicError, match=f"says that it was trained with {said} iterations; write it again with sdic-train$"):
                Weights(path, method=name).read()


@pytest.mark.parametrize(("recipe", "kind"), [("psp-released", "pSp"), ("w", "W encoder")])
def test_other_encoders(
    recipe: str,
    kind: str,
    portraits: PictureSet,
    reader: PortraitReader,
    encoder_file: Path,
    make_compute: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    chosen = replace(short(ENCODER[recipe]), first_delta=-1)
    distances = PortraitPerceptual(reader), PortraitIdentity(reader)

    def trainer() -> EncoderTrainer:
        made = EncoderTrainer(load_generator(encoder_file), chosen, portraits, make_compute(2), STEPS, *distances)
        made.start_from(encoder_file)
        return made

    first, again = trainer(), trainer()
    monkeypatch.setattr(first, "random", lambda: torch.Generator().manual_seed(0))
    values = [first.advance()["l2"] for _ in range(STEPS)]
    assert values[-1] < 0.97 * values[0]
    monkeypatch.undo()
    again.load_state(saved(first))
    assert first.advance() == again.advance()
    first.save(tmp_path / RESULT)
    assert read_checkpoint(tmp_path / RESULT).kind == kind


def test_a_body_starts_from_e4e_and_reads_the_reconstruction_too(encoder_file: Path) -> None:
    encoder, _ = load_encoder(encoder_file)
    recipe = METHOD["restyle-psp"]["demo"]
    model = new_model("restyle-psp", Sources(encoder_file), recipe)
    first, own = model.encoder.input_layer[0].weight, encoder.input_layer[0].weight
    assert torch.equal(first[:, :3], own) and not first[:, 3:].any()
    assert torch.equal(model.encoder.body[1].res_layer[1].weight, encoder.body[1].res_layer[1].weight)
    wide = new_model("restyle-psp", Sources(encoder_file), replace(recipe, new_inputs=1.0)).encoder.input_layer[0].weight
    assert 0.7 < wide[:, 3:].std() < 1.3
    assert torch.equal(model.average, new_model("restyle-psp", Sources(encoder_file), recipe).average) and model.average.any()


def test_public_networks_are_renamed(make: Make, tmp_path: Path) -> None:
    resnet, arcface = tmp_path / "resnet.pth", tmp_path / "arcface.pth"
    hypernet, backbone = make("hyperstyle", "demo").model.hypernet, make("fs", "demo").model.fs
    layers = [f"layer{group}.0." for group in range(1, 5)]
    state = {name.replace(f"body.{unit}.", layer): torch.full_like(value, 0.25) for name, value in hypernet.state_dict().items()
             for unit, layer in enumerate(layers) if name.startswith(f"body.{unit}.")}  # fmt: skip
    torch.save({**state, "conv1.weight": torch.full((hypernet.conv1.weight.shape[0], 3, 7, 7), 0.5)}, resnet)
    take(hypernet, backbone_weights(resnet, False), resnet, 0.0)
    assert (hypernet.body[2].conv2.weight == 0.25).all()
    assert (hypernet.conv1.weight[:, :3] == 0.5).all() and not hypernet.conv1.weight[:, 3:].any()
    names = {"conv.0.": "conv1.", "conv.1.": "bn1.", "conv.2.": "prelu.", **{f"block_{group}.": f"layer{group}." for group in range(1, 5)}}
    released = {}
    for name, value in backbone.state_dict().items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                released[theirs + name.removeprefix(ours)] = value + 1
    torch.save(released, arcface)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    take(backbone, backbone_weights(arcface, True), arcface)
    assert all(torch.equal(value, before[name] + name.startswith(tuple(names))) for name, value in backbone.state_dict().items())
    with pytest.raises(SdicError, match="has no weights that fit the body of FSEncoder"):
        take(backbone, {"fc.weight": torch.zeros(1)}, arcface)


def test_a_perspective_takes_points_to_points_and_zeros_come_from_outside() -> None:
    random = torch.Generator().manual_seed(0)
    target = CORNERS * (1 - 0.3 * torch.rand(4, 2, generator=random))
    numbers = perspective(CORNERS, target)
    matrix = torch.cat((numbers, torch.ones(1))).view(3, 3)
    found = torch.cat((target, torch.ones(4, 1)), 1) @ matrix.T
    assert torch.allclose(found[:, :2] / found[:, 2:], CORNERS, atol=1e-5)
    x = torch.rand(2, 3, 16, 16, generator=random)
    none = perspective(CORNERS, CORNERS)
    assert torch.allclose(warped(x, none.expand(2, -1)), x, atol=1e-5)
    half = warped(x, perspective(CORNERS, CORNERS * 0.5).expand(2, -1))
    assert not half[:, :, :3].any() and torch.allclose(half[:, :, 4:12, 4:12], nn.functional.avg_pool2d(x, 2), atol=1e-5)


def test_an_encoder_or_directions_of_another_model_are_one_sentence(encoder_file: Path, make: Make, tmp_path: Path) -> None:
    other, config = tmp_path / "other.safetensors", replace(TINY, style_width=32)
    save_checkpoint(other, config, generator=Generator(config), encoder=Encoder(config))
    with pytest.raises(SdicError, match=rf'^"{other}" has an encoder for another generator than that of .* codes are \[12, 16\]; give one'):
        new_model("hfgi", Sources(encoder_file, other), short(METHOD["hfgi"]["demo"]))
    trainer: Any = make("sfe", "demo")
    wide = Direction(np.ones((1, 32), np.float32), strength_range=(-1, 1))
    with pytest.raises(SdicError, match=r"has shape \[1, 32\], and this model's latent codes are \[12, 16\]"):
        type(trainer)(trainer.model, trainer.recipe, trainer.pictures, trainer.compute, 1, *trainer.distances.values(), directions=[wide])


def test_bad_starts_are_one_sentence(encoder_file: Path, make: Make, tmp_path: Path) -> None:
    with pytest.raises(SdicError, match="is a checkpoint of e4e and not of W encoder"):
        new_model("hyperstyle", Sources(encoder_file), METHOD["hyperstyle"]["demo"])
    with pytest.raises(SdicError, match="is of e4e; --from takes what sdic-train wrote of SFE or SFE-inverter"):
        new_model("sfe", Sources(encoder_file, None, None, encoder_file), METHOD["sfe"]["demo"])
    path = tmp_path / RESULT
    make("hfgi", "paper").save(path)
    with pytest.raises(SdicError, match="was trained with other sizes"):
        new_model("hfgi", Sources(encoder_file, None, None, path), METHOD["hfgi"]["paper"])
    again = new_model("hfgi", Sources(encoder_file, None, None, path), short(METHOD["hfgi"]["paper"]))
    assert torch.equal(again.aligner.conv_layer1[0].weight, read_checkpoint(path).state["aligner.conv_layer1.0.weight"])
