"""What an engine is built for: the library, and what is asked of its builder. The defaults stand here and nowhere else."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal

import msgspec

from sdic_runtime.errors import ArgumentError

MEBI = 1 << 20


class _Word(str, Enum):
    """A value that prints as it is typed on a command line."""

    def __str__(self) -> str:
        return str(self.value)


class Target(_Word):
    """One of the two libraries that build and run engines: the name of the backend, and the `--target`."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"

    @property
    def module(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        return "TensorRT" if self is Target.tensorrt else "TensorRT-RTX"

    @property
    def needs_gpu(self) -> bool:
        """Whether a build needs the GPU that its engines will run on."""
        return self is Target.tensorrt

    @classmethod
    def named(cls, name: str) -> Target:
        """Raises ArgumentError for a target that is none."""
        try:
            return cls(name)
        except ValueError:
            raise ArgumentError(f'there is no target "{name}"; use {" or ".join(cls)}') from None


class Hardware(_Word):
    """On which GPUs a TensorRT engine runs."""

    exact = "exact"
    same_capability = "same-capability"
    ampere_plus = "ampere-plus"


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """The batch sizes of an engine: the smallest and the largest it takes, and the one it is fastest at. Raises ArgumentError."""

    smallest: int = 1
    best: int = 1
    largest: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest:
            raise ArgumentError(f"the batch profile is {self}; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,1,4")

    def __str__(self) -> str:
        return f"{self.smallest},{self.best},{self.largest}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read "1,1,4"."""
        try:
            smallest, best, largest = (int(part) for part in text.split(","))
        except ValueError:
            raise ArgumentError(f'the batch profile is "{text}"; give MIN,OPT,MAX such as 1,1,4') from None
        return cls(smallest, best, largest)

    def widened(self, batch: int) -> Profile:
        """One that takes `batch` pictures too."""
        return Profile(min(self.smallest, batch), self.best, max(self.largest, batch))


FOR_ONE = "if no stage is for one picture at a time"  # a condition of building for more; the graphs alone say whether it holds


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the builder. `workspace_bytes` None leaves the limit to the builder."""

    precision: str = "fp16"
    profile: Profile = Profile()
    compute_capabilities: tuple[str, ...] = ()  # TensorRT-RTX alone; () is what it builds for by itself
    hardware: Hardware = Hardware.exact  # TensorRT alone
    weights: Literal["included", "stripped"] = "included"  # stripped: read from the ONNX files at load
    workspace_bytes: int | None = None

    def options(self) -> list[str]:
        """The command-line options that differ from the defaults, so that a command can be repeated."""
        options = [part for capability in self.compute_capabilities for part in ("--compute-capability", capability)]
        for option, name in (("--precision", "precision"), ("--batch", "profile"), ("--hardware", "hardware")):
            if getattr(self, name) != getattr(DEFAULTS, name):
                options += [option, str(getattr(self, name))]
        if self.weights != DEFAULTS.weights:
            options.append("--strip-weights")
        if self.workspace_bytes is not None:
            options += ["--workspace", f"{self.workspace_bytes / MEBI:g}"]
        return options


DEFAULTS = EngineSettings()


def build_command(bundle: Path, target: Target, settings: EngineSettings = DEFAULTS) -> str:
    """The command that builds engines of the bundle at `bundle`."""
    return " ".join(["sdic-export engines", str(bundle), "--target", target, *settings.options()])
