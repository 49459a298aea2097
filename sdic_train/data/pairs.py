"""Pairs of pictures, before and after what an edit is to do: a user's own, or portraits drawn twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdic_runtime.errors import ArgumentError, FileError
from sdic_train.data.labels import lines_of, value_of
from sdic_train.portraits.portraits import changed_sample


class Pair(NamedTuple):
    """`before`, `after` [1, 3, S, S] in [-1, 1]. `amount`: how much of the edit lies between them, negative where it is taken away.
    `further`: `before` was on the side of the edit already."""

    before: Tensor
    after: Tensor
    amount: float
    further: bool = False


class PairFiles(NamedTuple):
    """A pair whose pictures lie in files."""

    before: Path
    after: Path
    amount: float


def drawn_pairs(attribute: str, count: int, size: int, seed: int, further: bool = False) -> Iterator[Pair]:
    """Portraits with details, and the same ones with the person on the other side of an attribute, or `further` on the own one: who wears
    glasses keeps them when glasses are put on. Raises ArgumentError."""
    for index in range(count):
        before, after, amount = changed_sample(seed, index, size, attribute, further)
        both = torch.from_numpy(np.stack([before, after]).transpose(0, 3, 1, 2)) / 127.5 - 1
        yield Pair(both[:1], both[1:], amount, further)


def read_pairs(path: Path) -> list[PairFiles]:
    """A CSV file of before,after or before,after,amount: pictures relative to its folder, the amount 1 where there is none. A first line
    may name the columns. Raises FileError and ArgumentError, with the line."""
    pairs = []
    for number, row in lines_of(path, "pairs", "before,after"):
        cells = [cell.strip() for cell in row]
        if number == 1 and cells[:2] == ["before", "after"]:
            continue
        amount = value_of(cells[2]) if len(cells) == 3 else 1.0
        if len(cells) not in (2, 3) or not amount:
            raise FileError(f'{path}, line {number}: "{",".join(row):.60}" is not before,after,amount with an amount but 0')
        pair = PairFiles(path.parent / cells[0], path.parent / cells[1], amount)
        if missing := [picture for picture in pair[:2] if not picture.is_file()]:
            raise ArgumentError(f"{path}, line {number}: there is no {missing[0]}")
        pairs.append(pair)
    if not pairs:
        raise FileError(f"{path} holds no pairs; write a line before,after for each")
    return pairs
