"""`sdic-train` from the outside: the whole recipe on a tiny model, and bad input."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdic_runtime.directions import load_direction, save_direction
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError, FileError, SdicError
from sdic_runtime.files import sha256
from sdic_train.checkpoints.files import read_safetensors, write_safetensors
from sdic_train.cli.app import main
from sdic_train.cli.options import Domain, Photos, Training, changed, domain_of, sizes
from sdic_train.config import TINY
from sdic_train.methods import method_of_file
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.loops.run import LOG, read_log
from sdic_train.trainers.recipes import METHOD


def _run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_the_whole_recipe_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, common = tmp_path / "data", ("--data", tmp_path / "data", "--data-size", 64, "--device", "cpu", "--threads", 1)
    for photo, seed in ((False, 0), (True, 1), (True, 900_000)):
        _run("dataset", "--out", data, "--size", 64, "--count", 24, "--processes", 1, "--seed", seed, *(["--photo"] if photo else []))
    _run("reader", *common, "--out", tmp_path / "reader", "--steps", 30, "--batch", 8)
    reader = tmp_path / "reader" / "model.safetensors"
    _run("generator", *common, "--sizes", "tiny", "--recipe", "fit-16", "--steps", 40, "--batch", 4, "--out", tmp_path / "g16")
    _run(
        "generator",
        *common,
        "--sizes",
        "tiny",
        "--recipe",
        "fit-32",
        "--from",
        tmp_path / "g16",
        "--steps",
        2,
        "--batch",
        4,
        "--out",
        tmp_path / "g32",
    )
    generator = tmp_path / "g32" / "model.safetensors"
    _run(
        "encoder",
        *common,
        "--generator",
        generator,
        "--recipe",
        "code",
        "--steps",
        60,
        "--batch",
        12,
        "--set",
        "warm_up=0",
        "--set",
        "rate=0.003",
        "--out",
        tmp_path / "encoder",
    )
    _run(
        "sdic",
        *common,
        "--model",
        tmp_path / "encoder" / "model.safetensors",
        "--recipe",
        "demo",
        "--data-seed",
        1,
        "--steps",
        15,
        "--batch",
        4,
        "--perceptual",
        reader,
        "--identity",
        reader,
        "--out",
        tmp_path / "sdic",
    )
    for run, column in (("reader", "parameters"), ("g16", "fit"), ("encoder", "code"), ("sdic", "l2")):
        values = read_log(tmp_path / run / LOG)[column]
        assert np.mean(values[-6:]) < 0.95 * np.mean(values[:6]), run
    assert json.loads((tmp_path / "g32" / "recipe.json").read_text())["size"] == 32

    model = tmp_path / "sdic" / "model.safetensors"
    _run("directions", "ganspace", "--model", model, "--components", 5, "--samples", 500, "--out", tmp_path / "directions")
    _run("directions", "sefa", "--model", model, "--count", 2, "--out", tmp_path / "directions")
    assert sorted(path.stem for path in (tmp_path / "directions").iterdir()) == ["ganspace", "sefa_0_4_0", "sefa_0_4_1"]
    assert load_direction(tmp_path / "directions" / "sefa_0_4_0.safetensors").check
    capsys.readouterr()
    _run("evaluate", model, "--data", data, "--count", 4, "--perceptual", reader, "--identity", reader, "--out", tmp_path / "evaluation")
    printed = capsys.readouterr().out
    assert "| e4e |" in printed and "| SDIC |" in printed
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["pictures"] == 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    _run("dataset", "--out", tmp_path / "data", "--size", 32, "--count", 4, "--processes", 1)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--recipe", "best"], 'error: there is no recipe "best"; the recipes are: stylegan2, fit-16,'),
        (["--sizes", "huge"], 'error: there is no size preset "huge"; the size presets are: faces, cars, demo, tiny'),
        (["--set", "speed=2"], "error: --set speed=2 names no option of this recipe; use NAME=VALUE with one of: size, rate,"),
        (["--set", "rate=fast"], "error: --set rate=fast is not a number like 0.002; give one"),
        (["--set", "rate=nan"], "error: --set rate=nan is not a number like 0.002; give one"),
        (["--set", "rate=-1"], "error: --set rate=-1 is not a number like 0.002; give one"),
        (["--steps", "0"], "error: Invalid value for '--steps': Input should be greater than or equal to 1; see: sdic-train generator"),
        (["--threads", "-1"], "error: Invalid value for '--threads': Input should be greater than or equal to 0"),
        (["--minutes", "0"], "error: nothing to train: --steps must be at least 1, --minutes above 0"),
        (["--set", "mirror=perhaps"], "error: --set mirror=perhaps is not a switch; use mirror=true or mirror=false"),
        (["--precision", "fp8"], 'error: the precision "fp8" is unknown; use fp32 or bf16'),
        (["--device", "tpu9"], 'error: the device "tpu9" is unknown; use auto, cpu, cuda or cuda:<number>'),
        (["--data-size", "64"], "holds no portraits of 64 pixels with seed 0; draw them with `sdic-train dataset`"),
        (["--data-seed", "3"], "holds no portraits of 32 pixels with seed 3, only with 0; choose that with --data-seed, or draw them with"),
        (["--data-seed", "900000"], "error: --data-seed 900000 takes pictures that are kept for evaluation (seeds from 900000 on);"),
        (["--until", "1"], "error: --until 1 is over ("),
        (["--set", "momentum=2"], "error: --set momentum=2 is out of range; use 0 to 0.999"),
        (["--set", "discriminator_rate=-1"], "error: --set discriminator_rate=-1 is out of range; use 0 or more"),
        (["--until", "9e9", "--graphs"], "error: --graphs records the steps of encoders and methods, not those of a generator; omit it"),
        (["--until", "9e9", "--minutes", "1", "--tensorboard"], "error: --minutes, --tensorboard is not read with --until; omit it"),
        (["--until", "9e9", "--save-minutes", "1"], "error: --save-minutes is not read with --until; omit it"),
        (["--log-steps", "5", "--graphs"], "error: --graphs, --log-steps is read only with --until; omit it"),
        (["--from", "/nowhere"], "cannot be read (FileNotFoundError); name the folder of a run of `sdic-train generator` with --from"),
        (["--set", "path_every=0"], "error: --set path_every=0 is out of range; use 1 or more"),
    ],
)
def test_bad_options_are_one_sentence(
    words: list[str], sentence: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["generator", "--data", str(data), "--data-size", "32", "--sizes", "tiny", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*base, *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_both_kinds_of_portraits_are_not_trained_on_beyond_the_last_seed(tmp_path: Path) -> None:
    told = Training(tmp_path, tmp_path / "run", 1, 1, data_seed=899_999)
    with pytest.raises(ArgumentError, match=r"--data-seed 899999 takes pictures that are kept for evaluation"):
        told.pictures(32, Photos.both)
    with pytest.raises(FileError, match="holds no photos of 32 pixels with seed 899999; draw them"):
        told.pictures(32, Photos.photo)


def test_a_generator_that_may_be_of_cars_is_told_how_it_is_taken(
    encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = Generator(replace(TINY, resolution=512, channels={**TINY.channels, 256: 4, 512: 4}))
    torch.save({"g_ema": large.state_dict()}, tmp_path / "large.pt")
    torch.save({"g_ema": Generator(TINY).state_dict()}, tmp_path / "small.pt")
    assert domain_of(tmp_path / "large.pt", Domain.cars) == "cars" and domain_of(tmp_path / "small.pt", None) is None
    assert domain_of(encoder_file, None) is None and not capsys.readouterr().err
    assert domain_of(tmp_path / "large.pt", None) is None
    told = f"pictures of {tmp_path / 'large.pt'} are taken to fill the whole square; give --domain cars where they lie between black bars\n"
    assert capsys.readouterr().err == told


def test_missing_weights_are_noticed_before_anything_is_made(
    encoder_file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "sdic",
        "--model",
        str(encoder_file),
        "--data",
        str(data),
        "--data-size",
        "32",
        "--photos",
        "plain",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 2
    assert "the loss perceptual has the weight 0.8 and no network; name its weights with --perceptual" in capsys.readouterr().err
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    assert main([*words, "--perceptual", str(encoder_file)]) == 2
    assert "are not two files; give AlexNet's and LPIPS' linear weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_is_instant_and_has_an_example_per_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("dataset", "reader", "generator", "encoder", "sdic", "method", "evaluate"):
        assert main([command, "--help"]) == 0
        assert f"sdic-train {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["directions"]])
def test_the_list_of_commands_is_not_cut_off(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2]
    assert len(listed.splitlines()) > 2 and "..." not in listed


@pytest.mark.parametrize("command", ["reader", "generator", "encoder", "sdic", "method"])
def test_training_commands_share_their_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for entry in fields(Training):
        option = {"changes": "set"}.get(entry.name, entry.name.replace("_", "-"))
        assert f"--{option} " in text, option


def test_a_bundle_is_evaluated_with_its_own_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sdic_runtime.pipeline import Pipeline
    from sdic_train.checkpoints.files import write_safetensors
    from sdic_train.data.datasets import open_portraits
    from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader

    pipeline = Pipeline.load(backend="onnxruntime", threads=1)
    size, data, reader = pipeline.sizes["S"], tmp_path / "data", tmp_path / "reader.safetensors"
    _run("dataset", "--out", data, "--size", size, "--count", 2, "--processes", 1, "--seed", 900_000, "--photo")
    write_safetensors(reader, PortraitReader().state_dict(), {"format": READER_FORMAT})
    capsys.readouterr()
    options = ("--backend", "onnxruntime", "--threads", 1, "--runs", 1, "--reader", reader, "--out", tmp_path / "evaluation")
    _run("evaluate", pipeline.bundle.path, "--data", data, "--drawn", *options)
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    printed, told = capsys.readouterr()
    assert printed == (tmp_path / "evaluation" / "evaluation.md").read_text()
    assert f"{data} holds 2 of the 256 pictures that --count asks for; the figures are of these 2\n" in told

    photos = open_portraits(data, size, photo=True, seed=900_000).pictures
    inversion = pipeline.invert(list(photos))
    image = photos.transpose(0, 3, 1, 2) / 127.5 - 1
    for method, pixels in (("e4e", pipeline.baseline(inversion).pixels), ("SDIC", inversion.pixels)):
        assert found["inversion"][method]["L2"] == pytest.approx(((pixels.clip(-1, 1) - image) ** 2).mean(), rel=1e-3)
        assert found["inversion"][method]["seconds"] > 0
    assert found["pictures"] == 2
    assert list(found["edits"]) == ["SDIC", "drawn anew"] and list(found["edits"]["drawn anew"]) == list(found["edits"]["SDIC"])
    assert {"smile", "age", "glasses"} <= set(found["edits"]["SDIC"]) <= set(pipeline.directions)
    assert found["models"]["SDIC"] == {"method": "sdic", "where": pipeline.backend.description} and found["runs"] == 1


def test_any_models_are_evaluated_together(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sdic_runtime.pipeline import Pipeline

    demo, data = Pipeline.load(backend="onnxruntime").bundle.path, tmp_path / "data"
    for size in (64, 128):
        _run("dataset", "--out", data, "--size", size, "--count", 2, "--processes", 1, "--seed", 900_000, "--photo")
    capsys.readouterr()
    base = ["evaluate", str(demo), str(encoder_file), f"mine={encoder_file}", "nowhere", "--data", str(data), "--count", "2", "--runs", "1"]
    assert main([*base, "--threads", "1", "--published", "--out", str(tmp_path / "out")]) == 2
    out, errors = capsys.readouterr()
    assert errors == 'error: nowhere: there is no file "nowhere"; check the path\n'
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(found["inversion"]) == ["SDIC", "e4e", "mine"] and found["width"] == 64 and list(found["failed"]) == ["nowhere"]
    first, second = ({name: value for name, value in found["inversion"][label].items() if name != "seconds"} for label in ("e4e", "mine"))
    assert first == second != found["inversion"]["SDIC"] and found["models"]["mine"]["method"] == "e4e"
    assert "| PTI, the paper |" in out and "nowhere failed: there is no file" in out
    assert main([*base, "--with", str(encoder_file)]) == 2
    assert capsys.readouterr().err == (
        "error: --with and --method are for one checkpoint, and 3 are given; evaluate bundles of them instead\n"
    )
    assert main(["evaluate", f"a={encoder_file}", f"a={encoder_file}", "--data", str(data)]) == 2
    assert capsys.readouterr().err == 'error: two models would be called "a (encoder.safetensors)"; name them with NAME=PATH\n'
    for words in (["nowhere"], ["nowhere", "elsewhere"]):
        assert main(["evaluate", *words, "--data", str(data)]) == 2
        assert capsys.readouterr().err == 'error: there is no file "nowhere"; check the path\n'
    assert main([*base, "--out", str(encoder_file)]) == 2
    assert "cannot write into the folder" in capsys.readouterr().err
    assert main(["evaluate", str(demo), "--drawn", "--data", str(data)]) == 2
    assert "--drawn measures edits; name a portrait reader" in capsys.readouterr().err
    assert main(["evaluate", str(demo), "--edit-first", "--data", str(data), "--count", "2"]) == 2
    assert capsys.readouterr().err == "error: --edit-first needs a checkpoint: a bundle compensates first\n"
    assert main(["evaluate", str(encoder_file), "--edit-first", "--data", str(data)]) == 2
    assert capsys.readouterr().err == "error: --edit-first measures edits; name a portrait reader with --reader\n"


def test_edits_are_measured_with_a_reader_along_directions(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sdic_train.checkpoints.files import write_safetensors
    from sdic_train.checkpoints.load import save_checkpoint
    from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader
    from sdic_train.trainers.start import with_new_compensation

    model, path, reader = with_new_compensation(encoder_file, 0), tmp_path / "sdic.safetensors", tmp_path / "reader.safetensors"
    save_checkpoint(path, model.config, model.latent_avg, **dict(model.named_children()))
    write_safetensors(reader, PortraitReader().state_dict(), {"format": READER_FORMAT})
    base = ["evaluate", str(path), "--data", str(tmp_path)]
    assert main([*base, "--reader", str(reader)]) == 2
    assert capsys.readouterr().err == "error: edits of a checkpoint are measured along directions; name their folder with --directions\n"
    assert main([*base, "--reader", str(reader), "--directions", str(tmp_path / "none")]) == 2
    error = f"error: {tmp_path / 'none'} holds no direction of a portrait's attribute; make some with `sdic-train directions`\n"
    assert capsys.readouterr().err == error
    assert main([*base, "--count", "0"]) == 2
    assert "'--count'" in capsys.readouterr().err
    assert main([*base, "--directions", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: edits are measured with a portrait reader; name one with --reader\n"


def test_going_on_needs_an_sdic_checkpoint(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sdic", "--model", str(encoder_file), "--recipe", "demo-longer", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    error = f'error: "{encoder_file}" is an e4e checkpoint without DIPN and DICN; give an SDIC checkpoint\n'
    assert capsys.readouterr().err == error and not (tmp_path / "run").exists()


def test_a_method_in_two_phases(encoder_file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--generator", encoder_file, "--data", data, "--data-size", 32, "--photos", "plain", "--recipe", "demo", "--batch", 2]
    fast = ["--steps", 1, "--threads", 1, "--set", "perceptual=0", "--set", "identity=0", "--set", "body=1"]
    _run("method", "sfe-inverter", *common, *fast, "--out", tmp_path / "first")
    second, first = ["method", "sfe", *common, *fast, "--out", tmp_path / "second"], tmp_path / "first" / "model.safetensors"
    capsys.readouterr()
    for words, sentence in (
        ([], 'the method "sfe" is a second phase; name the result of the first with --from'),
        (["--from", first], "learns from edits; name a folder of directions with --directions"),
        (["--from", first, "--set", "body=2"], f'"{first}" was trained with other sizes'),
    ):
        assert main([str(word) for word in [*second, *words]]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["method", "psp", *map(str, common), "--out", str(tmp_path / "psp")]) == 2
    assert "has a command of its own; use `sdic-train encoder --recipe psp`" in capsys.readouterr().err
    assert main(["method", "sdip", *map(str, common), "--out", str(tmp_path / "sdip")]) == 2
    assert 'there is no method "sdip"; the methods are: restyle-psp,' in capsys.readouterr().err
    (tmp_path / "directions").mkdir()
    save_direction(tmp_path / "directions" / "smile.safetensors", Direction(np.ones((1, 16), np.float32), "smile", strength_range=(-1, 1)))
    _run(*second, "--from", first, "--directions", tmp_path / "directions")
    assert method_of_file(tmp_path / "second" / "model.safetensors").name == "sfe"


def test_a_run_goes_on_from_what_it_began_with_alone(
    encoder_file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other files, pictures or seeds are refused; runs that were begun before this was recorded go on."""
    _run("dataset", "--out", data, "--size", 32, "--count", 4, "--processes", 1, "--seed", 1)
    _run("dataset", "--out", tmp_path / "more", "--size", 32, "--count", 6, "--processes", 1)
    tensors, metadata = read_safetensors(encoder_file)
    first, other = (tmp_path / f"{name}.safetensors" for name in ("first", "other"))
    for path, noise in ((first, 0.0), (other, 1.0)):
        write_safetensors(path, {**tensors, "latent_avg": tensors["latent_avg"] + noise}, metadata)
    run, common = tmp_path / "run", ["--data-size", 32, "--batch", 2, "--threads", 1, "--set", "perceptual=0", "--set", "identity=0"]
    told = {"--generator": first, "--data": data, "--photos": "plain", "--out": run, "--set": "optimizer=adam"}

    def words(**changes: object) -> list[str]:
        options = {**told, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
        return [str(word) for word in ("method", "hfgi", *common, *(word for option in options.items() for word in option))]

    narrow = ["--set", "narrow=32"]
    assert main([*words(steps=1), *narrow]) == 0
    for changes, what in (
        ({"generator": other}, "--generator"),
        ({"encoder": other}, "--encoder"),
        ({"data_seed": 1}, "--data-seed"),
        ({"data": tmp_path / "more"}, "picture set"),
    ):
        capsys.readouterr()
        assert main([*words(steps=2, **changes), *narrow]) == 2
        error = capsys.readouterr().err
        assert f"{run} holds a run with another {what} (" in error and "give the same options, another --out, or --restart" in error
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["sources"]["--generator"] == sha256(first) and recipe["sources"]["--photos"] == "plain"
    del recipe["sources"]
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert main([*words(steps=2, generator=other), *narrow]) == 0 and "resumed at step 1" in capsys.readouterr().err
    other.rename(first)  # the same file at another place
    assert main([*words(steps=3), *narrow]) == 0


def test_sizes_that_no_sdic_can_have_are_one_sentence(tmp_path: Path) -> None:
    path, values = tmp_path / "mine.json", TINY.as_dict()
    for text, sentence in (
        (
            json.dumps({**values, "style_width": 40}),
            "the style_width 40 does not divide shift_rows * 4096 (12 * 4096); use sizes where it does",
        ),
        (json.dumps({**values, "speed": 1}), "unexpected keyword argument 'speed'"),
        (json.dumps([1]), "the sizes cannot be read from"),
        ("{", "the sizes cannot be read from"),
    ):
        path.write_text(text)
        with pytest.raises(SdicError) as caught:
            sizes(str(path))
        error = str(caught.value)
        assert sentence in error and "checkpoint" not in error
        assert "style_width" in error or error.endswith('; give JSON like the "config" of a run\'s recipe.json')


def test_options_of_recipes_have_ranges() -> None:
    for method, change, sentence in (
        ("hfgi", "narrow=0", "--set narrow=0 is out of range; use 1 or more"),
        ("hyperstyle", "iterations=0", "--set iterations=0 is out of range; use 1 or more"),
        ("clcae", "dropout=3", "--set dropout=3 is out of range; use 0 to 1"),
    ):
        with pytest.raises(ArgumentError) as caught:
            changed(METHOD[method]["paper"], [change])
        assert str(caught.value) == sentence
