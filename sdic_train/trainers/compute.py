"""Where and how a step is computed: device, mixed precision, gradient accumulation, several processes (Hugging Face Accelerate)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError

Made = TypeVar("Made")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class Compute:
    """One process of a run. Started by `accelerate launch` or `torchrun`, several share every batch and average their gradients.

    `batch`: the whole batch of a step, over all processes and all accumulated parts. `device`: auto, cpu, cuda, cuda:1, ... `precision`:
    the arithmetic of the networks; weights, losses and optimizers stay float32. `accumulate`: parts into which each process cuts its share
    of a batch. Raises ArgumentError.
    """

    def __init__(self, batch: int = 16, device: str = "auto", precision: str = "fp32", accumulate: int = 1) -> None:
        if precision not in PRECISIONS:
            raise ArgumentError(f'the precision "{precision}" is unknown; use {" or ".join(PRECISIONS)}')
        self.batch, self.precision, self.accumulate = batch, precision, accumulate
        self.accelerator: Any = None
        self.failure: Exception | None = None  # of what this process did alone
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.accelerator = _accelerator(device == "cpu" or not torch.cuda.is_available())
        self.processes = self.accelerator.num_processes if self.accelerator else 1
        self.rank = self.accelerator.process_index if self.accelerator else 0
        parts = self.processes * accumulate
        if batch < 1 or accumulate < 1 or batch % parts:
            raise ArgumentError(
                f"the batch of {batch} cannot be cut into {self.processes} processes times {accumulate} parts; use a multiple of {parts}"
            )
        self.device = self.accelerator.device if self.accelerator else _device(device)
        if self.device.type == "cuda" and self.precision == "bf16":  # what autocast leaves in float32
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def alone(self, work: Callable[..., Made], *given: Any) -> Made | None:
        """What `work` makes of what is `given`, which writes files, in the first process; None in the others. Of several processes the
        first does not fail at once, because they would wait for it for ever: all of them fail in `agreed` or `wait`."""
        if not self.main:
            return None
        try:
            return work(*given)
        except Exception as error:
            if self.accelerator is None:
                raise
            self.failure = self.failure or error
            return None

    def autocast(self) -> AbstractContextManager[Any]:
        """The networks' arithmetic."""
        kind = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, kind or torch.bfloat16, enabled=kind is not None)

    def parts(self, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cuts whole-batch tensors [batch, ...] into this process' parts, on the device."""
        size = self.batch // (self.processes * self.accumulate)
        first = self.rank * self.accumulate * size
        for part in range(self.accumulate):
            rows = slice(first + part * size, first + (part + 1) * size)
            yield tuple(None if tensor is None else tensor[rows].to(self.device, non_blocking=True) for tensor in tensors)

    def backward(self, loss: Tensor) -> None:
        """Adds one part's gradient; the parts of a step add up to the gradient of the batch's mean loss."""
        (loss / self.accumulate).backward()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives every process the mean of all processes' gradients."""
        if self.accelerator is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, losses: dict[str, float]) -> dict[str, float]:
        """The losses' means over all processes."""
        if self.accelerator is None:
            return losses
        values = self.accelerator.reduce(torch.tensor(list(losses.values()), device=self.device), reduction="mean")
        return dict(zip(losses, values.tolist(), strict=True))

    def agreed(self, *wishes: bool) -> list[bool]:
        """What the first process wishes, in all of them: their clocks differ, and where one waits for the others all have to. Raises what
        it failed with `alone` there, and FileError in the others."""
        if self.accelerator is None:
            return [*wishes]
        own = [float(wish and self.main) for wish in (*wishes, self.failure is not None)]
        *agreed, failed = (value > 0 for value in self.accelerator.reduce(torch.tensor(own, device=self.device), reduction="sum").tolist())
        if self.failure is not None:
            raise self.failure
        if failed:
            raise FileError("the first of the processes failed, so that all ended; see what it says")
        return agreed

    @property
    def name(self) -> str:
        """What the device is called."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def synchronize(self) -> None:
        """Until the device has computed everything that it was told to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def wait(self) -> None:
        """Until all processes are here. Raises as `agreed` does."""
        self.agreed()


class Losses:
    """Adds up the parts' losses of one step into means over the batch. They stay on the device until `means` reads them, all at once."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.values: dict[str, list[Tensor]] = {}

    def add(self, **losses: Tensor) -> None:
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value.detach().float())

    def means(self) -> dict[str, float]:
        if not self.values:
            return {}
        parts = [part for values in self.values.values() for part in values]
        read = iter(torch.stack(parts).tolist())
        means = {name: sum(next(read) / self.compute.accumulate for _ in values) for name, values in self.values.items()}
        return self.compute.mean(means)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(f'the device "{name}" is unknown; use auto, cpu, cuda or cuda:<number>')
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ArgumentError(f'the device "{name}" is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto')
    return device


def _accelerator(cpu: bool) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training in several processes") from error
    return Accelerator(cpu=cpu)
