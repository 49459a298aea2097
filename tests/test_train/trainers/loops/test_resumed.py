"""A run's folder: which runs go on in it, and what one leaves that is stopped while it begins again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sdic_runtime.errors import ArgumentError
from sdic_runtime.files import replacing
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.loops.run import LOG, RECIPE, STATE, RunOptions, read_log, train
from sdic_train.trainers.reader import ReaderRecipe, ReaderTrainer


@pytest.fixture
def reading(portraits: PictureSet, make_compute: Callable[..., Any]) -> Callable[..., ReaderTrainer]:
    def make(**options: Any) -> ReaderTrainer:
        return ReaderTrainer(ReaderRecipe(decay=0.0, **options), portraits, make_compute(2), 2)

    return make


def test_an_option_that_a_run_did_not_have_yet_had_its_default(reading: Callable[..., ReaderTrainer], tmp_path: Path) -> None:
    train(reading(), RunOptions(tmp_path, 1))
    told = json.loads((tmp_path / RECIPE).read_text())
    del told["grain"]
    (tmp_path / RECIPE).write_text(json.dumps(told))
    with pytest.raises(ArgumentError, match=r"holds a run with another grain \(0\.03, now 0\.5\); give the same options, another --out"):
        train(reading(grain=0.5), RunOptions(tmp_path, 2))
    train(reading(), RunOptions(tmp_path, 2))
    assert len(read_log(tmp_path / LOG)["parameters"]) == 2 and json.loads((tmp_path / RECIPE).read_text())["grain"] == 0.03


def test_a_run_that_is_killed_while_it_restarts_leaves_no_state_with_another_recipe(
    reading: Callable[..., ReaderTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(reading(), RunOptions(tmp_path, 1))

    @contextmanager
    def killed_behind(path: Path) -> Iterator[Path]:
        with replacing(path) as temporary:
            yield temporary
        raise KeyboardInterrupt

    monkeypatch.setattr("sdic_train.trainers.loops.run.replacing", killed_behind)
    with pytest.raises(KeyboardInterrupt):
        train(reading(grain=0.5), RunOptions(tmp_path, 2, resume=False))
    assert json.loads((tmp_path / RECIPE).read_text())["grain"] == 0.5 and not (tmp_path / STATE).exists()
