"""A user's own labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdic_runtime.errors import SdicError
from sdic_train.data.labels import read_labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("a.png,1\nb.png,0\n", ["labels"], [[1], [0]]),
        ("picture,smile,age\na.png,0.5,30\nb.png,,41\n", ["smile", "age"], [[0.5, 30], [np.nan, 41]]),
        ("﻿file;hat\r\na.png;yes\r\n\r\nc.png;No\r\n", ["hat"], [[1], [0]]),
        ("a.png\t-1\nc.png\t1e0\n", ["labels"], [[-1], [1]]),
    ],
)
def test_what_is_read(folder: Path, text: str, names: list[str], values: list[list[float]]) -> None:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    labels = read_labels(folder / "labels.csv")
    assert labels.attributes == names and labels.missing == []
    np.testing.assert_array_equal(labels.values, np.array(values, np.float32))
    assert all(path.parent == folder for path in labels.pictures)


def test_missing_pictures_are_counted_and_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    path = tmp_path / "else/labels.csv"
    path.write_text("a.png,1\n" + "".join(f"{number}.png,0\n" for number in range(5)))
    labels = read_labels(path, folder, "hat")
    assert labels.attributes == ["hat"] and labels.pictures == [folder / "a.png"]
    assert labels.missing_notice == "5 picture(s) of the labels are not there: 0.png, 1.png, 2.png and 2 more"
    with pytest.raises(SdicError, match="none of the pictures of .* name their folder with --pictures"):
        read_labels(path)


@pytest.mark.parametrize(("values", "threshold"), [([0, 1, 1], 0.5), ([-1, 1, -1], 0), ([1, 2, 7], 2)])
def test_the_threshold_is_between_the_sides(folder: Path, values: list[float], threshold: float) -> None:
    (folder / "l.csv").write_text("".join(f"{name}.png,{value}\n" for name, value in zip("abc", values, strict=True)))
    assert read_labels(folder / "l.csv").threshold("l") == threshold


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no labels; write a line picture,value for each picture"),
        ("a.png\n", 'line 1: "a.png" has no value'),
        ("a.png,1\nb.png,much\n", 'line 2: "b.png,much" is not a picture and 1 number'),
        ("a.png,1\nb.png,nan\n", 'line 2: "b.png,nan" is not'),
        ("a.png,1,2\nb.png,1\n", 'line 2: "b.png,1" is not a picture and 2 number'),
        ("picture,smile\na.png,1\n", "has 1 different value.* label pictures of both sides"),
    ],
)
def test_what_is_no_label_is_told_with_its_line(folder: Path, text: str, sentence: str) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(SdicError, match=sentence):
        labels = read_labels(folder / "labels.csv")
        labels.threshold(labels.attributes[0])
