"""Pairs of pictures: drawn ones, and a user's file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdic_runtime.errors import ArgumentError, FileError
from sdic_train.data.pairs import PairFiles, drawn_pairs, read_pairs
from sdic_train.portraits.portraits import PARAMETERS, changed_sample, sample


def test_a_portrait_is_drawn_twice_with_one_attribute_on_the_other_side() -> None:
    entry = next(entry for entry in PARAMETERS if entry.name == "age")
    signs = set()
    for index in range(6):
        before, after, amount = changed_sample(3, index, 64, "age")
        photo, person = sample(3, index, 64, photo=True)
        np.testing.assert_array_equal(before, photo)
        age = person["age"] + amount * entry.span
        assert (age > 0.5) != (person["age"] > 0.5) and 0 <= age <= 1
        assert np.abs(before.astype(int) - after).max() > 20 and abs(amount) <= 1
        signs.add(np.sign(amount))
    assert signs == {-1, 1}
    with pytest.raises(ArgumentError, match='"jaw" is no attribute with two sides'):
        changed_sample(3, 0, 64, "jaw")


def test_drawn_pairs_are_tensors_of_the_same_pictures() -> None:
    pairs = list(drawn_pairs("glasses", 2, 64, 3))
    before, after, amount = changed_sample(3, 1, 64, "glasses")
    assert len(pairs) == 2 and pairs[1].amount == amount and pairs[1].before.shape == (1, 3, 64, 64)
    for tensor, picture in ((pairs[1].before, before), (pairs[1].after, after)):
        np.testing.assert_allclose((tensor[0].permute(1, 2, 0).numpy() + 1) * 127.5, picture, atol=1e-4)


def test_who_is_on_the_side_of_an_edit_stays_there() -> None:
    for index in range(6):
        before, after, amount = changed_sample(3, index, 64, "glasses", further=True)
        wears = sample(3, index, 64, photo=True)[1]["glasses"] > 0.5
        assert amount == (1 if wears else -1)
        np.testing.assert_array_equal(before, after)
    pair = next(drawn_pairs("glasses", 1, 64, 3, further=True))
    assert pair.further and torch.equal(pair.before, pair.after)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("text", ["before,after,amount\na.png,b.png,0.5\nb.png,c.png,-2\n", "\ufeffa.png;b.png;0.5\n\nb.png;c.png;-2"])
def test_a_file_of_pairs(folder: Path, text: str) -> None:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    assert read_pairs(path) == [PairFiles(folder / "a.png", folder / "b.png", 0.5), PairFiles(folder / "b.png", folder / "c.png", -2)]
    path.write_text("a.png,c.png\n")
    assert read_pairs(path) == [PairFiles(folder / "a.png", folder / "c.png", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("before,after\n", "holds no pairs"),
        ("a.png\n", 'line 1: "a.png" is not before,after'),
        ("a.png,b.png\na.png,b.png,0\n", 'line 2: "a.png,b.png,0" is not'),
        ("a.png,b.png,nan\n", "with an amount but 0"),
        ("a.png,b.png,much\n", "line 1"),
        ("a.png,b.png,1,2\n", "line 1"),
        ("a.png,z.png\n", "line 1: there is no .*z.png"),
        (b"\xff\xfe\x00a", "is not a text file"),
        ("a.png,b.png," + "1" * 200000, "is not a CSV file of before,after: field larger"),
    ],
)
def test_what_is_no_file_of_pairs_is_told_with_its_line(folder: Path, text: str | bytes, message: str) -> None:
    path = folder / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ArgumentError, FileError), match=message):
        read_pairs(path)
    with pytest.raises(FileError, match="cannot read the pairs"):
        read_pairs(folder / "none.csv")
