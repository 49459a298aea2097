"""What a command cannot do is one sentence, before anything is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_bundle import write_bundle

from sdic_train.checkpoints.files import write_safetensors
from sdic_train.checkpoints.load import load_encoder, mean_rows, save_checkpoint
from sdic_train.cli.app import main
from sdic_train.config import TINY
from sdic_train.networks.e4e import Encoder
from sdic_train.networks.portrait_reader import READER_FORMAT, PortraitReader
from sdic_train.networks.stylegan2 import Generator
from sdic_train.trainers.methods.trainings import Sources, new_model
from sdic_train.trainers.recipes import METHOD
from sdic_train.trainers.start import with_new_compensation


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    assert main(["dataset", "--out", str(tmp_path / "data"), "--size", "32", "--count", "4", "--processes", "1"]) == 0
    return tmp_path / "data"


@pytest.fixture
def sdic_file(encoder_file: Path, tmp_path: Path) -> Path:
    model = with_new_compensation(encoder_file, 0)
    save_checkpoint(tmp_path / "sdic.safetensors", model.config, model.latent_avg, **dict(model.named_children()))
    return tmp_path / "sdic.safetensors"


@pytest.fixture
def cropped_file(tmp_path: Path) -> Path:
    """A model of pictures with a sixteenth of their rows above and a quarter below as bars."""
    torch.manual_seed(0)
    config = replace(TINY, encoder=replace(TINY.encoder, crop=(4, 48)))
    made, path = Generator(config), tmp_path / "cropped.safetensors"
    save_checkpoint(path, config, mean_rows(made), generator=made, encoder=Encoder(config))
    return path


@pytest.fixture
def reader_file(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "reader.safetensors", PortraitReader().state_dict(), {"format": READER_FORMAT})
    return tmp_path / "reader.safetensors"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["evaluate", "{model}", "--data", "{data}", "--width", "8"],
            "error: --width 8 is too small to judge pictures; use at least 32, or 0",
        ),
        (["dataset", "--from", "{data}", "--out", "{out}", "--size", "0"], "error: Invalid value for '--size': "),
        (
            ["method", "fs", "--generator", "{model}", "--set", "scales=9", "--set", "identity=0", "{judged}"],
            "error: scales=9 compares pictures of 0 pixels, and the perceptual distance needs 32; use a smaller number of them",
        ),
        (
            ["sdic", "--model", "{model}", "--recipe", "demo", "--set", "keep=true"],
            "error: keep=true keeps the statistics of batch norm, and settle_norm=500 replaces them; use --set settle_norm=0",
        ),
        (
            ["reader", "--graphs", "--until", "9e9"],
            "error: --graphs records the steps of encoders and methods, not those of a reader; omit it",
        ),
    ],
)
def test_options_that_cannot_be(
    words: list[str], sentence: str, sdic_file: Path, reader_file: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"model": sdic_file, "data": drawn, "out": tmp_path / "run", "judged": f"--perceptual={reader_file}"}
    common = ["--data", str(drawn), "--data-size", "32", "--photos", "plain", "--out", str(tmp_path / "run"), "--threads", "1"]
    trains = words[0] in ("method", "sdic", "reader")
    assert main([word.format(**places) for word in [*words, *(common if trains else [])]]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("bundle", [False, True])
def test_bars_leave_enough_to_judge(
    bundle: bool, cropped_file: Path, sdic_file: Path, reader_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A perceptual network has nothing left of fewer rows than 32."""
    model = cropped_file
    if bundle:
        model = write_bundle(tmp_path / "bundle", visible_rows=(8, 96))
    photos = ["--data-seed", "0", "--data", str(tmp_path / "photos")]
    assert main(["dataset", "--out", photos[-1], "--photo", "--size", "64", "--count", "2", "--processes", "1"]) == 0
    capsys.readouterr()
    words = ["evaluate", f"cars={model}", str(sdic_file), *photos, "--perceptual", str(reader_file), "--threads", "1"]
    assert main([*words, "--width", "45", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told == (
        "error: judged at 45 pixels, pictures of cars have 31 rows without bars, and the measures need 32; use --width 47 or more\n"
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--width", "47", "--count", "2", "--runs", "1"]) == 0


def test_a_generator_in_a_file_of_restyle_has_encoders_of_its_own(encoder_file: Path, drawn: Path, tmp_path: Path) -> None:
    model = new_model("restyle-e4e", Sources(encoder_file), METHOD["restyle-e4e"]["demo"])
    path = tmp_path / "restyle.safetensors"
    save_checkpoint(path, model.config, model.latent_avg, encoder=model.encoder, generator=model.generator)
    common = ["--generator", str(path), "--data", str(drawn), "--data-size", "32", "--photos", "plain", "--batch", "2", "--threads", "1"]
    changes = [word for name in ("perceptual", "identity") for word in ("--set", f"{name}=0")]
    assert main(["encoder", *common, *changes, "--steps", "1", "--out", str(tmp_path / "encoder")]) == 0
    assert load_encoder(tmp_path / "encoder/model.safetensors")[0].config.encoder.inputs == 3
    assert (
        main(
            [
                "method",
                "clcae",
                *common,
                *changes,
                "--recipe",
                "demo",
                "--set",
                "from_encoder=false",
                "--steps",
                "1",
                "--out",
                str(tmp_path / "c"),
            ]
        )
        == 0
    )
