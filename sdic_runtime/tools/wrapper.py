"""A backend around another one, for changing or looking at what passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdic_runtime.backends.base import Backend, Tensor


class Wrapper(Backend):
    """Has the stages run by `inner`, one by one also in a program, so that each of them passes through `run`."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.method)
        self.inner, self.name, self.precision, self.largest_batch = inner, inner.name, inner.precision, inner.largest_batch
        self.skips, self.least_away = inner.skips, inner.least_away

    @property
    def description(self) -> str:
        return self.inner.description

    def upload(self, array: np.ndarray) -> Tensor:
        return self.inner.upload(array)

    def download(self, tensor: Tensor) -> np.ndarray:
        return self.inner.download(tensor)

    def runs(self, stage: str) -> bool:
        return self.inner.runs(stage)

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        return self.inner.run(stage, inputs, outputs)
