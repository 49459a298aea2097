"""StyleCLIP's global directions from arrays of the published form."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdic_export.directions.style_channels import channel_direction
from sdic_export.directions.styleclip import global_direction, read_deviations, read_embeddings, read_relevance, read_templates, text_change
from sdic_runtime.errors import ArgumentError, FileError

LAYERS = (4, 3, 4, 5, 2)  # RGB layers are 1 and 4
WIDTH = 6
random = np.random.default_rng(0)
RELEVANCE = random.normal(0, 0.1, (4 + 4 + 5, WIDTH)).astype(np.float32)
DEVIATIONS = [random.uniform(0.5, 2, width).astype(np.float32) for width in LAYERS]
TARGET, NEUTRAL = random.normal(size=(2, WIDTH)).astype(np.float32)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.save(tmp_path / "fs3.npy", RELEVANCE)
    with (tmp_path / "S_mean_std").open("wb") as stream:
        pickle.dump([[part * 0 for part in DEVIATIONS], DEVIATIONS], stream, protocol=2)
    return tmp_path


def by_hand(change: np.ndarray, beta: float) -> np.ndarray:
    """The published rule, one style at a time."""
    change = change / np.sqrt((change**2).sum())
    relevances = [float(row @ change) for row in RELEVANCE]
    kept = [value if abs(value) >= beta else 0.0 for value in relevances]
    largest = max(map(abs, kept))
    styles, taken = [], iter(kept)
    for layer, width in enumerate(LAYERS):
        styles += [0.0 if layer in (1, 4) else next(taken) / largest * DEVIATIONS[layer][channel] for channel in range(width)]
    return np.array(styles)


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.1])
def test_the_direction_is_that_of_the_published_rule(arrays: Path, beta: float) -> None:
    change = TARGET / np.linalg.norm(TARGET) - NEUTRAL / np.linalg.norm(NEUTRAL)
    found = global_direction(read_relevance(arrays / "fs3.npy"), read_deviations(arrays / "S_mean_std", LAYERS), change, beta, "bob")
    np.testing.assert_allclose(found.vector, by_hand(change, beta), rtol=1e-5, atol=1e-7)
    assert found.strength_range == (-5.0, 5.0) and np.count_nonzero(found.vector) == np.count_nonzero(by_hand(change, beta))


def test_embeddings_stand_in_for_clip(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.stack([3 * TARGET, NEUTRAL]))
    np.save(tmp_path / "change.npy", TARGET - NEUTRAL)
    expected = TARGET / np.linalg.norm(TARGET) - NEUTRAL / np.linalg.norm(NEUTRAL)
    np.testing.assert_allclose(read_embeddings(tmp_path / "texts.npy"), expected, atol=1e-6)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "change.npy"), TARGET - NEUTRAL)
    np.save(tmp_path / "wrong.npy", np.ones((3, 4)))
    with pytest.raises(FileError, match=r"has shape \[3, 4\]; expected \[2, D\]"):
        read_embeddings(tmp_path / "wrong.npy")


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_the_statistics_are_read_without_running_anything(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(arrays)
    for name, content, sentence in (
        ("code", [[RunsCode()], DEVIATIONS], r'it names "(posix|nt)\.system"'),
        ("words", ["a", "b"], "is not an array of numbers"),
        ("other", [DEVIATIONS, DEVIATIONS[:4]], "is of 16 styles in 4 layers, and this model has 18 in 5"),
        ("short", [DEVIATIONS], "is not StyleCLIP's file of means and deviations"),
    ):
        Path(name).write_bytes(pickle.dumps(content))
        with pytest.raises((FileError, ArgumentError), match=sentence):
            read_deviations(Path(name), LAYERS)
    assert not Path("ran").exists()
    Path("damaged").write_bytes(Path("S_mean_std").read_bytes()[:-20])
    for name, sentence in (("damaged", "is not StyleCLIP's file"), ("none", "cannot read none: no such file")):
        with pytest.raises(FileError, match=sentence):
            read_deviations(Path(name), LAYERS)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"the arrays do not fit: relevance \[12, 6\], change \[6\]"):
        global_direction(RELEVANCE[1:], DEVIATIONS, TARGET)
    with pytest.raises(ArgumentError, match="the two texts have the same embedding"):
        global_direction(RELEVANCE, DEVIATIONS, TARGET - TARGET)
    with pytest.raises(ArgumentError, match=r"no style has a relevance of 9, the largest is 0\.\d+; use a smaller --beta"):
        global_direction(RELEVANCE, DEVIATIONS, TARGET, 9)
    (tmp_path / "fs3.npy").write_text("text")
    with pytest.raises(FileError, match="is not the array of StyleCLIP"):
        read_relevance(tmp_path / "fs3.npy")


def test_channels_are_said_in_text(arrays: Path) -> None:
    made = channel_direction(LAYERS, ["0/3", "2/1:-2.5"], "grey")
    assert np.flatnonzero(made.vector).tolist() == [3, 8] and made.vector[8] == -2.5
    scaled = channel_direction(LAYERS, ["0/3", "2/1:-2.5"], "grey", arrays / "S_mean_std")
    np.testing.assert_allclose(scaled.vector[[3, 8]], [DEVIATIONS[0][3], -2.5 * DEVIATIONS[2][1]], rtol=1e-6)
    for text, sentence in (
        ("3", "is no style channel"),
        ("0/x", "is no style channel"),
        ("0/1:a", "the amount of 0/1"),
        ("9/1", "there is no layer 9"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            channel_direction(LAYERS, [text], "a")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A text encoder with the files and borders of CLIP's: the embedding is the sum of one row per token before the end."""
    tokenizers = pytest.importorskip("tokenizers")
    from onnx import TensorProto, helper, numpy_helper, save

    words = ["<|startoftext|>", "<|endoftext|>", "a", "face", "smiling", "photo", "of"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="of"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<|startoftext|> $A <|endoftext|>", special_tokens=ends)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["text_embeds"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 77]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["N", len(words)])]
    constants = {"table": np.eye(len(words), dtype=np.float32), "last": np.array([2]), "one": np.array([1])}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "text", inputs, outputs, weights)
    (tmp_path / "onnx").mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "onnx/text_model.onnx")
    return tmp_path


