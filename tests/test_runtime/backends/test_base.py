from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from sdic_runtime.backends.base import Backend
from sdic_runtime.bundle.manifest import first_schema
from sdic_runtime.program import Method

SIZES = {"R": 128, "S": 64, "L": 12, "C": 8, "K": 4}
SDIC = msgspec.convert({**first_schema(), "method": "sdic", "sizes": SIZES}, Method)


class Ones(Backend):
    """The four members that a backend must give, and nothing else."""

    name = "ones"
    description = "ones, on the host"  # type: ignore[assignment]

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def download(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def run(self, stage: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        count = len(next(iter(inputs.values())))
        return {name: np.ones(self.method.shape(name, count), np.float32) for name in outputs}


def test_four_members_are_enough() -> None:
    backend = Ones(SDIC)
    tensors = backend.run_program("invert", {"image": np.zeros((2, 3, 64, 64), np.float32)})
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: SDIC.shape(name, 2) for name in SDIC.keeps}
    assert backend.to_bytes(tensors["picture"], (16, 112)).shape == (2, 96, 128, 3)
    assert backend.to_bytes(tensors["picture"], (16, 112)).min() == 255
    assert (backend.precision, backend.largest_batch, backend.standard()) == ("fp32", None, None) and backend.gpu_memory is None
    assert backend.variant("generator_head", ["rgb"]) == ("generator_head", "fp32")
    assert backend.slice(tensors["picture"], slice(1)) is None, "the host slices where a backend does not"
    backend.synchronize()
    backend.close()


@pytest.mark.parametrize("missing", ["upload", "download", "run", "description"])
def test_a_backend_without_one_of_them_cannot_be_made(missing: str) -> None:
    members: dict[str, Any] = {name: vars(Ones)[name] for name in ("upload", "download", "run", "description") if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Lacking", (Backend,), members)(SDIC)
