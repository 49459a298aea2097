"""A backend around another one, for looking at what passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdic_runtime.backends.base import Backend, Tensor


class Wrapper(Backend):
    """Passes everything on to `inner`, except that a program always runs stage by stage, so that each of them passes through `run`."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.method)
        self.inner, self.name, self.precision, self.largest_batch = inner, inner.name, inner.precision, inner.largest_batch

    @property
    def description(self) -> str:
        return self.inner.description

    def upload(self, array: np.ndarray) -> Tensor:
        return self.inner.upload(array)

    def download(self, tensor: Tensor) -> np.ndarray:
        return self.inner.download(tensor)

    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        return self.inner.run(stage, inputs, outputs)

    def slice(self, tensor: Tensor, pictures: slice) -> Tensor:
        return self.inner.slice(tensor, pictures)

    def to_bytes(self, picture: Tensor, rows: tuple[int, int]) -> np.ndarray:
        return self.inner.to_bytes(picture, rows)

    def synchronize(self) -> None:
        self.inner.synchronize()

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        return self.inner.variant(stage, outputs)

    def standard(self) -> Backend | None:
        return self.inner.standard()

    def close(self) -> None:
        self.inner.close()
