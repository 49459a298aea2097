"""A batch in parts: accumulated ones, and those of two processes, give the gradients of the whole."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.loops.run import LOG, RunOptions, read_log, train

WIDTHS = {4: 8, 8: 8, 16: 4}
FIT = GeneratorRecipe(size=16, rate=1e-2, adversarial=0.0, fit=1.0, r1=0.0, path=0.0, mixing=0.0, mapping_factor=100.0, momentum=0.5)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(
    portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path
) -> None:
    weights = []
    for parts in (1, 2):
        trainer = GeneratorTrainer(TINY, FIT, portraits, make_compute(4, accumulate=parts), 3, WIDTHS)
        train(trainer, RunOptions(tmp_path / str(parts), 1))
        weights.append(trainer.generator.convs[0].conv.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-5)


def test_accumulated_parts_give_the_path_length_of_the_whole_batch(portraits: PictureSet, make_compute: Callable[..., Any]) -> None:
    found = []
    for parts in (1, 2, 4):
        recipe = replace(FIT, path=2.0, path_every=1)
        trainer = GeneratorTrainer(TINY, recipe, portraits, make_compute(4, accumulate=parts), 3, WIDTHS)
        losses, gradient = trainer.advance(), trainer.generator.convs[0].conv.weight.grad
        assert gradient is not None
        found.append([losses["path"], float(trainer.path_mean), *gradient.flatten()[:50].tolist()])
    for other in found[1:]:
        assert found[0] == pytest.approx(other, rel=1e-3, abs=1e-5 * max(map(abs, found[0])))


TWO = """
import sys
import time
from pathlib import Path
from types import SimpleNamespace
import torch
torch.set_num_threads(1)
from sdic_train.config import TINY
from sdic_train.data.datasets import open_portraits
from sdic_train.trainers.compute import Compute
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.loops import run
folder = Path(sys.argv[1])
recipe = GeneratorRecipe(size=16, adversarial=1.0, fit=1.0, features=1.0, r1_every=2, path=2.0, path_every=2, mixing=0.0)
pictures = open_portraits(folder / "data", 32, photo=False, seed=1)
trainer = GeneratorTrainer(TINY, recipe, pictures, Compute(8, "cpu"), 4, {4: 8, 8: 8, 16: 4})
run.time = SimpleNamespace(monotonic=lambda: 3 * trainer.compute.rank * trainer.step)  # the clock of the second process goes faster
run.train(trainer, run.RunOptions(folder / sys.argv[2], 4, save_every=2.5, minutes=5 / 60))
run.time = time
"""


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from sdic_train.data.datasets import draw_portraits

    for _ in draw_portraits(tmp_path / "data", 10, 32, photo=False, seed=1, processes=1):
        pass
    (tmp_path / "two.py").write_text(TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = [str(tmp_path / "two.py"), str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    two = subprocess.run([*launcher, *script, "two"], capture_output=True, text=True, check=False, timeout=300)
    assert two.returncode == 0, two.stderr
    monkeypatch.setattr(sys, "argv", [*script, "one"])
    exec(compile(TWO, script[0], "exec"), {})
    whole, shared = read_log(tmp_path / "one" / LOG), read_log(tmp_path / "two" / LOG)
    assert whole.keys() == shared.keys() and len(whole["fit"]) == 4
    for name, values in whole.items():
        assert np.allclose(values, shared[name], rtol=2e-3, atol=1e-5), name