def test_words_are_embedded_as_the_mean_over_templates(clip: Path) -> None:
    (clip / "templates.txt").write_text("{}\nphoto of {}\n")
    templates = read_templates(clip / "templates.txt")

    def embedded(*texts: list[int]) -> np.ndarray:
        rows = np.array([np.bincount(ids, minlength=7) / np.linalg.norm(np.bincount(ids, minlength=7)) for ids in texts]).mean(0)
        return np.asarray(rows / np.linalg.norm(rows))

    expected = embedded([0, 2, 4, 3, 1], [0, 5, 6, 2, 4, 3, 1]) - embedded([0, 2, 3, 1], [0, 5, 6, 2, 3, 1])
    np.testing.assert_allclose(text_change(clip, "a smiling face", "a face", templates), expected, atol=1e-6)
    assert read_templates(clip / "none.txt") == ["{}"]
    (clip / "templates.txt").write_text("a photo\n")
    with pytest.raises(FileError, match=r"has a line without \{\}"):
        read_templates(clip / "templates.txt")


def test_a_folder_that_is_no_text_encoder_is_said_to_be_none(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"is no text encoder of CLIP: it needs text_model\.onnx and tokenizer\.json"):
        text_change(tmp_path / "nowhere", "a", "b", ["{}"])
    (clip / "onnx/text_model.onnx").write_text("text")
    with pytest.raises(FileError, match="cannot read the text encoder in"):
        text_change(clip, "a", "b", ["{}"])
