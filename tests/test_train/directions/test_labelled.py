"""Directions of a user's own labels, and how far a model follows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import write_bundle

from sdic_runtime.directions import load_direction
from sdic_runtime.edits import Direction
from sdic_runtime.errors import ArgumentError
from sdic_runtime.pipeline import Pipeline
from sdic_train.cli.app import main
from sdic_train.directions import labelled, latent
from sdic_train.directions.latent import Boundary
from sdic_train.losses import networks
from sdic_train.portraits.portraits import PARAMETERS

NORMAL = np.array([[0.6, 0.8, 0, 0]], np.float32)


class Saturating:
    """Finds `share` of an edit again as far as `reach` on the positive side, and on the negative one everything but no more than `low`."""

    def __init__(self, share: float, reach: float, low: float) -> None:
        self.share, self.reach, self.low = share, reach, low

    def read(self, paths: Sequence[Path]) -> np.ndarray:
        return np.zeros((len(paths), 2, 4), np.float32)

    def found_again(self, path: Path, direction: Direction, strengths: Sequence[float]) -> np.ndarray:
        found = [max(-self.low, self.share * min(strength, self.reach)) for strength in strengths]
        return 7 + np.array(found)[:, None, None] * direction.vector[None].repeat(2, 1)


def test_the_useful_range_ends_where_the_model_stops_to_follow() -> None:
    boundary = Boundary(Direction(NORMAL), 1.0, 4.0)  # steps of 1 up to 12
    paths = [Path(str(index)) for index in range(20)]
    found = labelled.measure_reach(Saturating(0.4, 5.0, 0.8), boundary, paths, "w")
    assert found.measured and found.strength_range == (-2.0, 5.0)
    assert found.shares[3.0] == pytest.approx(0.4, abs=1e-5) and found.shares[10.0] == pytest.approx(0.2, abs=1e-5)
    far = labelled.measure_reach(Saturating(1.0, 100, 100), boundary, paths, "w")
    assert far.measured and far.strength_range == (-12.0, 12.0)
    none = labelled.measure_reach(Saturating(0.001, 100, 100), boundary, paths, "w")
    assert not none.measured and none.strength_range == (-4.0, 4.0)


def test_codes_are_flattened_as_the_space_says() -> None:
    codes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(labelled.flat(codes, "w"), codes.mean(1))
    assert labelled.flat(codes, "w+").shape == (2, 12)
    rows = labelled.as_rows(Boundary(Direction(np.arange(12.0)), 1, 1), 3)
    assert rows.direction.vector.shape == (3, 4)
    with pytest.raises(ArgumentError, match='the space is "s"; use w or w\\+'):
        labelled.flat(codes, "s")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose label is how red they are, and a label that says nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    random, lines = np.random.default_rng(0), ["picture,red,chance"]
    for index in range(60):
        level = random.uniform(-1, 1)
        noise = random.normal([127 + 100 * level, 127 + 60 * random.normal(), 127], 10, (64, 64, 3))
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{level:.3f},{random.integers(2)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\nmissing.png,1,1\n")
    return folder


def test_a_bundle_gives_the_codes_that_directions_move(pictures: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    coder = labelled.open_coder(bundle, "onnxruntime", 1)
    paths = [pictures / f"{index}.png" for index in range(3)]
    with Pipeline.load(bundle, backend="onnxruntime", threads=1) as pipeline:
        np.testing.assert_array_equal(np.concatenate(list(labelled.codes_of(coder, paths, 2))), pipeline.invert(list(paths)).latent)
        direction = Direction(np.ones(8))
        edited = pipeline.edit(pipeline.invert(paths[0]), direction, [0.0, 0.5]).pixels
        seen = np.clip(edited.reshape(2, 3, 64, 2, 64, 2).mean((3, 5)), -1, 1)  # the tiny picture is constant within 2 x 2
        np.testing.assert_allclose(coder.found_again(paths[0], direction, [0.0, 0.5]), pipeline.invert(seen).latent, atol=1e-5)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_the_command_trains_from_labels(
    pictures: Path, encoder_file: Path, tmp_path: Path, space: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "MEASURED", 1)
    monkeypatch.setattr(labelled, "LONGEST", 1)
    words = ["directions", "interfacegan", "--model", encoder_file, "--labels", pictures / "labels.csv", "--out", tmp_path]
    assert main([str(word) for word in [*words, "--space", space, "--margin", 0]]) == 0
    captured = capsys.readouterr()
    assert [line.partition(":")[0] for line in captured.out.splitlines()] == ["red", "chance"]
    assert "1 picture(s) of the labels are not there: missing.png" in captured.err
    red = load_direction(tmp_path / "red.safetensors")
    assert isinstance(red, Direction) and red.vector.shape == ((1, 16) if space == "w" else (12, 16))
    assert "InterFaceGAN: linear SVM on 48 codes" in red.method and "useful strengths" in red.method and red.strength_range is not None
    accuracy = float(captured.out.split("accuracy ")[1].split(",")[0])
    assert accuracy > 0.8  # of 12 others


def test_labels_or_a_reader(tmp_path: Path, encoder_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["directions", "interfacegan", "--model", str(encoder_file), "--out", str(tmp_path)]) == 2
    assert "give either --labels, a CSV file of picture,value, or --reader" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["interfacegan", "--reader", "none"], ["ganspace"], ["sefa"]])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    words: list[str], encoder_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["directions", *words, "--model", "not looked at", "--out", str(encoder_file)]) == 2
    assert "cannot write into the folder" in capsys.readouterr().err


def test_attributes_that_hardly_any_sample_has_are_omitted_on_request(
    encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {entry.name: index for index, entry in enumerate(PARAMETERS)}

    def labelled_codes(*_: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        codes = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
        yield codes, labels_of(None, None, codes)

    def labels_of(_: object, __: object, codes: np.ndarray) -> np.ndarray:
        values = np.zeros((len(codes), len(PARAMETERS)), np.float32)
        values[:, place["smile"]], values[:5, place["baldness"]] = np.sign(codes[:, 0]), 1
        return values

    monkeypatch.setattr(latent, "labelled_codes", labelled_codes)
    monkeypatch.setattr(latent, "labels_of", labels_of)
    monkeypatch.setattr(networks, "open_reader", lambda path: None)
    words = ["directions", "interfacegan", "--model", str(encoder_file), "--reader", "none", "--out", str(tmp_path), "--attributes"]
    assert main([*words, "baldness,smile"]) == 2
    assert 'the attribute "baldness" has only 5 codes' in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main([*words, "baldness,smile", "--omit-rare"]) == 0
    assert 'omitted: the attribute "baldness"' in capsys.readouterr().err and [path.stem for path in tmp_path.iterdir()] == ["smile"]
    assert main([*words, "baldness", "--omit-rare"]) == 2
