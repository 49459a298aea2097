"""A batch in parts: accumulated ones, and those of two processes, give the gradients of the whole."""

from __future__ import annotations

import os
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

from sdic_runtime.errors import FileError
from sdic_train.config import TINY
from sdic_train.data.datasets import PictureSet
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.loops.run import LOG, RunOptions, read_log, save_state, train

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


FULL = """
import resource
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sdic_runtime.errors import SdicError
from sdic_train.config import TINY
from sdic_train.data.datasets import open_portraits
from sdic_train.trainers.compute import Compute
from sdic_train.trainers.generator import GeneratorRecipe, GeneratorTrainer
from sdic_train.trainers.loops import run
folder, compute = Path(sys.argv[1]), Compute(4, "cpu")
recipe = GeneratorRecipe(size=16, adversarial=0.0, fit=1.0, r1=0.0, path=0.0, mixing=0.0)
trainer = GeneratorTrainer(TINY, recipe, open_portraits(folder / "data", 32, photo=False, seed=1), compute, 4, {4: 8, 8: 8, 16: 4})
if compute.main:
    save = torch.save
    def full(*given):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return save(*given)
    torch.save = full
try:
    run.train(trainer, run.RunOptions(folder / "run", 4, save_steps=2))
except SdicError as error:
    sys.exit(str(error))
"""


def test_what_the_first_process_cannot_write_ends_all_with_a_sentence(tmp_path: Path) -> None:
    """It left the others waiting for it. No launcher looks after them here."""
    pytest.importorskip("accelerate")
    from sdic_train.data.datasets import draw_portraits

    for _ in draw_portraits(tmp_path / "data", 10, 32, photo=False, seed=1, processes=1):
        pass
    (tmp_path / "full.py").write_text(FULL)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, str(tmp_path / "full.py"), str(tmp_path)]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=60)[1].strip().splitlines()[-1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert said[0] == f"cannot write {tmp_path}/run/state.pt: file too large; make room"
    assert said[1] == "the first of the processes failed, so that all ended; see what it says"
    assert [process.returncode for process in started] == [1, 1] and not (tmp_path / "run/state.pt").exists()


def test_a_full_disk_is_a_sentence(portraits: PictureSet, make_compute: Callable[..., Any], tmp_path: Path) -> None:
    """PyTorch and safetensors hide it behind errors of their own."""
    trainer, resource = GeneratorTrainer(TINY, FIT, portraits, make_compute(4), 3, WIDTHS), pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for save, name in ((save_state, "state.pt"), (type(trainer).save, "model.safetensors")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            with pytest.raises(FileError) as told:
                save(trainer, tmp_path if save is save_state else tmp_path / name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(told.value) == f"cannot write {tmp_path / name}: file too large; make room"
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from sdic_train.data.datasets import draw_portraits

    for _ in draw_portraits(tmp_path / "data", 10, 32, photo=False, seed=1, processes=1):
        pass
    (tmp_path / "two.py").write_text(TWO)
    script = [str(tmp_path / "two.py"), str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    two = subprocess.run([*launcher, *script, "two"], capture_output=True, text=True, check=False, timeout=300)
    assert two.returncode == 0, two.stderr
    monkeypatch.setattr(sys, "argv", [*script, "one"])
    exec(compile(TWO, script[0], "exec"), {})
    whole, shared = read_log(tmp_path / "one" / LOG), read_log(tmp_path / "two" / LOG)
    assert whole.keys() == shared.keys() and len(whole["fit"]) == 4
    for name, values in whole.items():
        assert np.allclose(values, shared[name], rtol=2e-3, atol=1e-5), name
