"""Methods in code: their chains on a backend that only writes down what it is asked, against their own stage tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.bundle import DEMO_FOLDER
from sdic_runtime.bundle.manifest import MANIFEST_NAME, parse_manifest
from sdic_runtime.errors import BundleError
from sdic_runtime.program import run
from sdic_train.config import DEMO
from sdic_train.methods import METHODS, method_named

DEMO_MANIFEST = parse_manifest((DEMO_FOLDER / MANIFEST_NAME).read_bytes())


class Names(Backend):
    """A tensor is its name and the number of the step that made it."""

    def __init__(self) -> None:
        super().__init__(DEMO_MANIFEST)
        self.steps: list[tuple[str, dict[str, str], tuple[str, ...]]] = []

    description = "names"

    def upload(self, array: np.ndarray) -> str:
        raise AssertionError

    def download(self, tensor: str) -> np.ndarray:
        raise AssertionError

    def run(self, stage: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
        self.steps.append((stage, dict(inputs), tuple(outputs)))
        return {name: f"{name} of step {len(self.steps)}" for name in outputs}


@pytest.mark.parametrize("program", DEMO_MANIFEST.programs)
def test_the_chains_run_what_the_programs_of_the_demo_say(program: str) -> None:
    method = method_named("sdic")
    takes = method.takes(program)
    tensors = {name: f"given {name}" for name in takes}
    chain, steps = Names(), Names()
    given = method.chains[program](chain, **tensors)
    assert given == run(DEMO_MANIFEST.programs[program], steps, tensors)
    assert chain.steps == steps.steps
    assert takes == DEMO_MANIFEST.programs[program].takes
    assert list(given) == list(DEMO_MANIFEST.programs[program].gives)
    assert method.zeros.get(program, ()) == DEMO_MANIFEST.programs[program].zeros


def test_the_tables_are_those_of_the_demo() -> None:
    method = METHODS["sdic"]
    tables = method.tables(DEMO)
    assert (tables.sizes, tables.tensors, tables.stages) == (DEMO_MANIFEST.sizes, DEMO_MANIFEST.tensors, DEMO_MANIFEST.stages)
    assert (method.name, method.keeps, method.moves) == (DEMO_MANIFEST.method, DEMO_MANIFEST.keeps, DEMO_MANIFEST.moves)
    assert set(method.chains) == set(DEMO_MANIFEST.programs)


def test_an_unknown_method_is_one_sentence() -> None:
    with pytest.raises(BundleError, match=r'^the method "magic" is not known to sdic_train; known are: .*sdic'):
        method_named("magic")
