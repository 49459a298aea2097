"""The contract of a backend: what runs the stages of one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from sdic_runtime.pictures import to_bytes
from sdic_runtime.program import Method, run

Tensor: TypeAlias = Any  # opaque to programs: a numpy array, or whatever the backend keeps on its device


class Backend(ABC):
    """Runs the stages and programs of one method. Safe to call from several threads.

    A tensor returned by `run`, `upload` or `slice` keeps its values for as long as someone holds it: a backend that uses its buffers again
    must copy first. Only `description`, `upload`, `download` and `run` must be given; the rest has defaults that are right for tensors on
    the host.
    """

    name: str = ""  # in the registry
    precision: str = "fp32"  # of the graphs that it runs
    largest_batch: int | None = None  # pictures that it takes at once; None: no limit of its own
    least_away: float = 0.0  # share of a stage's parts that an edit must omit for parts to be faster than the stage
    skips: bool = True  # whether an edit may run the steps alone that read what it moves; False where only whole programs run

    def __init__(self, method: Method) -> None:
        self.method = method

    @property
    @abstractmethod
    def description(self) -> str:
        """What runs and where: "ONNX Runtime 1.31.1, CPUExecutionProvider, fp32"."""

    @property
    def gpu_memory(self) -> int | None:
        """The most bytes of a GPU's memory that it has taken, without what every program there needs; None on the host."""
        return None

    @abstractmethod
    def upload(self, array: np.ndarray) -> Tensor:
        """A float32 host array as a tensor of this backend."""

    @abstractmethod
    def download(self, tensor: Tensor) -> np.ndarray:
        """A tensor of this backend as a float32 host array."""

    @abstractmethod
    def run(self, stage: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Run one stage for the `outputs` asked for; the others need not be computed. Raises BackendError, or OutOfMemoryError."""

    def runs(self, stage: str) -> bool:
        """Whether it runs `stage`, which may be a part of one, see `Method.cuts`."""
        return stage in self.method.stages

    def run_program(self, program: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a program of the method: the tensors that it gives, by name. A backend may do it in another way, such as one CUDA graph."""
        return run(self.method.programs[program], self, tensors)

    def slice(self, tensor: Tensor, pictures: slice) -> Tensor | None:
        """Some pictures of a tensor (axis 0), on the device where it is; None where the backend cannot: the host does it then."""
        return None

    def to_bytes(self, picture: Tensor, rows: tuple[int, int]) -> np.ndarray:
        """uint8 [N, end - first, R, 3] of the `rows` (first, end) of `picture` [N, 3, R, R]; see `pictures.to_bytes`."""
        return to_bytes(self.download(picture), rows)

    def synchronize(self) -> None:  # noqa: B027 - nothing to wait for on the host
        """Wait until everything that was asked of the device is done."""

    def variant(self, stage: str, outputs: Sequence[str]) -> tuple[str, str]:
        """Which graph answers: ("stage" or "stage:output", the variant of it that runs)."""
        return stage, self.precision

    def standard(self) -> Backend | None:
        """The same backend on the standard graphs alone, for checking both; None where it runs no others."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to give back that Python does not
        """Give memory back; nothing of this backend can be used after it."""
