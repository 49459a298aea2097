"""Mutated files of every kind are answered by a sentence or a right result. `make fuzz` runs thousands of them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from fuzz.targets import TARGETS, verdict

CASES = 200
SECONDS = 10.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_answered(name: str, tmp_path: Path) -> None:
    target, faults, kinds = TARGETS[name], [], set()
    for case in range(CASES):
        place = tmp_path / str(case)
        place.mkdir()
        path = target.make(np.random.default_rng([7, case]), place)
        begun = time.perf_counter()
        kind, said = verdict(target.read, path)
        kinds.add(kind)
        if kind == "fault" or time.perf_counter() - begun > SECONDS:
            faults.append((case, said))
        shutil.rmtree(place)
    assert not faults
    assert kinds == {"right", "refused"}, "some mutations matter, and some do not"
